"""A model without a network, for tests of searches: codes <-> chains of C, N and O, or now and then a broken string.

RDKit reads every chain. Which atom stands where depends on the code alone, smoothly enough that a search can climb.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from molcmim import smiles
from molcmim.space import Codes

ATOMS = 10
BROKEN = "C1CC"


def chain(code: np.ndarray) -> str:
    """Write a code: below -0.5 is N, above 0.5 is O, else C; a large eleventh coordinate breaks the string."""
    if code[ATOMS] > 0.9:
        return BROKEN
    return "C" + "".join("O" if x > 0.5 else "N" if x < -0.5 else "C" for x in code[:ATOMS])


def decode(space, z: np.ndarray, decoding: str, rng: np.random.Generator) -> pd.DataFrame:
    """Stand in for `Space.decode`."""
    strings = [chain(code) for code in z]
    canonical, reasons = smiles.canonicalize(strings)
    return pd.DataFrame(
        {
            "smiles": strings,
            "valid": [reason is None for reason in reasons],
            "canonical": pd.Series(canonical, dtype=object),
            "log_prob": np.float32(-1.5),
            "error": pd.Series(reasons, dtype=object),
        }
    )


def encode(space, molecules: list[str]) -> Codes:
    """Stand in for `Space.encode`: codes that decode to the same chain, if it is one that decoding can write."""
    canonical, reasons = smiles.canonicalize(molecules)
    mu = np.full((len(molecules), space.dim), np.nan, np.float32)
    for row, molecule in enumerate(canonical):
        if molecule is not None:
            atoms = molecule[1:] if molecule[0] == "C" else molecule[-2::-1]
            mu[row] = 0
            mu[row, : len(atoms)] = [{"O": 1, "N": -1}.get(atom, 0) for atom in atoms]
    return Codes([molecule or "" for molecule in canonical], reasons, mu)


def oxygens(molecules: list[str]) -> list[int]:
    """Score by the number of oxygens."""
    return [molecule.count("O") for molecule in molecules]
