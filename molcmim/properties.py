"""Properties of whole molecules that generation is judged by. Another door to RDKit; knows no model and no file."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float64
from rdkit import Chem
from rdkit.Chem import QED, Crippen, Descriptors

from molcmim import smiles
from molcmim.similarity import tanimoto


def synthetic_accessibility(mol: Chem.Mol) -> float:
    """SA score from 1, easily made, to 10 (Ertl & Schuffenhauer, J. Cheminform. 2009, 1, 8), as RDKit ships it."""
    from rdkit.Contrib.SA_Score import sascorer  # type: ignore[import-untyped]  # reads its table of fragments at the first call

    return sascorer.calculateScore(mol)


ZINC = {"logp": (2.4570953396190123, 1.434324401111988), "sa": (3.0525811293166134, 0.8335207024513095),
        "ring": (0.0485696876403053, 0.2860212110245455)}  # fmt: skip
"""Mean and standard deviation in 250,000 molecules of ZINC, as published with the optimisation tasks of Jin et al."""


def penalized_logp(mol: Chem.Mol) -> float:
    """Penalised logP: logP - SA score - (atoms beyond six in the largest ring), each standardised as in ZINC.

    Kusner et al. (arXiv 1703.01925) define it so, Jin et al. (arXiv 1802.04364, 1812.01070) standardise it.
    """
    largest = max(map(len, mol.GetRingInfo().AtomRings()), default=0)
    parts = {"logp": Crippen.MolLogP(mol), "sa": synthetic_accessibility(mol), "ring": float(max(0, largest - 6))}
    logp, sa, ring = ((value - ZINC[name][0]) / ZINC[name][1] for name, value in parts.items())
    return logp - sa - ring


PROPERTIES: dict[str, Callable[[Chem.Mol], float]] = {
    "qed": QED.qed,
    "plogp": penalized_logp,
    "logp": Crippen.MolLogP,
    "sa": synthetic_accessibility,
    "molecular_weight": Descriptors.MolWt,
}
"""Quantitative estimate of drug-likeness (Bickerton et al., Nat. Chem. 2012, 4, 90), :func:`penalized_logp`, Crippen's
logP, :func:`synthetic_accessibility`, molecular weight in g/mol."""


def properties(molecules: Sequence[str], names: Sequence[str] = tuple(PROPERTIES)) -> Float64[np.ndarray, "n p"]:
    """Compute properties of readable molecules.

    Parameters
    ----------
    molecules : sequence of str
        SMILES.
    names : sequence of str
        Keys of :data:`PROPERTIES`: the columns.

    Raises
    ------
    ValueError
        For an unknown name, or a molecule that cannot be read, with RDKit's reason.
    """
    if unknown := [name for name in names if name not in PROPERTIES]:
        raise ValueError(f"unknown property {', '.join(unknown)}; known are {', '.join(PROPERTIES)}")
    with smiles.quiet():
        mols = [smiles.parse(molecule) for molecule in molecules]
        return np.array([[PROPERTIES[name](mol) for name in names] for mol in mols], np.float64).reshape(-1, len(names))


def internal_diversity(molecules: Sequence[str]) -> float:
    """1 - mean Tanimoto similarity over all pairs of different rows, fingerprints as in `smiles.similarities`.

    IntDiv1 of MOSES (Polykovskiy et al., arXiv 1811.12823), but that a row is not paired with itself.
    """
    bits = smiles.packed_bits(molecules)
    n = len(bits)
    return float(1 - (tanimoto(bits, bits).sum(dtype=np.float64) - n) / (n * (n - 1)))
