"""Measured values as people write them -> numbers, or labels: the one place that judges them. Knows no molecule."""

from __future__ import annotations

import itertools
import os
import re
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float64

from molcmim.files import Chunk

UNKNOWN = (
    "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NULL", "None", "n/a", "null",
)  # fmt: skip
"""What stands for no value, as pandas has it, beside "", "NA" and "NaN" in any case."""
MINUS = "\N{MINUS SIGN}"
"""What typesetters, and some spreadsheets, write for a hyphen."""
LISTED = 10
"""Bad values that an error names."""
DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")
THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}")
"""What may be a decimal comma, and what may just as well part thousands."""


class BadValues(ValueError):
    """Values that are no finite numbers.

    Attributes
    ----------
    none_good : bool
        Whether a column has no number at all: it may be meant for labels.
    """

    def __init__(self, message: str, none_good: bool) -> None:
        super().__init__(message)
        self.none_good = none_good


def frame_of(
    chunks: Sequence[Chunk],
    path: str | os.PathLike[str],
    targets: str | Sequence[str],
    labels: bool = False,
    skip_bad: bool = False,
) -> pd.DataFrame:
    """Molecules and targets of a file that is read already.

    Parameters
    ----------
    chunks
        All that :func:`molcmim.files.read_chunks` gave.
    path
        Of the file, for messages.
    targets, labels
        See :func:`molcmim.datasets.load_csv`.
    skip_bad
        Whether values that are no numbers count as unknown; ``attrs["bad_values"]`` says of each such row why.

    Returns
    -------
    DataFrame
        Columns ``smiles`` and the targets.

    Raises
    ------
    BadValues, ValueError
        For values that are no finite numbers (unless `skip_bad`), or a missing target column.
    """
    present = chunks[0].table.column_names
    names = {targets: "y"} if isinstance(targets, str) else {target: target for target in targets}
    if missing := [target for target in names if target not in present]:
        raise ValueError(f"{path}: no column {', '.join(missing)}; the columns present: {', '.join(present)}")
    if "smiles" in names.values():
        raise ValueError(f"{path}: 'smiles' names the molecules; rename that column")
    molecules = itertools.chain.from_iterable(chunk.smiles for chunk in chunks)
    frame = pd.DataFrame({"smiles": [s.strip() if isinstance(s, str) else s for s in molecules]})
    bad: dict[int, list[str]] = defaultdict(list)
    none_good = False
    for target, name in names.items():
        fields = itertools.chain.from_iterable(chunk.table.column(target).to_pylist() for chunk in chunks)
        texts = [text_of(field) for field in fields]
        if labels:
            frame[name] = pd.Series(texts, dtype=object)
            continue
        values = _numbers(texts)
        for row in (wrong := np.flatnonzero(np.isinf(values)).tolist()):
            bad[row].append(f"{target}: {texts[row]!r} is no finite number")
        none_good = none_good or (bool(wrong) and not np.isfinite(values).any())
        frame[name] = np.where(np.isinf(values), np.nan, values)
    if bad and not skip_bad:
        said = [f"row {row}, {reason}" for row, reasons in sorted(bad.items()) for reason in reasons]
        shown = 3 if none_good else LISTED
        more = f"; and {len(said) - shown:,} more" * (len(said) > shown)
        raise BadValues(
            f"{path}: {'; '.join(said[:shown])}{more} (rows are counted from 0, without the header). Correct them, or "
            "leave them empty if unknown",
            none_good,
        )
    frame.attrs["bad_values"] = {row: "; ".join(reasons) for row, reasons in bad.items()}
    return frame


def text_of(field: object) -> str | None:
    """Return the text of a field, None if it stands for no value."""
    text = "" if field is None else str(field).strip()
    return None if text in UNKNOWN or text.lower() in ("", "nan", "na") else text


def _numbers(texts: Sequence[str | None]) -> Float64[np.ndarray, " n"]:
    """Read a column: NaN where there is nothing, infinity where there is no finite number.

    Commas are decimal points if the column has no other ones, and if they cannot all be marks of thousands.
    """
    texts = [None if text is None else text.replace(MINUS, "-") for text in texts]
    written = [text for text in texts if text is not None]
    commas = {text for text in written if DECIMAL_COMMA.fullmatch(text)}
    points = any("." in text and np.isfinite(_number(text)) for text in written)
    if commas and not points and not all(THOUSANDS.fullmatch(text) for text in commas):
        texts = [text.replace(",", ".") if text in commas else text for text in texts]
    return np.array([np.nan if text is None else _number(text) for text in texts], np.float64)


def _number(text: str) -> float:
    try:
        value = float("inf" if "_" in text else text)  # Python reads 1_0 as 10
    except ValueError:
        return float("inf")
    return value if np.isfinite(value) else float("inf")
