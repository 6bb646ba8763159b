"""Files of molecules, streamed: memory grows with the chunk only. Knows no chemistry.

Text is read as it stands: every column of a .csv, .tsv, .smi or .sdf file is a string, and no value is "missing".
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import gzip
import io
import itertools
import os
import re
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from molcmim import sdf, spreadsheet

if TYPE_CHECKING:
    import pandas as pd

FORMATS = {
    ".smi": "smi",
    ".smiles": "smi",
    ".txt": "smi",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".xlsx": "xlsx",
    ".sdf": "sdf",
    ".sd": "sdf",
    ".mol": "sdf",
}
"""Suffix -> format. `smi` is a SMILES a line, white space and a name after it if there is one, no header; `sdf` are
MOL blocks with data items, each of which is a column, see ``molcmim.sdf``; of an `xlsx` the first sheet is read."""
DELIMITERS = {"csv": ",", "tsv": "\t"}
"""Format -> what separates fields; in a `csv` whose header has no comma a semicolon or tab, if it has one."""
CONVERT = "convert the file (spreadsheets can save CSV as UTF-8)"
LONGEST_FIELD = 1 << 24
"""Characters; a quote that is never closed would else take in the whole file."""


class Chunk(NamedTuple):
    """Consecutive rows of a file."""

    first_row: int
    """Row of the first of them in the file, counted from 0 (a header is no row)."""
    table: pa.Table
    """All columns, in the file's order."""
    column: str
    """Name of the SMILES column."""
    unreadable: dict[int, str] = {}  # noqa: RUF012 - never changed
    """Row of the chunk -> why an SD file's structure cannot be read."""

    @property
    def smiles(self) -> list[Any]:
        """What stands in the SMILES column: strings, and whatever else a Parquet file may hold there.

        For a structure that cannot be read an ``molcmim.smiles.Unreadable``, of which the table has an empty SMILES.
        """
        found = self.table.column(self.column).to_pylist()
        if self.unreadable:
            from molcmim.smiles import Unreadable

            for row, reason in self.unreadable.items():
                found[row] = Unreadable(reason)
        return found


def read_chunks(
    path: str | os.PathLike[str],
    column: str | None = None,
    format: str | None = None,
    chunk_rows: int = 10_000,
) -> Iterator[Chunk]:
    """Read a file of molecules.

    A blank line of a one-column file is a row whose SMILES is empty; elsewhere it is no row.

    Parameters
    ----------
    path
        ``-`` is standard input. All formats but Parquet and Excel may be compressed with gzip (.gz).
    column
        Name of the SMILES column. Default: the one named "smiles", then "canonical_smiles", in any case; else
        the only one with "smiles" in its name.
    format
        A value of `FORMATS`; default: by the suffix, "csv" for standard input.
    chunk_rows
        Rows a chunk.

    Raises
    ------
    OSError
        If the file cannot be opened.
    ValueError
        For an unknown format or column, no rows, a row with more or fewer fields than the header, bytes that
        are not UTF-8, a damaged Parquet, Excel or gzip file. Names the file, and the row or line where there is one.
        What the file's beginning shows is raised by the call itself, not by the first chunk.
    """
    format = format or format_of(path)
    if format == "parquet":
        tables = _parquet_tables(path, chunk_rows)
    elif format in DELIMITERS or format in ("smi", "sdf", "xlsx"):
        tables = _text_tables(path, format, chunk_rows)
    else:
        raise ValueError(f"unknown format {format!r}; known are {', '.join(sorted(set(FORMATS.values())))}")
    first = next(tables, None)
    if first is None:
        raise ValueError(f"{path}: no molecules in it")
    # A structure's SMILES stands first, whatever its data items are called.
    name = _smiles_column(path, first.column_names, column or ("smiles" if format == "sdf" else None))
    return _number(itertools.chain([first], tables), name, format)


def _number(tables: Iterator[pa.Table], column: str, format: str) -> Iterator[Chunk]:
    row = 0
    for table in tables:
        unreadable: dict[int, str] = {}
        if format == "sdf":
            texts = table.column(0).to_pylist()
            reasons = {i: text[len(sdf.MARK) :] for i, text in enumerate(texts) if text.startswith(sdf.MARK)}
            texts = ["" if i in reasons else text for i, text in enumerate(texts)]
            table = table.set_column(0, "smiles", pa.array(texts, pa.string()))
            unreadable = reasons if column == "smiles" else {}
        yield Chunk(row, table, column, unreadable)
        row += len(table)


