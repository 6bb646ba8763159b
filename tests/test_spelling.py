"""spelling: every string of a molecule is that molecule, and belongs to nobody else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import Descriptors

from molcmim.reading import Reader
from molcmim.spelling import Speller
from molcmim.tokenizer import Codec, load_tokenizer

MOLECULES = ["OCC", "CC(=O)Oc1ccccc1C(=O)O", None, "CN1C=NC2=C1C(=O)N(C)C(=O)N2C", "CCO", "C1CC", "C"]


@pytest.fixture(scope="module")
def speller(repo: Path) -> Speller:
    return Speller(Reader(Codec.of(load_tokenizer(repo / "tokenizers" / "smiles")), "smiles", 256), 6, 1)


def decoded(speller: Speller, spelled, repo: Path) -> list[str]:
    tokenizer = load_tokenizer(repo / "tokenizers" / "smiles")
    encoded = spelled.encoded
    rows = zip(encoded.offsets[:-1], encoded.offsets[1:], strict=True)
    return [tokenizer.decode(encoded.ids[a:b], skip_special_tokens=True).replace(" ", "") for a, b in rows]


def test_spellings_are_of_their_molecule_and_the_first_is_canonical(speller: Speller, repo: Path) -> None:
    spelled = speller.read(MOLECULES)
    assert spelled.which.tolist() == [0, 1, -1, 2, 0, -1, 3]
    strings = decoded(speller, spelled, repo)
    assert len(set(strings)) == len(strings)
    for row, molecule in enumerate(MOLECULES):
        if spelled.which[row] >= 0:
            canonical = Chem.CanonSmiles(molecule)
            own = spelled.spellings[spelled.which[row]]
            assert strings[own[0]] == canonical
            assert {Chem.CanonSmiles(strings[i]) for i in own} == {canonical}
            assert (spelled.owner[own] == spelled.which[row]).all()
    assert len(set(spelled.spellings[1])) > 3
    assert "unclosed ring" in spelled.reasons[5]


def test_spellings_depend_on_molecule_and_seed_alone(speller: Speller, repo: Path) -> None:
    def of(speller: Speller, molecules: list) -> list[str]:
        spelled = speller.read(molecules)
        strings = decoded(speller, spelled, repo)
        return [strings[i] for i in spelled.spellings[spelled.which[-1]]]

    caffeine = MOLECULES[3]
    alone = of(speller, [caffeine])
    assert of(speller, MOLECULES[:4]) == alone
    assert of(speller, [Chem.MolToSmiles(Chem.MolFromSmiles(caffeine), doRandom=True)]) == alone
    assert of(speller._replace(seed=2), [caffeine]) != alone
    assert of(speller._replace(spellings=1), [caffeine]) == alone[:1]


def test_too_long_is_a_reason_and_a_long_spelling_gives_way(speller: Speller) -> None:
    canonical = "CC(=O)Oc1ccccc1C(=O)O"
    limit = len(speller.read([canonical])[0].ids[: speller.read([canonical]).encoded.offsets[1]])
    tight = speller._replace(reader=speller.reader._replace(max_length=limit), spellings=40)
    spelled = tight.read(["CCCCCCCCCCCCCCCCCCCCCCCC" + "C" * limit, canonical])
    assert spelled.which.tolist() == [-1, 0]
    assert f"the model reads {limit} at most" in spelled.reasons[0]
    assert np.diff(spelled.encoded.offsets).max() <= limit
    assert (spelled.spellings[0] == spelled.spellings[0, 0]).sum() > 1


def test_nothing_readable_and_nothing_at_all(speller: Speller) -> None:
    assert speller.read([None, "C1CC"]).which.tolist() == [-1, -1]
    assert speller.read([]).spellings.shape == (0, 6)
    assert speller._replace(descriptors=["MolWt"]).read([None]).descriptors.shape == (0, 1)


def test_descriptors_are_rdkits_by_name_one_row_a_molecule(speller: Speller) -> None:
    spelled = speller._replace(descriptors=["TPSA", "MolWt"]).read(MOLECULES)
    assert speller.read(MOLECULES).descriptors.shape == (4, 0)
    for row, molecule in enumerate(MOLECULES):
        if spelled.which[row] >= 0:
            mol = Chem.MolFromSmiles(molecule)
            expected = [Descriptors.TPSA(mol), Descriptors.MolWt(mol)]
            np.testing.assert_allclose(spelled.descriptors[spelled.which[row]], expected, rtol=1e-6)
    with pytest.raises(ValueError, match="has no descriptor Charm; install"):
        speller._replace(descriptors=["TPSA", "Charm"]).read(["C"])


def test_fewer_spellings_are_the_first(speller: Speller) -> None:
    spelled = speller.read(MOLECULES)
    np.testing.assert_array_equal(spelled.first(2).spellings, spelled.spellings[:, :2])
