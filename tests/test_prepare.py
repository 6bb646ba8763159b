"""Preparing a token store: every row accounted for, the same bytes however it is done, nothing half-made."""

from __future__ import annotations

import csv
import gzip
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pandas as pd
import pytest
from rdkit import Chem
from typer.testing import CliRunner

from molcmim import prepare as pp
from molcmim import smiles, tokenizer
from molcmim.cli import app
from molcmim.data import DESCRIPTORS, MANIFEST, OFFSETS, TOKENIZER, TOKENS, StoreManifest, TokenStore
from molcmim.pretrain import pretrain
from molcmim.recipe import Recipe

GOOD = [
    *["CCO", "OCC", "c1ccccc1C(=O)O", "C[C@H](N)C(=O)O", "[Na+].[O-]C(=O)C", "FC(F)(F)c1ccc(Br)cc1Cl"],
    *[
        "CC(=O)Oc1ccccc1C(=O)O",
        "CN1C=NC2=C1C(=O)N(C(=O)N2C)C",
        "C/C=C/C",
        "O=S(=O)(N)c1ccccc1",
        "[13CH4]",
        "I",
    ],
]
BAD = ["C1CC", "nonsense", "C(C)(C)(C)(C)C"]


def bytes_of(store):
    return {name: (store / name).read_bytes() for name in (TOKENS, OFFSETS, DESCRIPTORS) if (store / name).exists()}


def spellings(store):
    """The strings of a store, one list a molecule."""
    opened = TokenStore(store)
    tok = tokenizer.load_tokenizer(opened.manifest.notation)
    ids, lengths = opened.gather(np.arange(len(opened) * opened.manifest.spellings))
    rows = [row[:n] for row, n in zip(ids.tolist(), lengths, strict=True)]
    strings = tok.batch_decode(rows, skip_special_tokens=True)
    k = opened.manifest.spellings
    return [strings[i : i + k] for i in range(0, len(strings), k)]


