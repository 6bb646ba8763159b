from __future__ import annotations

import gzip
import itertools
import math
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rdkit import Chem
from rdkit.Chem import AllChem, Descriptors

from molcmim import smiles
from molcmim.smiles import BadMolecule, MoleculeError

ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"
DRUGS = [
    ASPIRIN,
    "CN1C=NC2=C1C(=O)N(C(=O)N2C)C",  # caffeine, Kekulé form
    "C[C@H](c1ccc(cc1)CC(C)C)C(=O)O",  # (R)-ibuprofen
    "CN1CCC[C@H]1c2cccnc2",  # (S)-nicotine
    "C[N+](C)(C)CC(=O)[O-]",  # betaine
    "CC(C)(C)NCC(O)c1ccc(O)c(CO)c1.OS(=O)(=O)O",  # salbutamol sulfate
    "C/C=C/C(=O)O",  # crotonic acid
    "OB(O)c1ccccc1",
    "C[Se]CC[C@H](N)C(=O)O",
]


@pytest.mark.parametrize(
    ("molecule", "reason"),
    [
        ("C1CC", "unclosed ring"),
        ("C(C", "extra open parentheses around character 2"),
        ("CC#", "syntax error around character 3"),
        ("CN(C)(C)C", "Explicit valence for atom # 1 N, 4, is greater than permitted"),
        ("c1cccc1", "Can't kekulize mol.  Unkekulized atoms: 0 1 2 3 4"),
        ("CCO ethanol", "' ' at character 4 belongs to no SMILES"),
        ("CCO |c:1|", "' ' at character 4 belongs to no SMILES (a CXSMILES extension? leave it out)"),
        ("CC\N{MINUS SIGN}O", "'\N{MINUS SIGN}' at character 3 belongs to no SMILES"),
        ("C\0C", r"'\x00' at character 2 belongs to no SMILES"),
        ("", "empty string"),
        (" \n", "empty string"),
        (None, "not a string or RDKit Mol but NoneType"),
        (float("nan"), "not a string or RDKit Mol but float (nan)"),
        (b"CCO", "not a string or RDKit Mol but bytes"),
        ("C" * 100_000, "100,000 characters; at most 5,000 are read"),
        (Chem.MolFromSmarts("[#6,#7]-C(=O)-[O;H1]"), "a query, such as SMARTS make, and no molecule"),
        (Chem.MolFromSmarts("[CH2;R]"), "a query, such as SMARTS make, and no molecule"),
        (Chem.Mol(), "0 atoms; 1 to 5,000 are read"),
        (Chem.MolFromSmiles("c1cccc1", sanitize=False), "Can't kekulize mol.  Unkekulized atoms: 0 1 2 3 4"),
    ],
)
def test_parse_says_why(molecule: object, reason: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 the whole message is compared
        smiles.parse(molecule)
    assert str(error.value) == reason
    assert capfd.readouterr() == ("", "")


def test_rdkits_own_log_is_left_as_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    smiles.canonicalize(["C1CC"])
    Chem.MolFromSmiles("C1CC")
    assert "unclosed ring" in capfd.readouterr().err


THREADS = """
from concurrent.futures import ThreadPoolExecutor
from molcmim import smiles

rows = ["C1CC", "CCO", "c1ccccc", "nope", "CC(C", "N(C)(C)(C)(C)C"] * 30
expected = smiles.canonicalize(rows)
with ThreadPoolExecutor(4) as pool:
    assert all(found == expected for found in pool.map(smiles.canonicalize, [rows] * 40))
"""


def test_threads_get_their_own_reasons() -> None:
    """RDKit's log is one for all threads; two that capture it at once end the process."""
    run = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_the_largest_molecule_that_is_read() -> None:
    chain = "C" * smiles.MAX_CHARACTERS
    assert smiles.to_smiles(smiles.parse(chain)) == chain
    bigger = Chem.MolFromSmiles(chain + "C")
    assert smiles.canonicalize([bigger])[1] == ["5,001 atoms; 1 to 5,000 are read"]


def test_a_place_for_anything_is_no_query() -> None:
    block = Chem.MolToMolBlock(Chem.MolFromSmiles("*c1ccccc1[13CH3]"))
    assert smiles.to_smiles(smiles.parse(Chem.MolFromMolBlock(block))) == "*c1ccccc1[13CH3]"


def test_canonicalize_keeps_rows_aligned() -> None:
    got, reasons = smiles.canonicalize(["OCC", "C1CC", None, " c1ccccc1\n"])
    assert got == ["CCO", None, None, "c1ccccc1"]
    assert reasons == [None, "unclosed ring", "not a string or RDKit Mol but NoneType", None]


@given(st.sampled_from(DRUGS), st.integers(-(2**70), 2**70))
def test_every_spelling_is_the_same_molecule(molecule: str, seed: int) -> None:
    mol = smiles.parse(molecule)
    spellings = smiles.random_spellings(mol, 4, seed)
    assert len(spellings) == 4
    assert spellings == smiles.random_spellings(mol, 4, seed)
    assert smiles.canonicalize(spellings)[0] == [smiles.to_smiles(mol)] * 4


def test_spellings_differ_between_seeds() -> None:
    mol = smiles.parse(ASPIRIN)
    assert len({spelling for seed in range(20) for spelling in smiles.random_spellings(mol, 5, seed)}) > 50


def test_a_mol_counts_as_its_molecule() -> None:
    plain = [Chem.MolFromSmiles(drug) for drug in DRUGS]
    dressed = [Chem.AddHs(mol) for mol in plain]
    raw = [Chem.MolFromSmiles(drug, sanitize=False) for drug in DRUGS]
    expected = smiles.canonicalize(DRUGS)
    assert None not in expected[0]
    assert smiles.canonicalize(plain) == smiles.canonicalize(dressed) == smiles.canonicalize(raw) == expected


@pytest.mark.parametrize(
    ("molecule", "expected"),
    [
        ("CC(C)(C)NCC(O)c1ccc(O)c(CO)c1.OS(=O)(=O)O", "CC(C)(C)NCC(O)c1ccc(O)c(CO)c1"),
        ("CC(=O)[O-].[Na+]", "CC(=O)O"),
        ("C.OS(=O)(=O)O", "C"),  # carbon before size
        ("[NH3+]CC(=O)[O-]", "NCC(=O)O"),
        ("C[N+](C)(C)C.[Cl-]", "C[N+](C)(C)C"),  # no hydrogen to take
        ("C[N+](=O)[O-]", "C[N+](=O)[O-]"),
        ("[CH3:1][C:2](=[O:3])[O:4][H:5]", "CC(=O)O"),
    ],
)
def test_standardize(molecule: str, expected: str) -> None:
    assert smiles.canonicalize([molecule], standardize=True)[0] == [expected]


def test_standardize_and_canonicalize_leave_the_corpus_alone(shared_data) -> None:
    with gzip.open(shared_data / "corpus" / "valid.smi.gz", "rt") as lines:
        corpus = [line.strip() for line in itertools.islice(lines, 1000)]
    assert smiles.canonicalize(corpus)[0] == corpus
    assert smiles.canonicalize(corpus, standardize=True)[0] == corpus


@pytest.mark.parametrize(
    ("molecule", "scaffold"),
    [
        ("C[C@H](c1ccc(cc1)CC(C)C)C(=O)O", "c1ccccc1"),
        ("CN1CCC[C@H]1c2cccnc2", "c1cncc(C2CCCN2)c1"),
        ("CCO", ""),
    ],
)
def test_murcko_scaffold(molecule: str, scaffold: str) -> None:
    assert smiles.murcko_scaffold(molecule) == scaffold


def test_descriptors_against_rdkits_python_descriptors() -> None:
    names = {
        "exactmw": "ExactMolWt",
        "amw": "MolWt",
        "CrippenClogP": "MolLogP",
        "tpsa": "TPSA",
        "NumHBD": "NumHDonors",
    }
    for drug in DRUGS:
        mol = smiles.parse(drug)
        ours = dict(zip(smiles.DESCRIPTOR_NAMES, smiles.descriptors(mol), strict=True))
        theirs = Descriptors.CalcMolDescriptors(mol)
        pairs = [(name, names.get(name, name)) for name in ours if names.get(name, name) in theirs]
        assert len(pairs) > 40
        for name, reference in pairs:
            assert ours[name] == pytest.approx(theirs[reference], rel=1e-5, abs=1e-4), (drug, name)


def test_descriptors_in_closed_form() -> None:
    benzene = dict(zip(smiles.DESCRIPTOR_NAMES, smiles.descriptors(smiles.parse("c1ccccc1")), strict=True))
    assert benzene["exactmw"] == pytest.approx(6 * 12 + 6 * 1.00782503, rel=1e-6)
    assert benzene["NumHeavyAtoms"] == 6
    assert benzene["NumAromaticRings"] == 1
    assert benzene["chi1n"] == pytest.approx(6 * (3 * 3) ** -0.5)  # 6 bonds between atoms of delta 3
    surface = [sum(v for n, v in benzene.items() if n.startswith(kind)) for kind in ("SlogP", "SMR_", "PEOE")]
    np.testing.assert_allclose(surface, surface[0], rtol=1e-5)  # three ways to bin one surface


@pytest.mark.parametrize("molecule", ["[U]", "[Na+].[Cl-]", "*", "[H][H]", "[He]", "[Pt](Cl)Cl", "[H+]", "C" * 1500])
def test_descriptors_are_finite(molecule: str) -> None:
    values = smiles.descriptors(smiles.parse(molecule))
    assert values.dtype == np.float32
    assert values.shape == (len(smiles.DESCRIPTOR_NAMES),)
    assert np.isfinite(values).all()


def test_a_value_that_rdkit_cannot_give_is_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smiles, "_VECTORS", {"odd": lambda mol: (float("nan"), float("inf"), 1.0)})
    assert smiles.descriptors(smiles.parse("C"))[-3:].tolist() == [0, 0, 1]


