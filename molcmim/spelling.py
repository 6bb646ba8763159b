"""Molecules -> several spellings each, as token ids: what a fine-tuned model reads. Loads no torch.

Shapes: n rows of an input, u different molecules among them, k spellings of each, s different strings among these.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from molcmim import smiles
from molcmim.reading import Encoded, Reader


class Spelled(NamedTuple):
    """Molecules in several spellings; each molecule, and each string, once."""

    encoded: Encoded
    """The different strings."""
    spellings: Int64[np.ndarray, "u k"]
    """Which strings spell molecule i; the first of them is its canonical SMILES."""
    canonical: Int64[np.ndarray, " s"]
    """Which string is the canonical SMILES of what a string spells."""
    which: Int64[np.ndarray, " n"]
    """Which molecule each row of the input is; -1 for a bad row."""
    reasons: list[str | None]
    """Why a row is bad, None for a good one; n long."""


class Speller(NamedTuple):
    """How molecules become spellings. Small, and picklable for worker processes."""

    reader: Reader
    """How strings become token ids; its `standardize` is obeyed, and molecules are always made canonical."""
    spellings: int
    """k: the canonical SMILES and k - 1 random ones. One that is too long gives way to the canonical SMILES."""
    seed: int = 0
    """Of the random ones, which depend on it and on the molecule alone."""

    def read(self, molecules: Iterable[object]) -> Spelled:
        """Judge, spell and encode molecules; nothing that an element of `molecules` may be is an error here."""
        strings, reasons = smiles.canonicalize(molecules, self.reader.standardize)
        number: dict[str, int] = {}
        which = np.array([-1 if s is None else number.setdefault(s, len(number)) for s in strings], np.int64)
        written = [spelling for string in number for spelling in self._spell(string)]
        encoded = self.reader._replace(canonicalize=False, standardize=False).read(written)
        spellings = encoded.which.reshape(len(number), self.spellings)
        fits = spellings[:, 0] >= 0
        for row in np.flatnonzero((which >= 0) & ~fits[which] if len(number) else []):
            reasons[row] = encoded.reasons[which[row] * self.spellings]
        kept = np.where(spellings < 0, spellings[:, :1], spellings)[fits]
        canonical = np.zeros(len(encoded.offsets) - 1, np.int64)
        canonical[kept] = kept[:, :1]
        now = np.append(np.where(fits, np.cumsum(fits) - 1, -1), -1)
        return Spelled(encoded, kept, canonical, now[which], reasons)

    def _spell(self, string: str) -> list[str]:
        if self.spellings == 1:
            return [string]
        return [string, *smiles.random_spellings(smiles.parse(string), self.spellings - 1, self.seed)]
