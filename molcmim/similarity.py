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
        for start in range(0, len(queries), AT_ONCE):
            rows = slice(start, start + AT_ONCE)
            found = tanimoto(queries[rows], known[first : first + AT_ONCE])
            top = found.argmax(1)
            value = found[np.arange(len(top)), top]
            which[rows] = np.where(value > best[rows], first + top, which[rows])
            best[rows] = np.maximum(best[rows], value)
    return Nearest(best, which)


def tanimoto(a: UInt8[np.ndarray, "n b"], b: UInt8[np.ndarray, "m b"]) -> Float32[np.ndarray, "n m"]:
    """Tanimoto similarity of each fingerprint to each, as one product of matrices; bits are as for :func:`nearest`."""
    left, right = (np.unpackbits(packed, axis=1).astype(np.float32) for packed in (a, b))
    common = left @ right.T
    return common / np.maximum(left.sum(1)[:, None] + right.sum(1) - common, 1)
