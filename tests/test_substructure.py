"""substructure: against RDKit's own fragment counts, and what is no SMARTS."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rdkit import Chem
from rdkit.Chem import Fragments

from molcmim.substructure import Substructures

ACID, BENZENE = "[CX3](=O)[OX2H1]", "c1ccccc1"


def test_each_of_the_first_and_none_of_the_second(shared_data: Path) -> None:
    molecules = pd.read_csv(shared_data / "moleculenet" / "lipophilicity.csv")["smiles"].tolist()[:500]
    mols = [Chem.MolFromSmiles(molecule) for molecule in molecules]
    benzene = np.array([Fragments.fr_benzene(mol) > 0 for mol in mols])
    acid = np.array([Fragments.fr_COO(mol) > 0 for mol in mols])
    assert 0 < acid.sum() < benzene.sum() < 500
    np.testing.assert_array_equal(Substructures(BENZENE).fit(molecules), benzene)
    np.testing.assert_array_equal(Substructures([BENZENE, ACID]).fit(molecules), benzene & acid)
    np.testing.assert_array_equal(Substructures(BENZENE, ACID).fit(molecules), benzene & ~acid)
    np.testing.assert_array_equal(Substructures((), [ACID, BENZENE]).fit(molecules), ~benzene & ~acid)


def test_nothing_asked_fits_every_molecule_and_no_molecule_never_fits() -> None:
    assert not Substructures()
    assert Substructures().fit(["CCO", None]).tolist() == [True, False]
    assert Substructures(must_not_have="N").fit(["CCO", None]).tolist() == [True, False]
    assert Substructures("C").fit([]).tolist() == []


def test_one_fragment() -> None:
    asked = Substructures(must_not_have=[".", "N"])
    assert asked
    assert asked.fit(["CCO", "CCO.C", "CN", None]).tolist() == [True, False, False, False]
    assert Substructures("O", ".").fit(["CCO", "CCO.C", "CC"]).tolist() == [True, False, False]


@pytest.mark.parametrize("text", ["", "C(", "[Qx]"])
def test_what_is_no_smarts_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="is no SMARTS that RDKit can read") as error:
        Substructures(must_not_have=["C", text])
    assert repr(text) in str(error.value)


def test_hydrogens_may_be_written() -> None:
    assert Substructures("[H]O").fit(["CCO", "COC", "O"]).tolist() == [True, False, True]
    assert Substructures(must_not_have="[#1]N").fit(["CN", "CN(C)C"]).tolist() == [False, True]
