"""spreadsheet: what openpyxl wrote comes back as the text that a CSV file of it would hold."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import openpyxl
import pandas as pd
import pytest

from molcmim import files, spreadsheet
from molcmim.datasets import load_csv


def workbook(path: Path, *rows: list[Any]) -> Path:
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    book.create_sheet("another").append(["not", "read"])
    book.save(path)
    return path


def test_cells_are_text(tmp_path: Path) -> None:
    day, moment = datetime.datetime(2026, 11, 28), datetime.datetime(2026, 11, 28, 12, 30)
    path = workbook(tmp_path / "m.xlsx", ["a", None, 3, 3.0, 0.1, 1e-9, True, day, moment, datetime.time(9, 5)])
    expected = ["a", "", "3", "3", "0.1", "1e-09", "TRUE", "2026-11-28", "2026-11-28T12:30:00", "09:05:00"]
    assert list(spreadsheet.rows(path)) == [expected]


def test_a_sheet_is_read_as_a_csv_file_is(tmp_path: Path) -> None:
    path = workbook(
        tmp_path / "m.xlsx", ["Smiles ", "pIC50", "note"], ["CCO", 5.5, None], [], ["CCN", None, "x"], ["C", 4, "y"]
    )
    chunks = list(files.read_chunks(path, chunk_rows=2))
    assert [chunk.smiles for chunk in chunks] == [["CCO", "CCN"], ["C"]]
    assert chunks[0].table.to_pydict() == {"Smiles": ["CCO", "CCN"], "pIC50": ["5.5", ""], "note": ["", "x"]}
    assert files.count_rows(path) is None
    path.rename(tmp_path / "m.dat")
    assert [chunk.smiles for chunk in files.read_chunks(tmp_path / "m.dat", format="xlsx")] == [["CCO", "CCN", "C"]]
    (tmp_path / "m.dat").rename(path)
    pd.testing.assert_frame_equal(
        load_csv(path, "Smiles", "pIC50"), pd.DataFrame({"smiles": ["CCO", "CCN", "C"], "y": [5.5, None, 4.0]})
    )


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"m\.xlsx, line 3: a value in a column without a name: .*'stray'"):
        list(files.read_chunks(workbook(tmp_path / "m.xlsx", ["smiles"], ["C"], ["CC", "stray"])))
    with pytest.raises(ValueError, match="y is the name of more than one column"):
        list(files.read_chunks(workbook(tmp_path / "m.xlsx", ["smiles", "y", "y"], ["C", 1, 2])))
    (tmp_path / "m.xlsx").write_text("smiles")
    with pytest.raises(ValueError, match=r"m\.xlsx: not a sound Excel workbook"):
        list(files.read_chunks(tmp_path / "m.xlsx"))
    with pytest.raises(FileNotFoundError):
        list(files.read_chunks(tmp_path / "nowhere.xlsx"))
    with pytest.raises(ValueError, match="not read from standard input"):
        list(files.read_chunks("-", format="xlsx"))
