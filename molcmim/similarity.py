"""Tanimoto similarity of many fingerprints to many, as products of matrices. Knows no molecule."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, UInt8

AT_ONCE = 1_024
"""Fingerprints that are unpacked at a time, of either side."""


def highest(queries: UInt8[np.ndarray, "n b"], known: UInt8[np.ndarray, "m b"]) -> Float32[np.ndarray, " n"]:
    """Highest Tanimoto similarity of each query to any of the known ones.

    Parameters
    ----------
    queries, known
        Bits, eight a byte. Two without any bit have the similarity 0.

    Returns
    -------
    ndarray of float32, shape (n,)
        0 if there is none known.
    """
    best = np.zeros(len(queries), np.float32)
    for first in range(0, len(known), AT_ONCE):
        right, right_count = _unpacked(known[first : first + AT_ONCE])
        for start in range(0, len(queries), AT_ONCE):
            rows = slice(start, start + AT_ONCE)
            left, left_count = _unpacked(queries[rows])
            common = left @ right.T
            either = left_count[:, None] + right_count - common
            np.maximum(best[rows], (common / np.maximum(either, 1)).max(1), out=best[rows])
    return best


def _unpacked(packed: UInt8[np.ndarray, "k b"]) -> tuple[Float32[np.ndarray, "k 8*b"], Float32[np.ndarray, " k"]]:
    bits = np.unpackbits(packed, axis=1).astype(np.float32)
    return bits, bits.sum(1)
