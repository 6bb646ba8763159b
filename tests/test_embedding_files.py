"""embedding_files: embeddings come back as they were written, beside their rows."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from molcmim.embedding_files import OUTPUT_SUFFIXES, embedding_writer, read_embeddings
from molcmim.files import DELIMITERS

ROWS = pa.table({"smiles": ["CCO", "CC(=O)O", "", "O"], "name": ["", 'acetic "glacial" acid, dry', "nothing", "007"]})


@pytest.mark.parametrize("suffix", OUTPUT_SUFFIXES)
def test_embeddings_come_back(tmp_path: Path, suffix: str) -> None:
    x = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    x[3] = np.nan
    path = tmp_path / f"out{suffix}"
    metadata = {"model": "molcmim-small"}
    with embedding_writer(path, metadata) as put:
        put(ROWS[:2], x[:2])
        put(ROWS[2:], x[2:])
    if suffix == ".parquet":
        table = pq.read_table(path)
        assert json.loads(table.schema.metadata[b"molcmim"]) == metadata
        assert table.schema.field("embedding").type == pa.list_(pa.float32(), 3)
        got = np.stack(table["embedding"].to_numpy())
        names = table["name"].to_pylist()
    else:
        assert json.loads(Path(f"{path}.json").read_text()) == metadata
        if suffix == ".npy":
            got, names = np.load(path), ROWS["name"].to_pylist()
        else:
            empty = {f"e{i}": [""] for i in range(3)}
            delimiter = DELIMITERS[suffix[1:]]
            frame = pd.read_csv(path, sep=delimiter, dtype=str, keep_default_na=False, na_values=empty)
            assert frame.columns.tolist() == ["smiles", "name", "e0", "e1", "e2"]
            got, names = frame[["e0", "e1", "e2"]].to_numpy(np.float32), frame["name"].tolist()
    np.testing.assert_array_equal(got, x)
    assert names == ROWS["name"].to_pylist()
    assert len(os.listdir(tmp_path)) == (1 if suffix == ".parquet" else 2)


@pytest.mark.parametrize("suffix", OUTPUT_SUFFIXES)
def test_a_broken_run_leaves_no_embeddings(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(KeyboardInterrupt), embedding_writer(tmp_path / f"out{suffix}", {}) as put:
        put(pa.table({"smiles": ["C"]}), np.zeros((1, 2), np.float32))
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


def test_embeddings_that_are_none(tmp_path: Path) -> None:
    for data in (b"", b"no"):
        (tmp_path / "m.npy").write_bytes(data)
        with pytest.raises(ValueError, match=r"m\.npy: not a sound \.npy file"):
            read_embeddings(tmp_path / "m.npy")


def test_embedding_writer_refuses(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot write '.xlsx'; known suffixes are .parquet"):
        embedding_writer(tmp_path / "out.xlsx", {}).__enter__()
    with (
        pytest.raises(ValueError, match="already has columns of the output's: e1"),
        embedding_writer(tmp_path / "out.csv", {}) as put,
    ):
        put(pa.table({"smiles": ["C"], "e1": ["x"]}), np.zeros((1, 2), np.float32))
