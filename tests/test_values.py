"""values: numbers as people write them, what is none, and that all of it is named at once."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from molcmim.datasets import load_csv
from molcmim.files import read_chunks
from molcmim.values import BadValues, _numbers, frame_of


def frame(path: Path, text: str, **options):
    path.write_text(text, encoding="utf-8")
    return frame_of(list(read_chunks(path)), path, ["y"], **options)


@given(st.lists(st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.integers()))
def test_numbers_are_read_as_they_were_written(values: list) -> None:
    found = _numbers([None if value is None else str(value) for value in values])
    np.testing.assert_array_equal(found, [math.nan if value is None else float(value) for value in values])


@given(st.lists(st.decimals(-1000, 1000, places=2), min_size=1))
def test_decimal_commas_are_points(values: list) -> None:
    found = _numbers([str(value).replace(".", ",") for value in values])
    np.testing.assert_array_equal(found, [float(value) for value in values])


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["1,234", "12,345"], [np.inf, np.inf]),  # thousands, or not: nobody knows
        (["1,234", "12,34"], [1.234, 12.34]),
        (["1,234", "0,5", "<2", None], [1.234, 0.5, np.inf, np.nan]),
        (["1,5", "2.5"], [np.inf, 2.5]),
        (["1,5", "n.d."], [1.5, np.inf]),
        (["\N{MINUS SIGN}1.5", "-2", "\N{MINUS SIGN}1e-3"], [-1.5, -2, -1e-3]),
        (["\N{MINUS SIGN}1,5", "0,5"], [-1.5, 0.5]),
        (["1_0", "inf", "1e3", "0x1"], [np.inf, np.inf, 1000, np.inf]),
    ],
)
def test_what_is_no_number(texts: list, expected: list) -> None:
    np.testing.assert_array_equal(_numbers(texts), expected)


def test_every_bad_value_is_named_with_its_row(tmp_path: Path) -> None:
    rows = ["C,1", "CC,<8", "CCC,", "CO,n.d.", "CCO,2.5"]
    with pytest.raises(BadValues) as caught:
        frame(tmp_path / "t.csv", "smiles,y\n" + "\n".join(rows))
    assert "row 1, y: '<8' is no finite number; row 3, y: 'n.d.' is no finite number (rows are" in str(caught.value)
    assert not caught.value.none_good
    with pytest.raises(BadValues) as caught:
        frame(tmp_path / "t.csv", "smiles,y\n" + "C,low\n" * 30)
    assert "row 2, y: 'low' is no finite number; and 27 more" in str(caught.value)
    assert caught.value.none_good
    with pytest.raises(BadValues, match="and 2 more"):
        frame(tmp_path / "t.csv", "smiles,y\n" + "C,low\n" * 12 + "C,1\n")


def test_bad_values_may_count_as_unknown(tmp_path: Path) -> None:
    found = frame(tmp_path / "t.csv", "smiles,y\nC,1\nCC,<8\nCCC,\n", skip_bad=True)
    np.testing.assert_array_equal(found["y"], [1, np.nan, np.nan])
    assert found.attrs["bad_values"] == {1: "y: '<8' is no finite number"}
    text = "smiles,y\n" + "\n".join(
        f"C,{label}" for label in ("a", " NA", "N/A", "#N/A", "None", "none", "nan", "null")
    )
    unknown = [None] * 7
    assert frame(tmp_path / "t.csv", text, labels=True)["y"].tolist() == ["a", *unknown[:4], "none", *unknown[:2]]
    assert frame(tmp_path / "t.csv", "smiles,y\nC,1\nC,#N/A\nC,NULL\n")["y"].isna().tolist() == [False, True, True]


def test_a_spreadsheet_with_semicolons_has_decimal_commas(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("smiles;y\nC;-0,92\nCC;1,4\n")
    assert load_csv(tmp_path / "t.csv")["y"].tolist() == [-0.92, 1.4]
