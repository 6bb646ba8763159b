from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from stores import MOLECULES
from typer.testing import CliRunner

from molcmim import Featurizer, bulk
from molcmim.cli import app
from molcmim.sklearn import MolCMIMTransformer

FRAME = pd.DataFrame(
    {
        "id": [f"m{i}" for i in range(100)],
        "SMILES": [*(text for text, _ in MOLECULES), *(other for _, other in MOLECULES), "C1CC", "", "C" * 300, "O"],
        "note": [f"a, {i}" for i in range(100)],
    }
)
BAD = {96: "unclosed ring", 97: "empty string", 98: "302 tokens; the model reads 256 at most"}


class Output(NamedTuple):
    frame: pd.DataFrame
    X: np.ndarray
    metadata: dict[str, Any]


def write(path: Path, frame: pd.DataFrame = FRAME) -> Path:
    suffix = path.suffixes[0]
    if suffix == ".parquet":
        frame.to_parquet(path, index=False)
        return path
    if suffix == ".smi":
        text = "".join(f"{a} {b}\n" if a else "\n" for a, b in zip(frame["SMILES"], frame["id"], strict=True))
    else:
        text = frame.to_csv(index=False, sep="\t" if suffix == ".tsv" else ",")
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def read(path: Path) -> Output:
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        X = np.stack(table.column("embedding").to_pylist()).astype(np.float32)
        return Output(table.drop(["embedding"]).to_pandas(), X, json.loads(table.schema.metadata[b"molcmim"]))
    metadata = json.loads(Path(f"{path}.json").read_text())
    if path.suffix == ".npy":
        return Output(pd.DataFrame(), np.load(path), metadata)
    frame = pd.read_csv(
        path, sep="\t" if path.suffix == ".tsv" else ",", keep_default_na=False, na_values={"error": ""}
    )
    wide = [name for name in frame.columns if name[0] == "e" and name[1:].isdigit()]
    assert wide == [f"e{i}" for i in range(len(wide))]
    X = frame[wide].replace("", np.nan).to_numpy(np.float32)
    return Output(frame.drop(columns=wide), X, metadata)


def command(*arguments: object, **options: Any) -> Any:
    return CliRunner().invoke(app, ["featurize", *map(str, arguments)], **options)


@pytest.fixture(scope="module")
def expected(tiny_checkpoint: Path) -> dict[str, np.ndarray]:
    tiny = Featurizer.from_pretrained(tiny_checkpoint, "cpu")
    return {name: tiny.featurize(FRAME["SMILES"], name, on_error="nan") for name in ("mean", "both")}


def same(X: np.ndarray, Y: np.ndarray) -> bool:
    return X.shape == Y.shape and bool(np.allclose(X, Y, rtol=0, atol=1e-5, equal_nan=True))


@pytest.mark.parametrize("name", ["in.smi", "in.csv", "in.tsv", "in.parquet", "in.smi.gz", "in.csv.gz", "in.tsv.gz"])
def test_every_input(tiny_checkpoint: Path, tmp_path: Path, expected: dict[str, np.ndarray], name: str) -> None:
    output = tmp_path / "out.parquet"
    summary = bulk.featurize_file(write(tmp_path / name), output, tiny_checkpoint, chunk_rows=30, workers=0)
    assert summary == (100, 3, False)
    frame, X, metadata = read(output)
    assert same(X, expected["mean"])
    reasons = dict(frame["error"].dropna())
    assert reasons.keys() == BAD.keys()
    assert reasons[96] == BAD[96]
    if ".smi" in name:
        assert frame["name"].drop(97).tolist() == FRAME["id"].drop(97).tolist()  # a line without SMILES is blank
    else:
        pd.testing.assert_frame_equal(frame[["id", "SMILES", "note"]], FRAME, check_dtype=False)
    assert {
        "input": name,
        "embedding": "mean",
        "dim": 32,
        "precision": "float32",
        "rows": 100,
        "bad_rows": 3,
    }.items() <= (metadata.items())
    record = json.loads((tiny_checkpoint / "checkpoint.json").read_text())
    assert metadata["weights_sha256"] == record["weights_sha256"]
    assert metadata["versions"].keys() == {"molcmim", "torch", "transformers", "python", "rdkit"}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "out.parquet"])


