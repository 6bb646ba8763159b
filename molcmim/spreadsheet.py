"""Excel workbooks as rows of text, streamed: what a cell holds, as a CSV file would have it. Knows no chemistry."""

from __future__ import annotations

import datetime
import os
import zipfile
from collections.abc import Iterator


def rows(path: str | os.PathLike[str]) -> Iterator[list[str]]:
    """Yield the rows of a workbook's first sheet, the header first; of formulas, the values that were saved.

    Parameters
    ----------
    path
        An .xlsx file.

    Raises
    ------
    ValueError
        If it is no sound workbook.
    """
    import openpyxl  # half a second

    try:
        with open(path, "rb") as file:  # openpyxl judges a path by its suffix
            book = openpyxl.load_workbook(file, read_only=True, data_only=True)
            for row in book.worksheets[0].iter_rows(values_only=True):
                yield [_text(value) for value in row]
    except (zipfile.BadZipFile, KeyError, IndexError, openpyxl.utils.exceptions.InvalidFileException) as error:
        raise ValueError(f"{path}: not a sound Excel workbook (.xlsx): {error}") from error


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, datetime.datetime) and value.time() == datetime.time():
        return value.date().isoformat()
    return value.isoformat() if isinstance(value, datetime.date | datetime.time) else str(value)
