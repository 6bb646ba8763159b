from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from transformers import AutoModel, AutoTokenizer
from typer.testing import CliRunner

from molcmim import checkpoint
from molcmim.cli import app
from molcmim.config import MolCMIMConfig
from molcmim.generation import reconstruct
from molcmim.model import MolCMIMModel
from molcmim.tokenizer import load_tokenizer, vocab_hash

ROOT = Path(__file__).parents[1]


@pytest.fixture
def folder(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "tiny"))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def same_weights(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_what_is_written_is_loaded(tiny_checkpoint: Path, tmp_path: Path) -> None:
    model, tokenizer = checkpoint.load(tiny_checkpoint)
    assert not model.training
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    again, same = checkpoint.load(checkpoint.write(model, tokenizer, tmp_path / "new" / "copy", {}))
    assert same_weights(model, again)
    assert vocab_hash(same) == vocab_hash(tokenizer)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["copy"]


def test_bfloat16_on_disk_is_float32_in_memory(tiny_checkpoint: Path, tmp_path: Path) -> None:
    model, tokenizer = checkpoint.load(tiny_checkpoint)
    half = checkpoint.write(model, tokenizer, tmp_path / "half", {}, dtype="bfloat16")
    assert (half / "model.safetensors").stat().st_size < 0.6 * (tiny_checkpoint / "model.safetensors").stat().st_size
    loaded, _ = checkpoint.load(half)
    for ours, theirs in zip(model.state_dict().values(), loaded.state_dict().values(), strict=True):
        assert torch.equal(ours.bfloat16().float(), theirs)


def test_large_weights_are_cut(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = checkpoint.load(tiny_checkpoint)
    monkeypatch.setattr(checkpoint, "SHARD_BYTES", 200_000)
    folder = checkpoint.write(model, tokenizer, tmp_path / "cut", {})
    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) > 2
    assert max(path.stat().st_size for path in shards) < 220_000
    assert same_weights(model, checkpoint.load(folder)[0])
    assert same_weights(model, AutoModel.from_pretrained(folder))
    whole, cut = checkpoint.describe(tiny_checkpoint), checkpoint.describe(folder)
    assert cut["parameters"] == whole["parameters"]
    assert cut["bytes"] == sum(path.stat().st_size for path in shards)
    assert cut["weights_sha256"] == hashlib.sha256(b"".join(path.read_bytes() for path in shards)).hexdigest()
    shards[1].write_bytes(shards[1].read_bytes()[:-10])
    with pytest.raises(ValueError, match=rf"cut/{shards[1].name} is damaged: SHA-256"):
        checkpoint.load(folder)
    shards[1].unlink()
    with pytest.raises(FileNotFoundError, match=rf"cut/{shards[1].name} is missing"):
        checkpoint.describe(folder)


def test_transformers_loads_it_too(tiny_checkpoint: Path) -> None:
    model, tokenizer = checkpoint.load(tiny_checkpoint)
    assert same_weights(model, AutoModel.from_pretrained(tiny_checkpoint))
    assert AutoTokenizer.from_pretrained(tiny_checkpoint).get_vocab() == tokenizer.get_vocab()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"tiny/{name} is missing; copy or download"):
        checkpoint.load(folder)


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def flip_a_bit(folder: Path) -> None:
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(bytes(data))


