"""Evaluating a checkpoint: the same numbers as by hand, molecule by molecule; a foreign vocabulary is refused."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from molcmim import checkpoint, generation
from molcmim.cli import app
from molcmim.data import BucketedBatches, TokenStore
from molcmim.evaluation import evaluate
from molcmim.featurizer import Featurizer
from molcmim.prepare import StoreRecipe, prepare
from molcmim.smiles import canonicalize
from molcmim.tokenizer import Codec, load_tokenizer

MOLECULES = ["CCO", "CC(=O)Oc1ccccc1C(=O)O", "Cn1c(=O)c2c(ncn2C)n(C)c1=O", "C1CCCCC1", "CC(C)Cc1ccc(C(C)C(=O)O)cc1",
             "[Na+].CC(=O)[O-]", "O=C(O)c1ccc(Br)cc1[N+](=O)[O-]"]  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluation")
    (folder / "molecules.smi").write_text("\n".join(MOLECULES) + "\n")
    for notation in ("smiles", "selfies"):
        prepare([folder / "molecules.smi"], folder / notation, notation, workers=1, progress=False)
    return folder / "smiles"


def test_equals_reconstruction_one_by_one(store: Path) -> None:
    report = evaluate("molcmim-small", store, progress=False)
    one_by_one = [generation.reconstruct([smiles])["smiles"][0] for smiles in MOLECULES]
    canonical, _ = canonicalize(MOLECULES)
    assert report["molecules"] == len(MOLECULES)
    exact = [there == back for there, back in zip(canonical, one_by_one, strict=True)]
    assert report["exact_reconstruction"] == pytest.approx(np.mean(exact))
    assert 0 < report["exact_reconstruction"] <= 1
    # The two likelihoods are one sum, over the predicted tokens and over the characters that they spell.
    _, offsets = Codec.of(load_tokenizer("smiles")).encode(canonical)
    tokens, characters = offsets[-1] - len(MOLECULES), len("".join(canonical))
    nats = report["nats_per_token"] * tokens
    assert nats == pytest.approx(report["bits_per_character"] * characters * np.log(2))


def test_command_writes_what_it_prints(store: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["evaluate", "molcmim-small", str(store), "-o", str(tmp_path / "report.json")])
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "report.json").read_text())
    assert report == json.loads(done.stdout[done.stdout.index("{") :])
    assert len(report["weights_sha256"]) == 64


def test_random_spellings_in_canonical_out(store: Path) -> None:
    spelled = StoreRecipe(spellings=3)
    prepare(
        [store.with_name("molecules.smi")], store.with_name("spelled"), "smiles", spelled, workers=1, progress=False
    )
    report = evaluate("molcmim-small", store.with_name("spelled"), progress=False, random_spellings=True)
    held = TokenStore(store.with_name("spelled"))
    tokenizer = load_tokenizer("smiles")
    batches = BucketedBatches(held, len(MOLECULES), mode="invariant", canonical_share=0.0)
    ids, order = batches[0]["input_ids"], batches.molecules(0, 0)
    read = ["".join(tokenizer.convert_ids_to_tokens([i for i in row if i > 2])) for row in ids.tolist()]
    canonical, _ = canonicalize(MOLECULES)
    assert sum(spelling != canonical[row] for spelling, row in zip(read, order, strict=True)) >= len(read) - 2
    assert canonicalize(read)[0] == [canonical[row] for row in order]
    model = Featurizer.from_pretrained("molcmim-small")
    mu = model.featurize(read, canonicalize=False)
    written = generation.decode(mu)["smiles"]
    exact = [back == canonical[row] for back, row in zip(written, order, strict=True)]
    assert report["exact_reconstruction"] == pytest.approx(np.mean(exact))
    with pytest.raises(ValueError, match="needs random spellings"):
        evaluate("molcmim-small", store, progress=False, random_spellings=True)


def test_longer_molecules_than_the_model_reads(tmp_path: Path) -> None:
    (tmp_path / "long.smi").write_text("C" * 300 + "\n")
    prepare([tmp_path / "long.smi"], tmp_path / "store", recipe=StoreRecipe(max_length=512), workers=1, progress=False)
    with pytest.raises(ValueError, match="molecules of up to 302 tokens, molcmim-small reads 256; prepare it again"):
        evaluate("molcmim-small", tmp_path / "store", progress=False)


def test_one_molecule(tmp_path: Path) -> None:
    (tmp_path / "one.smi").write_text("CCO\n")
    prepare([tmp_path / "one.smi"], tmp_path / "store", workers=1, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of the variance of one
        assert evaluate("molcmim-small", tmp_path / "store", progress=False)["mean_cosine"] is None


def test_foreign_vocabulary_is_refused(store: Path) -> None:
    with pytest.raises(ValueError, match="tokenizer 'selfies'"):
        evaluate("molcmim-small", store.with_name("selfies"), progress=False)


def test_a_decoder_that_was_not_trained_is_not_asked(store: Path, tmp_path: Path) -> None:
    model, tokenizer = checkpoint.load("molcmim-small")
    model.config.trained_decoder = False
    facts = checkpoint.read_record(checkpoint.resolve("molcmim-small"))["training"]
    folder = checkpoint.write(model, tokenizer, tmp_path / "contrastive", facts)
    report, whole = (evaluate(one, store, progress=False) for one in (folder, "molcmim-small"))
    decoded = {"exact_reconstruction", "token_accuracy", "nats_per_token", "bits_per_character"}
    assert {name for name, value in report.items() if value is None} - {"descriptor_r2"} == decoded
    assert report["effective_rank"] == whole["effective_rank"]
    assert whole["exact_reconstruction"] is not None
