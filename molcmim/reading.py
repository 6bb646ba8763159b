"""Molecules of any kind -> encoded strings with reasons, ready for a model. Loads no torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, Integer

from molcmim import smiles
from molcmim.tokenizer import Codec, smiles_to_selfies


class Encoded(NamedTuple):
    """Molecules as token ids: each different one once, whatever could not be read with its reason."""

    ids: Integer[np.ndarray, " tokens"]
    """Token ids of the different molecules, one after the other, ``<s>`` and ``</s>`` included."""
    offsets: Int64[np.ndarray, " u1"]
    """Molecule i of the u different ones is ``ids[offsets[i] : offsets[i + 1]]``."""
    which: Int64[np.ndarray, " n"]
    """Which of these each row of the input is; -1 for a bad row."""
    reasons: list[str | None]
    """Why a row is bad, None for a good one; n long."""
    smiles: list[str | None]
    """What was encoded, or translated for it; None for a row that could not be read; n long."""


class Reader(NamedTuple):
    """How molecules become token ids. Small, and picklable for worker processes."""

    codec: Codec
    """Encoder of strings."""
    notation: str
    """What is encoded: "smiles" or "selfies"."""
    max_length: int
    """Longest encoding that is good, in tokens, ``<s>`` and ``</s>`` included."""
    canonicalize: bool = True
    """Whether the canonical SMILES is encoded, not the one given."""
    standardize: bool = False
    """Whether :func:`molcmim.smiles.standardize` comes first."""

    def read(self, molecules: Iterable[object]) -> Encoded:
        """Judge and encode molecules; nothing that an element of `molecules` may be is an error here."""
        if self.canonicalize:
            strings, reasons = smiles.canonicalize(molecules, self.standardize)
        else:
            strings, reasons = _as_written(molecules)
        return self.encode(strings, reasons)

    def encode(self, strings: list[str | None], reasons: list[str | None]) -> Encoded:
        """Encode SMILES that have been judged: None for those with a reason against them; adds more reasons."""
        read = list(strings)
        if self.notation == "selfies":
            _to_selfies(strings, reasons)
        number: dict[str, int] = {}
        which = np.array([-1 if s is None else number.setdefault(s, len(number)) for s in strings], np.int64)
        ids, offsets = self.codec.encode(list(number))
        lengths = np.diff(offsets)
        fits = lengths <= self.max_length
        if not fits.all():
            for row in np.flatnonzero((which >= 0) & ~fits[which]):
                reasons[row] = f"{lengths[which[row]]} tokens; the model reads {self.max_length} at most"
            ids = ids[np.repeat(fits, lengths)]
            offsets = np.concatenate([[0], np.cumsum(lengths[fits])])
            number_now = np.where(fits, np.cumsum(fits) - 1, -1)
            which = np.append(number_now, -1)[which]  # the last is for rows that are bad already
        return Encoded(ids, offsets, which, reasons, read)


def _to_selfies(strings: list[str | None], reasons: list[str | None]) -> None:
    """Translate in place."""
    for row, string in enumerate(strings):
        if string is not None:
            try:
                strings[row] = smiles_to_selfies(string)
            except ValueError as error:
                strings[row], reasons[row] = None, str(error)


def _as_written(molecules: Iterable[object]) -> tuple[list[str | None], list[str | None]]:
    """SMILES as they were given; a Mol, which is written in no way yet, is written canonically."""
    rows = list(molecules)
    canonical, reasons = smiles.canonicalize(rows)
    given = [row.strip() if isinstance(row, str) else text for row, text in zip(rows, canonical, strict=True)]
    return [text if reason is None else None for text, reason in zip(given, reasons, strict=True)], reasons