def foreign_tokenizer(folder: Path) -> None:
    load_tokenizer(Path(__file__).parents[1] / "tokenizers" / "selfies").save_pretrained(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, r"tiny/model\.safetensors is damaged: SHA-256 \w{12}\.\.\., .*download the checkpoint again"),
        (flip_a_bit, r"tiny/model\.safetensors is damaged"),
        (lambda f: edit(f / "config.json", heads=2), r"tiny/config\.json is damaged: SHA-256"),
        (
            lambda f: edit(f / "tokenizer_config.json", notation="selfies"),
            r"tiny/tokenizer_config\.json is damaged",
        ),
        (lambda f: (f / "tokenizer.json").write_text("{"), r"the tokenizer in .*tiny is damaged \(.*; copy it again"),
        (foreign_tokenizer, r"the tokenizer in .*tiny has another vocabulary .*copy or download"),
        (lambda f: edit(f / "checkpoint.json", format_version=3), r"tiny has checkpoint format 3, .*upgrade molcmim"),
        (
            lambda f: edit(f / "checkpoint.json", format_version=1),
            r"tiny has checkpoint format 1, now 2; write it",
        ),
        (lambda f: edit(f / "checkpoint.json", format_version="new"), r"tiny/checkpoint\.json is damaged"),
        (lambda f: (f / "checkpoint.json").write_text("{"), r"tiny/checkpoint\.json is damaged"),
        (lambda f: (f / "checkpoint.json").write_text("{}"), r"tiny/checkpoint\.json is damaged"),
        (lambda f: (f / "checkpoint.json").write_text("[]"), r"tiny/checkpoint\.json is damaged"),
    ],
)
def test_damage_is_one_clear_error(folder: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(folder)
    with pytest.raises(ValueError, match=message):
        checkpoint.load(folder)


def test_names_are_looked_for_at_home(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MOLCMIM_HOME", str(tmp_path))
    assert checkpoint.resolve("tiny") == folder
    (tmp_path / "checkpoints").mkdir()
    moved = folder.rename(tmp_path / "checkpoints" / "tiny")
    assert checkpoint.resolve("tiny") == moved
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError) as error:
        checkpoint.resolve(tmp_path / "empty")
    assert "empty: no checkpoint.json in it but nothing" in str(error.value)
    assert f"tiny ({moved})" in str(error.value)
    with pytest.raises(FileNotFoundError, match=r"(?s)no checkpoint 'other'; looked at\n  other: not there\n"):
        checkpoint.resolve("other")


def test_a_failed_write_leaves_the_old_checkpoint(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = checkpoint.load(folder)
    monkeypatch.setattr(safetensors.torch, "save_file", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        checkpoint.write(model, tokenizer, folder, {})
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]
    assert same_weights(model, checkpoint.load(folder)[0])


@pytest.mark.parametrize("name", ["mps", "xpu", "cuda:99", "gpu"])
def test_a_device_that_is_not_here(name: str) -> None:
    with pytest.raises(ValueError, match=f"no device {name}|must be one that torch knows"):
        checkpoint.device_of(name)


def test_only_what_belongs_together_is_written(tiny_checkpoint: Path, tmp_path: Path) -> None:
    model, tokenizer = checkpoint.load(tiny_checkpoint)
    with pytest.raises(ValueError, match="dtype must be one of float32, bfloat16, got 'int8'"):
        checkpoint.write(model, tokenizer, tmp_path / "x", {}, dtype="int8")
    with pytest.raises(ValueError, match="another vocabulary"):
        checkpoint.write(MolCMIMModel(MolCMIMConfig.named("tiny")), tokenizer, tmp_path / "x", {})
    assert not list(tmp_path.iterdir())
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match="is no checkpoint"):
        checkpoint.write(model, tokenizer, tmp_path, {})


def test_info(tiny_checkpoint: Path) -> None:
    model, _ = checkpoint.load(tiny_checkpoint)
    facts = checkpoint.describe(tiny_checkpoint)
    assert facts["parameters"] == sum(weight.numel() for weight in model.parameters())
    assert facts["embedding_dims"] == {"mean": 32, "informative": 64, "both": 96}
    assert facts["training"]["steps"] == 0
    run = CliRunner().invoke(app, ["info", str(tiny_checkpoint), "--json"])
    assert json.loads(run.output) == facts
    table = CliRunner().invoke(app, ["info", str(tiny_checkpoint)]).output
    assert f"parameters                {facts['parameters']:,}\n" in table
    assert f"weights sha256            {facts['weights_sha256']}\n" in table
    missing = CliRunner().invoke(app, ["info", "nowhere"])
    assert missing.exit_code == 1
    assert missing.stderr.startswith("molcmim: no checkpoint 'nowhere'; looked at\n")


def test_weights_that_are_half_there_are_not_described(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"tiny/model\.safetensors is damaged .* copy or download"):
        checkpoint.describe(folder)


def test_the_table_names_each_fact() -> None:
    stages = [{"from_step": 0, "steps": 300}, {"from_step": 300, "steps": 400}]
    lines = checkpoint.as_table({"steps": 400, "training": {"stages": stages}}).splitlines()
    assert lines == [
        f"{'steps':<26}400",
        "training",
        "  stages",
        "    from step 0  steps 300",
        "    from step 300  steps 400",
    ]


@pytest.mark.parametrize("name", sorted(path.parent.name for path in ROOT.glob("checkpoints/*/checkpoint.json")))
def test_what_is_released_is_whole(name: str) -> None:
    folder = ROOT / "checkpoints" / name
    checkpoint.load(folder)
    evaluation = json.loads((folder / "evaluation.json").read_text())
    assert evaluation["weights_sha256"] == checkpoint.read_record(folder)["weights_sha256"]
    assert evaluation["checkpoint"] == name
    assert f"{evaluation['exact_reconstruction']:.1%}".replace("%", " %") in (folder / "README.md").read_text()
    drugs = ["CC(=O)Oc1ccccc1C(=O)O", "Cn1c(=O)c2c(ncn2C)n(C)c1=O", "CC(C)Cc1ccc(C(C)C(=O)O)cc1"]
    assert reconstruct(drugs, checkpoint=str(folder))["smiles"].tolist() == drugs