def test_molecule_error_names_every_row() -> None:
    error = MoleculeError([BadMolecule(10 * i, "C1CC", "unclosed ring") for i in range(7)])
    message = str(error)
    assert "7 bad molecule(s), row(s) 0, 10, 20, 30, 40, 50, 60:" in message
    assert message.count("'C1CC': unclosed ring") == 5
    assert "and 2 more" in message
    assert len(str(MoleculeError([BadMolecule(0, "C" * 6000, "6,000 characters")]))) < 250
    again = pickle.loads(pickle.dumps(error))
    assert again.rows == error.rows
    assert str(again) == message


def test_fingerprints_are_rdkits() -> None:
    molecules = ["CCO", "c1ccccc1C(=O)O", "O=C(O)c1ccccc1", "CCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCC(C)(C)C"]
    morgan, maccs, rdkit2d = (smiles.fingerprints(molecules, kind) for kind in ("morgan", "maccs", "rdkit2d"))
    assert (morgan.shape, maccs.shape, rdkit2d.shape[0]) == ((4, 2048), (4, 167), 4)
    for features in (morgan, maccs, rdkit2d):
        assert features.dtype == np.float32
        np.testing.assert_array_equal(features[1], features[2])  # two spellings of one molecule
    assert morgan[0].sum() == 6  # ethanol: three atoms, two neighbourhoods of radius 1, one of radius 2
    assert maccs.max() == 1
    names = [name for name, _ in Descriptors.descList]
    assert rdkit2d[0, names.index("MolWt")] == pytest.approx(46.069, abs=1e-3)
    assert rdkit2d[:, names.index("Ipc")].max() == smiles.LARGEST_FEATURE
    with pytest.raises(ValueError, match="unknown fingerprint 'ecfp'; known are morgan, rdkit2d, maccs"):
        smiles.fingerprints(molecules, "ecfp")


def test_similarity_is_shared_bits_over_all_bits():
    def bits(molecule):
        return set(AllChem.GetMorganFingerprintAsBitVect(Chem.MolFromSmiles(molecule), 2, 2048).GetOnBits())

    expected = [len(bits(ASPIRIN) & bits(other)) / len(bits(ASPIRIN) | bits(other)) for other in DRUGS]
    found = smiles.similarities(ASPIRIN, [*DRUGS, None, ASPIRIN])
    np.testing.assert_allclose(found[:-2], expected)
    assert math.isnan(found[-2])
    assert found[-1] == 1


def test_rows_of_a_message_in_short():
    error = MoleculeError([BadMolecule(row, "x", "no") for row in (0, 2, 3, 4, 9, 11, 12)])
    assert str(error).startswith("7 bad molecule(s), row(s) 0, 2-4, 9, 11, 12:\n")