def format_of(path: str | os.PathLike[str]) -> str:
    """Tell a format by the suffix; "csv" for standard input."""
    if os.fspath(path) == "-":
        return "csv"
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    suffix = "".join(suffixes[-1:] if suffixes[-1:] != [".gz"] else suffixes[-2:-1])
    if suffix not in FORMATS:
        raise ValueError(
            f"{path}: unknown suffix {suffix!r}; known are {', '.join(FORMATS)} (and .gz after them); "
            "rename the file or say its format"
        )
    return FORMATS[suffix]


def _smiles_column(path: str | os.PathLike[str], columns: list[str], column: str | None) -> str:
    if column is None:
        likely = [name for name in columns if "smiles" in name.lower()]
        for wanted in ("smiles", "canonical_smiles"):
            likely = [name for name in likely if name.lower() == wanted] or likely
        if len(likely) == 1:
            return likely[0]
        raise ValueError(
            f"{path}: {'several columns' if likely else 'no column'} with 'smiles' in the name; name one of the "
            f"columns present (--column): {', '.join(columns)}. A file without a header is a .smi"
        )
    if column not in columns:
        raise ValueError(f"{path}: no column {column!r}; the columns present: {', '.join(columns)}")
    return column


def _parquet_tables(path: str | os.PathLike[str], chunk_rows: int) -> Iterator[pa.Table]:
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(chunk_rows):
                # what pandas left there would make it take a column for an index, and put rows where that says
                yield pa.Table.from_batches([batch]).replace_schema_metadata(None)
    except (pa.ArrowException, OSError) as error:
        if getattr(error, "errno", None):  # the system's: no such file, no permission
            raise
        raise ValueError(f"{path}: not a sound Parquet file: {error}") from error


def _text_tables(path: str | os.PathLike[str], format: str, chunk_rows: int) -> Iterator[pa.Table]:
    with contextlib.ExitStack() as stack:
        try:
            if format == "smi":
                rows = _smi_rows(stack.enter_context(_text(path)))
            elif format == "sdf":
                if os.fspath(path) == "-":
                    raise ValueError("an SD file is read twice, first for the names of its columns: name a file, not -")
                with _text(path) as lines:
                    names = sdf.item_names(lines)
                rows = sdf.rows(stack.enter_context(_text(path)), names)
            elif format == "xlsx":
                rows = _sheet_rows(path)
            else:
                rows = _delimited_rows(path, stack.enter_context(_text(path)), DELIMITERS[format])
            header = next(rows, [])
            for first_row in itertools.count(step=chunk_rows):
                if not (chunk := list(itertools.islice(rows, chunk_rows))):
                    break
                yield _string_table(path, header, chunk, first_row)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{path}: damaged gzip file, cut short or not gzip at all: {error}") from error


@contextlib.contextmanager
def _text(path: str | os.PathLike[str]) -> Iterator[io.TextIOWrapper]:
    """Open a file, or standard input; bytes that are not UTF-8 become surrogates: the row that holds them is named."""
    with contextlib.ExitStack() as stack:
        if os.fspath(path) == "-":
            binary: Any = sys.stdin.buffer
        else:
            binary = stack.enter_context(open(path, "rb"))
            if Path(path).suffix.lower() == ".gz":
                binary = stack.enter_context(gzip.open(binary))
        utf16 = binary.peek(2)[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # a spreadsheet's "Unicode text"
        encoding = "utf-16" if utf16 else "utf-8-sig"
        lines = io.TextIOWrapper(binary, encoding=encoding, errors="surrogateescape", newline="")
        stack.callback(lines.detach)  # standard input is not ours to close
        yield lines


def _smi_rows(lines: io.TextIOWrapper) -> Iterator[list[str]]:
    yield ["smiles", "name"]
    for line in lines:
        yield [*line.strip().split(maxsplit=1), "", ""][:2]


def _delimited_rows(path: str | os.PathLike[str], lines: io.TextIOWrapper, delimiter: str) -> Iterator[list[str]]:
    first = next(lines, "")
    if said := re.fullmatch(r"sep=(.)\s*", first):  # which tells a spreadsheet how to read what follows
        delimiter, first = said[1], next(lines, "")
    unquoted = re.sub(r'"[^"]*"', "", first)
    if delimiter == "," and "," not in unquoted:  # what spreadsheets call CSV where the comma is the decimal point
        delimiter = next((sign for sign in ";\t" if sign in unquoted), delimiter)
    csv.field_size_limit(LONGEST_FIELD)
    reader = csv.reader(itertools.chain([first], lines), delimiter=delimiter, strict=True)
    try:
        yield from _under_header(path, ((reader.line_num, row) for row in reader))
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}") from error


