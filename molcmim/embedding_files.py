"""Files of embeddings: written row by row beside what they belong to, and read again. Knows no molecule."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from jaxtyping import Float32

from molcmim.atomic import atomic_path
from molcmim.files import DELIMITERS


class NpyFile:
    """An .npy file that grows by rows; its header is written again at the end.

    Parameters
    ----------
    path, dtype
        Where, and of what.
    shape
        Shape of one row.
    """

    def __init__(self, path: str | os.PathLike[str], dtype: Any, shape: tuple[int, ...]) -> None:
        self.rows, self.dtype, self.shape = 0, np.dtype(dtype), shape
        self.file = open(path, "wb")  # noqa: SIM115 - closed by __exit__
        self._header()

    def _header(self) -> None:
        entries = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.rows, *self.shape)}
        np.lib.format.write_array_header_1_0(self.file, entries)  # leaves room for the first axis to grow

    def append(self, rows: np.ndarray) -> None:
        """Add rows, shape (n, *shape)."""
        np.ascontiguousarray(rows, self.dtype).tofile(self.file)
        self.rows += len(rows)

    def __enter__(self) -> NpyFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.seek(0)
        self._header()
        self.file.close()


def read_embeddings(path: str | os.PathLike[str]) -> Float32[np.ndarray, "n d"]:
    """Read the embeddings of an .npy file, or of a .parquet file as :func:`embedding_writer` writes it.

    Raises
    ------
    OSError
        If the file cannot be opened.
    ValueError
        For another suffix, a damaged file, or one that holds no embeddings.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".npy":
        try:
            X = np.load(path, allow_pickle=False)
        except (EOFError, ValueError) as error:
            raise ValueError(f"{path}: not a sound .npy file of numbers") from error
    elif suffix == ".parquet":
        try:
            lists = pyarrow.parquet.read_table(path, columns=["embedding"]).column("embedding").combine_chunks()
        except (pa.ArrowException, KeyError) as error:
            raise ValueError(f"{path}: no Parquet file with a column 'embedding': {error}") from error
        X = lists.flatten().to_numpy().reshape(len(lists), -1)
    else:
        raise ValueError(f"{path}: cannot read embeddings from {suffix!r}; known suffixes are .parquet, .npy")
    if X.ndim != 2 or not np.issubdtype(X.dtype, np.floating):
        raise ValueError(f"{path}: no embeddings, which have shape (n, d), but {X.dtype} of shape {X.shape}")
    return X.astype(np.float32, copy=False)


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the metadata that :func:`embedding_writer` wrote with a file; empty for any other file."""
    try:
        if Path(path).suffix.lower() == ".parquet":
            found = json.loads((pyarrow.parquet.read_schema(path).metadata or {}).get(b"molcmim", b"{}"))
        else:
            found = json.loads(Path(f"{os.fspath(path)}.json").read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    except (OSError, pa.ArrowException, ValueError):
        return {}


OUTPUT_SUFFIXES = (".parquet", ".csv", ".tsv", ".npy")


@contextlib.contextmanager
def embedding_writer(
    path: str | os.PathLike[str], metadata: Mapping[str, Any], columns: Sequence[str] | None = None
) -> Iterator[Callable[[pa.Table, Float32[np.ndarray, "n d"]], None]]:
    """Lend a function that writes rows with their embeddings; `path` appears, complete, at the end.

    - .parquet: the rows' columns and `embedding`, a fixed-size list of float32; `metadata`, as JSON, in the
      schema under the key "molcmim".
    - .csv, .tsv: the rows' columns and e0, e1, ..., NaN as an empty field; `metadata` in <path>.json.
    - .npy: the embeddings alone, float32 (n, d); `metadata` in <path>.json.

    With `columns` these are no embeddings but numbers that each have a name, and a column of it, in Parquet as well.
    A row without an embedding is a row of NaN. All chunks have the same columns and types.

    Raises
    ------
    ValueError
        For another suffix, or rows that already have a column of that name.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in OUTPUT_SUFFIXES:
        raise ValueError(f"{path}: cannot write {suffix!r}; known suffixes are {', '.join(OUTPUT_SUFFIXES)}")
    with contextlib.ExitStack() as stack:
        if suffix != ".parquet":
            sidecar = stack.enter_context(atomic_path(f"{os.fspath(path)}.json"))
            sidecar.write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")
        partial = stack.enter_context(atomic_path(path))
        sink: Any = None

        def write(rows: pa.Table, embeddings: Float32[np.ndarray, "n d"]) -> None:
            nonlocal sink
            if suffix == ".npy":
                sink = sink or stack.enter_context(NpyFile(partial, np.float32, embeddings.shape[1:]))
                sink.append(embeddings)
                return
            wide = columns or (None if suffix == ".parquet" else [f"e{i}" for i in range(embeddings.shape[1])])
            table = _with_embeddings(rows, embeddings, wide)
            if sink is None and suffix == ".parquet":
                schema = table.schema.with_metadata({"molcmim": json.dumps(metadata)})
                sink = stack.enter_context(pyarrow.parquet.ParquetWriter(partial, schema))
            elif sink is None:
                options = pyarrow.csv.WriteOptions(delimiter=DELIMITERS[suffix[1:]])
                sink = stack.enter_context(pyarrow.csv.CSVWriter(partial, table.schema, write_options=options))
            sink.write_table(table)

        yield write


def _with_embeddings(rows: pa.Table, embeddings: Float32[np.ndarray, "n d"], names: Sequence[str] | None) -> pa.Table:
    if names:
        columns = {name: pa.array(values, from_pandas=True) for name, values in zip(names, embeddings.T, strict=True)}
    else:
        flat = pa.array(embeddings.reshape(-1))
        columns = {"embedding": pa.FixedSizeListArray.from_arrays(flat, embeddings.shape[1])}
    if taken := columns.keys() & set(rows.column_names):
        raise ValueError(f"the input already has columns of the output's: {', '.join(sorted(taken))}; rename them")
    for name, values in columns.items():
        rows = rows.append_column(name, values)
    return rows