@pytest.mark.parametrize("name", ["out.parquet", "out.csv", "out.tsv", "out.npy"])
def test_every_output(tiny_checkpoint: Path, tmp_path: Path, expected: dict[str, np.ndarray], name: str) -> None:
    source, output = write(tmp_path / "in.csv"), tmp_path / name
    bulk.featurize_file(source, output, tiny_checkpoint, "both", chunk_rows=7, workers=0)
    frame, X, metadata = read(output)
    assert X.dtype == np.float32
    assert same(X, expected["both"])
    if name == "out.npy":
        assert metadata["errors"] == {str(row): reason for row, reason in BAD.items()}
    else:
        assert frame.columns.tolist() == ["id", "SMILES", "note", "error"]
        assert frame["SMILES"].tolist() == FRAME["SMILES"].tolist()
        assert dict(frame["error"].dropna()) == BAD


@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
def test_descriptors_have_their_names(tmp_path: Path, name: str) -> None:
    FRAME[:5].to_csv(tmp_path / "in.csv", index=False)
    bulk.featurize_file(tmp_path / "in.csv", tmp_path / name, embedding="descriptors", workers=0)
    found = pd.read_csv(tmp_path / name) if name == "out.csv" else pd.read_parquet(tmp_path / name)
    assert list(found)[4:] == list(MolCMIMTransformer("molcmim-small", "descriptors").get_feature_names_out())
    X = Featurizer.from_pretrained().featurize(FRAME["SMILES"][:5], "descriptors", on_error="nan")
    np.testing.assert_allclose(found.iloc[:, 4:], X, atol=1e-5)


def test_precision(tiny_checkpoint: Path, tmp_path: Path, expected: dict[str, np.ndarray]) -> None:
    source, output = write(tmp_path / "in.csv"), tmp_path / "out.parquet"
    bulk.featurize_file(source, output, tiny_checkpoint, precision="bfloat16", workers=0)
    _, X, metadata = read(output)
    assert metadata["precision"] == "bfloat16"
    assert not same(X, expected["mean"])
    assert np.nanmax(np.abs(X - expected["mean"])) < 0.1


def test_workers_change_nothing(tiny_checkpoint: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "in.csv")
    for workers in (0, 2):
        bulk.featurize_file(source, tmp_path / f"{workers}.parquet", tiny_checkpoint, chunk_rows=9, workers=workers)
    assert (tmp_path / "0.parquet").read_bytes() == (tmp_path / "2.parquet").read_bytes()


def test_command_line(tiny_checkpoint: Path, tmp_path: Path, expected: dict[str, np.ndarray]) -> None:
    source, model = write(tmp_path / "in.csv"), ["--checkpoint", tiny_checkpoint, "--workers", "0"]
    run = command(source, "-o", tmp_path / "a.npy", *model)
    assert (run.exit_code, run.stdout) == (0, "")
    assert "100 rows, 3 of them bad (reasons are in the output)" in run.stderr
    run = command(source, "-o", tmp_path / "a.npy", *model)
    assert (run.exit_code, run.stdout) == (0, "")
    assert "100 rows, 3 of them bad (was there already) (reasons" in run.stderr
    run = command(source, "-o", tmp_path / "b.npy", "--strict", "--embedding", "both", *model)
    assert run.exit_code == 2
    assert same(read(tmp_path / "b.npy").X, expected["both"])
    good = write(tmp_path / "good.csv", FRAME[:50])
    assert command(good, "-o", tmp_path / "c.npy", "--strict", *model).exit_code == 0


