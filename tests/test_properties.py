"""Properties: against RDKit's own functions, published values, and definitions written out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import QED, Crippen, Descriptors

from molcmim.properties import PROPERTIES, internal_diversity, properties
from molcmim.smiles import similarities

ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"
FEW = [ASPIRIN, "Cn1c(=O)c2c(ncn2C)n(C)c1=O", "C1CCCCCCC1", "CCO", "C"]


def test_values_are_rdkits() -> None:
    found = properties(FEW)
    assert found.shape == (5, len(PROPERTIES))
    for row, molecule in zip(found, FEW, strict=True):
        mol = Chem.MolFromSmiles(molecule)
        values = dict(zip(PROPERTIES, row, strict=True))
        assert values["qed"] == QED.qed(mol)
        assert values["logp"] == Crippen.MolLogP(mol)
        assert values["molecular_weight"] == Descriptors.MolWt(mol)
        ring = max(0, max((len(r) for r in mol.GetRingInfo().AtomRings()), default=0) - 6)
        plogp = (
            (values["logp"] - 2.4570953396190123) / 1.434324401111988
            - (values["sa"] - 3.0525811293166134) / 0.8335207024513095
            - (ring - 0.0485696876403053) / 0.2860212110245455
        )
        assert values["plogp"] == pytest.approx(plogp)
    assert found[0, 3] == pytest.approx(1.58, abs=0.005)  # aspirin's SA score
    assert properties(["C1CCCCC1"], ["plogp"])[0, 0] - properties(["C1CCCCCCC1"], ["plogp"])[0, 0] > 6  # 2 / 0.286


def test_columns_are_those_asked_for() -> None:
    whole = properties(FEW)
    np.testing.assert_array_equal(properties(FEW, ["sa", "qed"]), whole[:, [3, 0]])
    assert properties([], ["qed"]).shape == (0, 1)
    with pytest.raises(ValueError, match="unknown property beauty; known are qed, plogp"):
        properties(FEW, ["beauty"])
    with pytest.raises(ValueError, match="unclosed ring"):
        properties(["C1CC"])


def test_internal_diversity_is_the_mean_over_pairs() -> None:
    pairs = [1 - similarities(a, [b])[0] for a, b in itertools.combinations(FEW, 2)]
    assert internal_diversity(FEW) == pytest.approx(np.mean(pairs), abs=1e-6)
    assert internal_diversity([ASPIRIN, ASPIRIN]) == pytest.approx(0, abs=1e-6)