def rejects(store):
    with open(store / pp.REJECTS, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def molecules(shared_data):
    with gzip.open(shared_data / "corpus" / "valid.smi.gz", "rt") as file:
        return [next(file).strip() for _ in range(300)]


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(pp, "CHUNK_ROWS", 64)


def write(path, rows):
    path.write_text("\n".join(rows) + "\n")
    return path


def test_what_is_stored(tmp_path):
    recipe = pp.StoreRecipe(spellings=2, descriptors=True)
    manifest = pp.prepare([write(tmp_path / "a.smi", GOOD)], tmp_path / "s", recipe=recipe, workers=1, progress=False)
    store = TokenStore(tmp_path / "s")
    assert store.manifest == manifest == StoreManifest.load(tmp_path / "s")
    assert store.tokens.dtype == np.uint8
    assert manifest.vocab_hash == tokenizer.vocab_hash(tokenizer.load_tokenizer("smiles"))
    assert manifest.num_tokens == len(store.tokens) == store.lengths.sum()
    assert manifest.max_tokens == store.lengths.max()
    assert manifest.sources[0]["file"] == "a.smi"
    assert manifest.descriptor_names == list(smiles.DESCRIPTOR_NAMES)
    for text, (canonical, *others) in zip(GOOD, spellings(tmp_path / "s"), strict=True):
        assert canonical == Chem.CanonSmiles(text)
        assert len(others) == 2
        assert {Chem.CanonSmiles(other) for other in others} == {canonical}
    raw = np.array([smiles.descriptors(Chem.MolFromSmiles(text)) for text in GOOD])
    np.testing.assert_allclose(store.raw_descriptors, raw, rtol=1e-5)
    np.testing.assert_allclose(manifest.descriptor_mean, raw.mean(0, dtype=float), rtol=1e-5, atol=1e-6)
    std = raw.std(0, dtype=float)
    np.testing.assert_allclose(manifest.descriptor_std, np.where(std > 0, std, 1), rtol=1e-5, atol=1e-6)


def test_moments_of_chunks_are_those_of_the_whole():
    rows = np.random.default_rng(0).normal(1e3, 2.0, (1000, 4)).astype(np.float32)
    rows[:, 3] = 7
    moments = pp._Moments(4)
    for part in np.split(rows, [0, 1, 10, 500]):
        moments.add(part)
    np.testing.assert_allclose(moments.mean, rows.mean(0, dtype=float), rtol=1e-12)
    np.testing.assert_allclose(moments.std, [*rows[:, :3].std(0, dtype=float), 1.0], rtol=1e-9)


def test_workers_and_file_formats_do_not_matter(tmp_path, molecules):
    frame = pd.DataFrame({"id": range(len(molecules)), "smiles": molecules})
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_csv(tmp_path / "a.csv.gz", index=False)
    frame.to_csv(tmp_path / "a.tsv", index=False, sep="\t")
    frame.to_parquet(tmp_path / "a.parquet", index=False)
    write(tmp_path / "a.smi", molecules)
    with gzip.open(tmp_path / "a.smi.gz", "wt") as file:
        file.write("\n".join(molecules))
    recipe = pp.StoreRecipe(spellings=1, join_share=0.1)
    stores = [
        pp.prepare(
            [tmp_path / name],
            tmp_path / f"of-{name}-{workers}",
            recipe=recipe,
            workers=workers,
            progress=False,
        )
        and bytes_of(tmp_path / f"of-{name}-{workers}")
        for name, workers in [
            *[("a.smi", 1), ("a.smi.gz", 1), ("a.csv", 1), ("a.csv.gz", 1), ("a.tsv", 1), ("a.parquet", 1)],
        ]
    ]
    assert all(store == stores[0] for store in stores)


def test_two_workers_write_the_bytes_of_one(tmp_path, molecules, small_chunks):
    source = write(tmp_path / "a.smi", molecules + BAD)
    recipe = pp.StoreRecipe(spellings=2, descriptors=True, join_share=0.1)
    for workers in (1, 2):
        pp.prepare([source, source], tmp_path / f"{workers}", recipe=recipe, workers=workers, progress=False)
    assert bytes_of(tmp_path / "1") == bytes_of(tmp_path / "2")
    for name in (MANIFEST, pp.REJECTS):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
    pp.prepare([source], tmp_path / "3", recipe=recipe._replace(seed=1), workers=1, progress=False)
    first, other = spellings(tmp_path / "1"), spellings(tmp_path / "3")
    assert first[0][0] == other[0][0]
    assert first[:50] != other[:50]


def test_every_row_is_stored_or_rejected(tmp_path, small_chunks):
    rows = (GOOD * 10 + BAD * 3) * 3
    long = "C" * 300
    source = write(tmp_path / "a.csv", ["smiles", *rows[:200], long, *rows[200:]])
    more = write(tmp_path / "b.smi", [*BAD, "CC"])
    manifest = pp.prepare([source, more], tmp_path / "s", workers=1, progress=False)
    listed = rejects(tmp_path / "s")
    assert manifest.rejected == len(listed) == 3 * 9 + 1 + 3
    assert manifest.num_molecules + manifest.rejected == len(rows) + 1 + 4
    everything = [*rows[:200], long, *rows[200:]]
    for entry in listed:
        texts = everything if entry["file"] == str(source) else [*BAD, "CC"]
        assert texts[int(entry["row"]) - 1] == entry["text"]
    (too_long,) = [entry for entry in listed if entry["text"] == long]
    assert too_long["reason"] == "302 tokens, more than the 256 that max_length allows"
    assert all(entry["reason"] for entry in listed)
    assert [s for (s,) in spellings(tmp_path / "s")] == [Chem.CanonSmiles(r) for r in [*rows, "CC"] if r not in BAD]


def test_joined_pairs(tmp_path, molecules, small_chunks):
    source = write(tmp_path / "a.smi", molecules)
    recipe = pp.StoreRecipe(spellings=1, join_share=0.2)
    manifest = pp.prepare([source], tmp_path / "s", recipe=recipe, workers=1, progress=False)
    assert manifest.num_molecules == len(molecules) + manifest.joined
    assert 0.17 * len(molecules) < manifest.joined < 0.23 * len(molecules)
    canonical = {Chem.CanonSmiles(s) for s in molecules}
    pairs = [strings for strings in spellings(tmp_path / "s") if strings[0] not in canonical]
    assert len(pairs) == manifest.joined
    for first, second in pairs:
        assert set(first.split(".")) <= canonical
        assert first == Chem.CanonSmiles(first) == Chem.CanonSmiles(second)


def test_pairs_over_the_limit_are_left_out_and_not_rejected(tmp_path):
    source = write(tmp_path / "a.smi", ["C" * 6, "N" + "C" * 5])
    recipe = pp.StoreRecipe(join_share=1.0, max_length=10)
    manifest = pp.prepare([source], tmp_path / "s", recipe=recipe, workers=1, progress=False)
    assert (manifest.num_molecules, manifest.joined, manifest.rejected) == (2, 0, 0)


def test_a_random_spelling_over_the_limit_gives_way_to_the_canonical(tmp_path):
    text = "CC(C)(C)c1ccc2c(c1)C(C)(C)CC2"
    limit = len(Chem.CanonSmiles(text)) + 2
    recipe = pp.StoreRecipe(spellings=20, max_length=limit)
    pp.prepare([write(tmp_path / "a.smi", [text])], tmp_path / "s", recipe=recipe, workers=1, progress=False)
    assert TokenStore(tmp_path / "s").manifest.max_tokens <= limit
    assert len(set(spellings(tmp_path / "s")[0])) > 1


def test_standardize(tmp_path):
    source = write(tmp_path / "a.smi", ["[Na+].[O-]C(=O)CC"])
    pp.prepare([source], tmp_path / "s", recipe=pp.StoreRecipe(standardize=True), workers=1, progress=False)
    assert spellings(tmp_path / "s") == [["CCC(=O)O"]]


def test_selfies(tmp_path):
    source = write(tmp_path / "a.smi", [*GOOD, "CC*"])
    manifest = pp.prepare([source], tmp_path / "s", "selfies", pp.StoreRecipe(spellings=1), workers=1, progress=False)
    assert manifest.notation == "selfies"
    for text, strings in zip(GOOD, spellings(tmp_path / "s"), strict=True):
        for string in strings:
            assert Chem.CanonSmiles(tokenizer.selfies_to_smiles(string)) == Chem.CanonSmiles(text)
    (reject,) = rejects(tmp_path / "s")
    assert (reject["text"], reject["reason"][:11]) == ("CC*", "no SELFIES:")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_is_piped_is_read_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.smi")
    writer = threading.Thread(target=(tmp_path / "pipe.smi").write_text, args=["CCO\nCCN\nCCC\n"])
    writer.start()
    manifest = pp.prepare([tmp_path / "pipe.smi"], tmp_path / "s", workers=1, progress=False)
    writer.join()
    assert manifest.num_molecules == 3
    assert manifest.sources == [{"file": "pipe.smi", "sha256": ""}]


def test_a_store_holds_its_tokenizer(tmp_path):
    source = write(tmp_path / "a.smi", ["CCO", "c1ccccc1", "CCN", "CCl"] * 5)
    pp.build_tokenizer([source], tmp_path / "mine")
    manifest = pp.prepare([source], tmp_path / "s", tmp_path / "mine", workers=1, progress=False)
    shutil.rmtree(tmp_path / "mine")
    copy = tokenizer.load_tokenizer(tmp_path / "s" / TOKENIZER)
    assert tokenizer.vocab_hash(copy) == manifest.vocab_hash
    recipe = Recipe.load("tiny", steps=1, warmup_steps=0, batch_size=2, mode="canonical", chemistry_factor=False)
    model = pretrain(tmp_path / "s", tmp_path / "s", tmp_path / "run", recipe)
    assert tokenizer.vocab_hash(tokenizer.load_tokenizer(model)) == manifest.vocab_hash


def test_an_existing_store_is_not_touched(tmp_path):
    source = write(tmp_path / "a.smi", GOOD)
    (tmp_path / "s").mkdir()
    with pytest.raises(FileExistsError, match="remove it"):
        pp.prepare([source], tmp_path / "s", workers=1, progress=False)


def test_nothing_is_left_of_a_failure(tmp_path):
    with pytest.raises(ValueError, match=r"no molecule in .*a\.smi; the last reject: .*valence"):
        pp.prepare([write(tmp_path / "a.smi", BAD)], tmp_path / "s", workers=1, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["a.smi"]


@pytest.mark.parametrize(
    "recipe", [pp.StoreRecipe(join_share=1.5), pp.StoreRecipe(spellings=-1), pp.StoreRecipe(max_length=2)]
)
def test_a_recipe_out_of_range(tmp_path, recipe):
    with pytest.raises(ValueError, match="join_share must be"):
        pp.prepare([write(tmp_path / "a.smi", GOOD)], tmp_path / "s", recipe=recipe, progress=False)


def children(pid):
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(word) for word in listed.stdout.split()]


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.skipif(sys.platform != "linux", reason="looks for child processes with ps")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_preparation_leaves_no_store_and_no_process(tmp_path, molecules, how):
    source = write(tmp_path / "a.smi", molecules * 400)
    command = [sys.executable, "-m", "molcmim.cli", "prepare", str(source), "-o", str(tmp_path / "out" / "s")]
    with subprocess.Popen([*command, "--workers", "2"], stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not any(tokens.stat().st_size for tokens in tmp_path.glob(f"out/.s.partial-*/{TOKENS}")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        workers = children(process.pid)
        process.send_signal(how)
    assert len(workers) >= 2
    left = [path.name for path in (tmp_path / "out").iterdir()]
    if how == signal.SIGTERM:  # what batch systems send first ends it in order
        assert (process.returncode, left) == (143, [])
    else:
        assert len(left) == 1
        assert left[0].startswith(".s.partial-")
        assert not (tmp_path / "out" / left[0] / MANIFEST).exists()
    while any(map(alive, workers)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process's memory is read from /proc")
def test_memory_does_not_grow_with_the_input(tmp_path):
    def peak(rows):
        with open(tmp_path / f"{rows}.smi", "w") as file:
            file.writelines(f"\u03b1{'C' * 400}{i}\n" if i % 10 else "CCO\n" for i in range(rows))
        code = (
            "import sys; from pathlib import Path; from molcmim.prepare import prepare;"
            "m = prepare(sys.argv[1:2], sys.argv[2], workers=1, progress=False);"
            "hwm = Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0];"  # its own
            "print(m.num_molecules + m.rejected, hwm)"
        )
        command = [sys.executable, "-c", code, str(tmp_path / f"{rows}.smi"), str(tmp_path / str(rows))]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        handled, kilobytes = map(int, out.split())
        assert handled == rows
        return kilobytes / 1e3

    small, large = peak(20_000), peak(120_000)
    assert large < 1000
    assert large - small < 60  # kept, the 100,000 more rows would take 80 MB as strings


def test_command_line(tmp_path):
    write(tmp_path / "a.smi", [*GOOD, *BAD])
    out = CliRunner().invoke(
        app,
        ["prepare", str(tmp_path / "a.smi"), "-o", str(tmp_path / "s"), "--spellings", "1", "--workers", "1"],
    )
    assert out.exit_code == 0
    assert "12 molecules (0 joined)" in out.output
    assert "3 rows rejected" in out.output
    assert len(TokenStore(tmp_path / "s")) == len(GOOD)


def test_build_tokenizer_command(tmp_path):
    write(tmp_path / "a.smi", ["C[Si](C)C"] * 5 + ["CC*", "C[Fe]C"])
    for notation, symbol in (("smiles", "[Si]"), ("selfies", "[Branch1]")):
        out = CliRunner().invoke(
            app,
            [
                "build-tokenizer",
                str(tmp_path / "a.smi"),
                "-o",
                str(tmp_path / notation),
                "--notation",
                notation,
            ],
        )
        assert out.exit_code == 0
        built = tokenizer.load_tokenizer(tmp_path / notation)
        assert tokenizer.notation_of(built) == notation
        assert built.tokenize(symbol) == [symbol]


def test_what_a_tokenizer_is_not_built_from(tmp_path):
    pd.DataFrame({"smiles": ["CCO", None, "CCN"] * 5}).to_parquet(tmp_path / "a.parquet")
    assert pp.build_tokenizer([tmp_path / "a.parquet"], tmp_path / "built") > 0
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match="is a file; name a folder"):
        pp.build_tokenizer([tmp_path / "a.parquet"], tmp_path / "file")
    with pytest.raises(ValueError, match="limit must be at least 1, got -1"):
        pp.build_tokenizer([tmp_path / "a.parquet"], tmp_path / "other", limit=-1)