def _sheet_rows(path: str | os.PathLike[str]) -> Iterator[list[str]]:
    if os.fspath(path) == "-":
        raise ValueError("an Excel workbook is not read from standard input: name a file, not -")
    filled = ((line, row if any(row) else []) for line, row in enumerate(spreadsheet.rows(path), 1))
    return _under_header(path, filled)


def _under_header(path: str | os.PathLike[str], lines: Iterator[tuple[int, list[str]]]) -> Iterator[list[str]]:
    """Check numbered rows of fields against the first of them, the header, which comes first."""
    header = [name.strip() for name in next(lines, (1, []))[1]]
    said, width = ", ".join(header), len(header)
    while header and not header[-1]:  # what a spreadsheet leaves of columns that were emptied
        header.pop()
    if re.search("[\udc80-\udcff]", said):
        raise ValueError(f"{path}: the header is not UTF-8 text; {CONVERT}: {header!a:.100}")
    if "" in header:
        raise ValueError(f"{path}: column {header.index('') + 1} has no name in the first line, {said!r:.100}")
    if twice := sorted({name for name in header if header.count(name) > 1}):
        raise ValueError(f"{path}: {', '.join(twice)} is the name of more than one column; rename them")
    yield header
    for line, row in lines:
        if len(row) == width and not any(row[len(header) :]):
            yield row[: len(header)]
        elif len(row) == width:
            raise ValueError(f"{path}, line {line}: a value in a column without a name: {row!r:.200}")
        elif row:
            raise ValueError(
                f"{path}, line {line}: {len(row)} fields, where the header has {width}: {', '.join(row)!r:.100}"
            )
        elif len(header) == 1:
            yield [""]


def _string_table(path: str | os.PathLike[str], header: list[str], rows: list[list[str]], first_row: int) -> pa.Table:
    try:
        columns = [pa.array(values, pa.string()) for values in zip(*rows, strict=True)]
    except UnicodeEncodeError:
        bad = next(i for i, row in enumerate(rows) if re.search("[\udc80-\udcff]", "".join(row)))
        where = f"{path}: row {first_row + bad} (counted from 0)"
        raise ValueError(f"{where} is not UTF-8 text; {CONVERT}: {rows[bad]!a:.100}") from None
    return pa.table(columns, names=header)


_SAMPLE = 1 << 22


def count_rows(path: str | os.PathLike[str], format: str | None = None) -> int | None:
    """Estimate the number of rows, for a progress bar; None for standard input.

    Exact for Parquet and short files, else extrapolated from the first 4 MiB of text.
    """
    if os.fspath(path) == "-":
        return None
    format = format or format_of(path)
    if not os.path.isfile(path):  # a pipe, of which reading takes away
        return None
    try:
        return _estimate(path, format)
    except (EOFError, zlib.error, gzip.BadGzipFile, pa.ArrowException):
        return None  # whoever reads the file says what is wrong with it


def _estimate(path: str | os.PathLike[str], format: str) -> int | None:
    if format == "parquet":
        return pyarrow.parquet.read_metadata(path).num_rows
    if format == "xlsx":  # whose rows are compressed
        return None
    with open(path, "rb") as file:
        with gzip.open(file) if Path(path).suffix.lower() == ".gz" else contextlib.nullcontext(file) as stream:
            sample = stream.read(_SAMPLE)
        end = sdf.END.encode() if format == "sdf" else b"\n"
        rows = sample.count(end) + bool(sample.rpartition(end)[2].strip(b"\r\n")) - (format in DELIMITERS)
        return max(0, rows if len(sample) < _SAMPLE else rows * os.path.getsize(path) // file.tell())


def with_own_error(table: pa.Table) -> pa.Table:
    """Rename an input's column `error` to `input_error`: an output has an `error` of its own beside it."""
    names = table.column_names
    if "error" not in names or "input_error" in names:
        return table
    return table.rename_columns(["input_error" if name == "error" else name for name in names])


def write_frame(frame: pd.DataFrame, path: Path, suffix: str) -> None:
    """Write a frame without its index, as .parquet, .csv or .tsv.

    Raises
    ------
    ValueError
        If text cannot hold a column, which consists of lists.
    """
    if suffix.lower() == ".parquet":
        frame.to_parquet(path, index=False)
        return
    for name, column in frame.items():
        first = column[column.first_valid_index()] if column.dtype == object and column.notna().any() else None
        if hasattr(first, "__len__") and not isinstance(first, str):
            raise ValueError(f"column {name} holds lists, which a {suffix} file does not; write .parquet")
    frame.to_csv(path, index=False, sep=DELIMITERS[suffix[1:].lower()])
