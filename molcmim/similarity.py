"""Tanimoto similarity of many fingerprints to many, as products of matrices. Knows no molecule."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int64, UInt8

AT_ONCE = 1_024
"""Fingerprints that are unpacked at a time, of either side."""


class Nearest(NamedTuple):
    """The most similar of known fingerprints."""

    similarity: Float32[np.ndarray, " n"]
    """Its Tanimoto similarity; 0 if there is none known."""
    which: Int64[np.ndarray, " n"]
    """Its number, the first of equals."""


def nearest(queries: UInt8[np.ndarray, "n b"], known: UInt8[np.ndarray, "m b"]) -> Nearest:
    """Find the known fingerprint of the highest Tanimoto similarity to each query.

    Parameters
    ----------
    queries, known
        Bits, eight a byte. Two without any bit have the similarity 0.
    """
    best, which = np.zeros(len(queries), np.float32), np.zeros(len(queries), np.int64)
    for first in range(0, len(known), AT_ONCE):
        right, right_count = _unpacked(known[first : first + AT_ONCE])
        for start in range(0, len(queries), AT_ONCE):
            rows = slice(start, start + AT_ONCE)
            left, left_count = _unpacked(queries[rows])
            common = left @ right.T
            either = left_count[:, None] + right_count - common
            found = common / np.maximum(either, 1)
            top = found.argmax(1)
            value = found[np.arange(len(top)), top]
            which[rows] = np.where(value > best[rows], first + top, which[rows])
            best[rows] = np.maximum(best[rows], value)
    return Nearest(best, which)


def _unpacked(packed: UInt8[np.ndarray, "k b"]) -> tuple[Float32[np.ndarray, "k 8*b"], Float32[np.ndarray, " k"]]:
    bits = np.unpackbits(packed, axis=1).astype(np.float32)
    return bits, bits.sum(1)