def test_standard_input(
    tiny_checkpoint: Path, tmp_path: Path, expected: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    text, model = FRAME.to_csv(index=False), ["--checkpoint", tiny_checkpoint, "--workers", "0"]
    assert command("-", "-o", tmp_path / "a.parquet", *model, input=text).exit_code == 0
    assert same(read(tmp_path / "a.parquet").X, expected["mean"])
    for name, packed in (("pipe.csv", "cat"), ("pipe.csv.gz", "gzip")):  # what is compressed is known by its name
        os.mkfifo(tmp_path / name)
        shell = ["/bin/sh", "-c", f'{packed} > "$0"', tmp_path / name]
        with subprocess.Popen(shell, stdin=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None
            process.stdin.write(text)
            process.stdin.close()
            assert command(tmp_path / name, "-o", tmp_path / f"{name}.npy", *model).exit_code == 0
        assert same(read(tmp_path / f"{name}.npy").X, expected["mean"])
    lines = "\n".join(FRAME["SMILES"])
    assert command("-", "-o", tmp_path / "b.npy", "--format", "smi", *model, input=lines).exit_code == 0
    assert same(read(tmp_path / "b.npy").X, expected["mean"])
    assert not list(tmp_path.glob(".*"))


def test_as_written_and_standardized(tiny_checkpoint: Path, tmp_path: Path) -> None:
    tiny = Featurizer.from_pretrained(tiny_checkpoint, "cpu")
    texts = ["OCC", "[Na+].CC(=O)[O-]"]
    source = write(tmp_path / "in.csv", pd.DataFrame({"SMILES": texts}))
    for name, flag, options in (
        ("a", "--no-canonicalize", {"canonicalize": False}),
        ("b", "--standardize", {"standardize": True}),
        ("c", "--spellings=3", {"spellings": 3}),
    ):
        run = command(source, "-o", tmp_path / f"{name}.npy", flag, "--checkpoint", tiny_checkpoint, "--workers", "1")
        assert run.exit_code == 0
        assert np.array_equal(np.load(tmp_path / f"{name}.npy"), tiny.featurize(texts, **options))


def big(path: Path) -> Path:
    """960 different molecules, 96 chunks of 10."""
    pairs = [f"{a}.{b}" for _, a in MOLECULES for _, b in MOLECULES[:20]]
    pairs[77] = "C1CC"
    return write(path, pd.DataFrame({"SMILES": pairs}))


KILLED = """
import sys
from molcmim.bulk import featurize_file
featurize_file(sys.argv[1], sys.argv[2], sys.argv[3], chunk_rows=10, workers=1)
"""


def test_a_killed_run_resumes(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, output, partial = big(tmp_path / "in.csv"), tmp_path / "out.parquet", tmp_path / ".out.parquet.partial"
    script = tmp_path / "run.py"
    script.write_text(KILLED)
    with subprocess.Popen([sys.executable, script, source, output, tiny_checkpoint]) as process:
        while len(list(partial.glob("*.arrow"))) < 5:
            assert process.poll() is None, "ended before it could be killed"
            time.sleep(0.001)
        for restart in (False, True):
            with pytest.raises(FileExistsError, match=r"another process is writing .*out\.parquet now"):
                bulk.featurize_file(source, output, tiny_checkpoint, chunk_rows=10, workers=0, restart=restart)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert not output.exists()
    (tmp_path / ".out.parquet.partial-123").write_text("of a run that was killed as it put the shards together")
    left = sorted(path.name for path in partial.glob("*.arrow"))
    assert 5 <= len(left) < 90

    embedded: list[int] = []
    embed_encoded = Featurizer.embed_encoded

    def counted(self: Featurizer, encoded: Any, *rest: Any) -> np.ndarray:
        embedded.append(len(encoded.which))
        return embed_encoded(self, encoded, *rest)

    monkeypatch.setattr(Featurizer, "embed_encoded", counted)
    summary = bulk.featurize_file(source, output, tiny_checkpoint, chunk_rows=10, workers=0)
    assert summary == (960, 1, False)
    assert sum(embedded) == 960 - 10 * len(left)
    whole = tmp_path / "whole.parquet"
    bulk.featurize_file(source, whole, tiny_checkpoint, chunk_rows=10, workers=0)
    assert whole.read_bytes() == output.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "out.parquet", "run.py", "whole.parquet"]


def test_an_unfinished_run_is_resumed_only_as_it_was(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, output = write(tmp_path / "in.csv"), tmp_path / "out.npy"
    with monkeypatch.context() as broken:
        broken.setattr(bulk, "_merge", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            bulk.featurize_file(source, output, tiny_checkpoint, workers=0)
    with pytest.raises(
        ValueError, match=r"unfinished run that differs in chunk_rows: 10000, now 5; dim: 32, now 96; embedding: 'm"
    ):
        bulk.featurize_file(source, output, tiny_checkpoint, "both", chunk_rows=5, workers=0)
    write(source, FRAME[:10])
    run = command(source, "-o", output, "--checkpoint", tiny_checkpoint, "--workers", "0")
    assert run.exit_code == 1
    assert run.stderr.startswith(
        f"molcmim: {tmp_path}/.out.npy.partial holds an unfinished run that differs in input_sha"
    )
    assert command(source, "-o", output, "--restart", "--checkpoint", tiny_checkpoint, "--workers", "0").exit_code == 0
    assert np.load(output).shape == (10, 32)
    made = output.stat().st_mtime_ns
    assert bulk.featurize_file(source, output, tiny_checkpoint, workers=0) == (10, 0, True)  # done already
    assert output.stat().st_mtime_ns == made
    with pytest.raises(FileExistsError, match=r"out\.npy exists, of another call \(embedding, dim differ\)"):
        bulk.featurize_file(source, output, tiny_checkpoint, "both", workers=0)
    (tmp_path / "out.npy.json").unlink()
    with pytest.raises(FileExistsError, match=r"out\.npy exists; remove it"):
        bulk.featurize_file(source, output, tiny_checkpoint, workers=0)


def test_an_error_column_of_the_input_is_kept(tiny_checkpoint: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "in.csv", FRAME.rename(columns={"note": "error"}))
    bulk.featurize_file(source, tmp_path / "out.csv", tiny_checkpoint, workers=0)
    frame = read(tmp_path / "out.csv").frame
    assert frame.columns.tolist() == ["id", "SMILES", "input_error", "error"]
    assert frame["input_error"].tolist() == FRAME["note"].tolist()
    assert dict(frame["error"].dropna()) == BAD


def test_what_cannot_work_is_refused_at_once(tiny_checkpoint: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "in.csv")

    def refused(
        kind: type[Exception], message: str, source: Path = source, name: str = "out.csv", **options: Any
    ) -> None:
        with pytest.raises(kind, match=message):
            bulk.featurize_file(source, tmp_path / name, tiny_checkpoint, workers=0, **options)
        assert not list(tmp_path.glob(".*"))

    refused(ValueError, r"out\.xlsx: unknown suffix; the output may be \.parquet, ", name="out.xlsx")
    refused(ValueError, "no column 'mol'; the columns present: id, SMILES, note", column="mol")
    refused(FileNotFoundError, "none.csv", source=tmp_path / "none.csv")
    refused(ValueError, "embedding must be one of", embedding="median")
    taken = write(tmp_path / "taken.csv", FRAME.rename(columns={"note": "e7", "id": "e3"}))
    refused(ValueError, "columns that the output adds: e3, e7; rename them first", source=taken)
    refused(FileNotFoundError, r"no folder .*nowhere to write out\.csv in", name="nowhere/out.csv")
    lists = tmp_path / "lists.parquet"
    pd.DataFrame({"smiles": ["C"], "bits": [[0, 1]]}).to_parquet(lists)
    refused(ValueError, r"out\.csv: \.csv has no room for the input's lists, bits", source=lists)
    held = taken.read_bytes()
    for restart in (False, True):
        refused(ValueError, r"taken\.csv is the input", source=taken, name="taken.csv", restart=restart)
    assert taken.read_bytes() == held
    bulk.featurize_file(taken, tmp_path / "out.npy", tiny_checkpoint, workers=0)
    assert len(np.load(tmp_path / "out.npy")) == 100


MEASURED = """
import re, sys
from molcmim.bulk import featurize_file
featurize_file(sys.argv[1], sys.argv[2], sys.argv[3], "both", chunk_rows=500, workers=0)
print(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process's memory is read from /proc")
def test_memory_does_not_grow_with_the_file(tiny_checkpoint: Path, tmp_path: Path) -> None:
    peaks = []
    for rows in (2_000, 20_000):
        source = tmp_path / f"{rows}.smi"
        source.write_text("".join(f"{'CNO'[i % 3]} {i:04000d}\n" for i in range(rows)))  # 8 MB and 80 MB
        arguments = [source, tmp_path / f"{rows}.parquet", tiny_checkpoint]
        run = subprocess.run([sys.executable, "-c", MEASURED, *arguments], capture_output=True, text=True, check=True)
        peaks.append(int(run.stdout) / 1024)
    assert peaks[1] < peaks[0] + 40
