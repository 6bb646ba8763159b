"""Molecules -> several spellings each, as token ids, and descriptors: what a fine-tuned model reads. Loads no torch.

Shapes: n rows of an input, u different molecules among them, k spellings of each, s different strings among these, p
descriptors.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from molcmim import smiles
from molcmim.reading import Encoded, Reader


class Spelled(NamedTuple):
    """Molecules in several spellings; each molecule, and each string, once."""

    encoded: Encoded
    """The different strings."""
    spellings: Int64[np.ndarray, "u k"]
    """Which strings spell molecule i; the first of them is its canonical SMILES."""
    owner: Int64[np.ndarray, " s"]
    """Which molecule a string spells."""
    which: Int64[np.ndarray, " n"]
    """Which molecule each row of the input is; -1 for a bad row."""
    reasons: list[str | None]
    """Why a row is bad, None for a good one; n long."""
    smiles: list[str]
    """Canonical SMILES of each molecule."""
    descriptors: Float32[np.ndarray, "u p"]
    """Its RDKit's 2D descriptors, those that were asked for."""
    bits: UInt8[np.ndarray, "u 256"]
    """Its :func:`molcmim.smiles.packed_bits`."""

    def first(self, k: int) -> Spelled:
        """Keep no more than the first `k` spellings of each molecule."""
        return self._replace(spellings=self.spellings[:, :k])


class Speller(NamedTuple):
    """How molecules become spellings. Small, and picklable for worker processes."""

    reader: Reader
    """How strings become token ids; its `standardize` is obeyed, and molecules are always made canonical."""
    spellings: int
    """k: the canonical SMILES and k - 1 random ones. One that is too long gives way to the canonical SMILES."""
    seed: int = 0
    """Of the random ones, which depend on it and on the molecule alone."""
    descriptors: Sequence[str] = ()
    """Names of :func:`molcmim.smiles.rdkit2d_names`."""

    def read(self, molecules: Iterable[object]) -> Spelled:
        """Judge, spell and encode molecules; nothing that an element of `molecules` may be is an error here."""
        strings, reasons = smiles.canonicalize(molecules, self.reader.standardize)
        number: dict[str, int] = {}
        which = np.array([-1 if s is None else number.setdefault(s, len(number)) for s in strings], np.int64)
        written: list[str | None] = [spelling for string in number for spelling in self._spell(string)]
        encoded = self.reader.encode(written, [None] * len(written))
        spellings = encoded.which.reshape(len(number), self.spellings)
        fits = spellings[:, 0] >= 0
        for row in np.flatnonzero((which >= 0) & ~fits[which] if len(number) else []):
            reasons[row] = encoded.reasons[which[row] * self.spellings]
        kept = np.where(spellings < 0, spellings[:, :1], spellings)[fits]
        owner = np.zeros(len(encoded.offsets) - 1, np.int64)
        owner[kept] = np.arange(len(kept))[:, None]
        now = np.append(np.where(fits, np.cumsum(fits) - 1, -1), -1)
        good = [string for string, fit in zip(number, fits, strict=True) if fit]
        bits = smiles.packed_bits(good)
        return Spelled(encoded, kept, owner, now[which], reasons, good, self._describe(good), bits)

    def _spell(self, string: str) -> list[str]:
        if self.spellings == 1:
            return [string]
        return [string, *smiles.random_spellings(smiles.parse(string), self.spellings - 1, self.seed)]

    def _describe(self, strings: Sequence[str]) -> Float32[np.ndarray, "_ p"]:
        if not strings or not self.descriptors:
            return np.zeros((len(strings), len(self.descriptors)), np.float32)
        return np.stack([_described(string) for string in strings])[:, columns(self.descriptors)]


@lru_cache(maxsize=2**14)
def _described(string: str) -> Float32[np.ndarray, " p"]:
    """Compute RDKit's 2D descriptors once: milliseconds a molecule, and each fold and search has the same ones."""
    return smiles.fingerprints([string], "rdkit2d")[0]


def columns(names: Sequence[str]) -> list[int]:
    """Where descriptors stand among RDKit's; ValueError if this version of RDKit lacks any."""
    known = {name: i for i, name in enumerate(smiles.rdkit2d_names())} if names else {}
    if missing := [name for name in names if name not in known]:
        raise ValueError(f"this version of RDKit has no descriptor {', '.join(missing)}; install another")
    return [known[name] for name in names]
