"""Substructures that molecules must or must not have, as SMARTS. Another door to RDKit; knows no code, no score."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool
from rdkit import Chem

from molcmim import smiles

FRAGMENTS = "."
"""What separates fragments in a SMILES."""


class Substructures:
    """What is asked of a molecule.

    Parameters
    ----------
    must_have, must_not_have : str or sequence of str
        SMARTS; a molecule fits that has each of the first and none of the second. Of these ``.``, which is no SMARTS,
        is a second fragment.

    Raises
    ------
    ValueError
        If RDKit cannot read one.
    """

    def __init__(self, must_have: str | Sequence[str] = (), must_not_have: str | Sequence[str] = ()) -> None:
        self.must_have, self.must_not_have = (
            [texts] if isinstance(texts, str) else list(texts or ()) for texts in (must_have, must_not_have)
        )
        self.whole = FRAGMENTS in self.must_not_have
        unwanted = [text for text in self.must_not_have if text != FRAGMENTS]
        self.wanted, self.unwanted = ([_query(text) for text in texts] for texts in (self.must_have, unwanted))

    def __bool__(self) -> bool:
        return bool(self.wanted or self.unwanted or self.whole)

    def fit(self, molecules: Sequence[str | None]) -> Bool[np.ndarray, " n"]:
        """Say which molecules have what they must and nothing else; canonical SMILES, or None, which never fits."""
        return np.array([molecule is not None and self._fits(molecule) for molecule in molecules], bool)

    def _fits(self, molecule: str) -> bool:
        if self.whole and FRAGMENTS in molecule:
            return False
        if not (self.wanted or self.unwanted):
            return True
        with smiles.quiet():
            mol = smiles.parse(molecule)
        wanted = all(mol.HasSubstructMatch(query) for query in self.wanted)
        return wanted and not any(mol.HasSubstructMatch(query) for query in self.unwanted)


def _query(text: str) -> Chem.Mol:
    with smiles.quiet():
        query = Chem.MolFromSmarts(text)
    if query is None or not query.GetNumAtoms():
        raise ValueError(f"{text!r} is no SMARTS that RDKit can read")
    return Chem.MergeQueryHs(query)  # hydrogens that are atoms of the query are none of a molecule's
