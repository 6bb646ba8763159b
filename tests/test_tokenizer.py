"""The tokenizers: every string comes back as it was, and the fast path gives the ids of Hugging Face's."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
import selfies
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem
from transformers import AutoTokenizer

from molcmim import smiles
from molcmim import tokenizer as tk

HASHES = {
    "smiles": "2177bab8f113d2cecc4612f6887f90ed6eade087a6e994290fe4d406d5263b6b",
    "selfies": "6a8e32b7763ac39fbb471049960feb50f8240d47621abd29616811348d5eb005",
}
STRANGE = [
    "[13C@@H](Cl)(Br)I",
    "[2H]C([2H])([2H])[O-].[Na+]",
    "[NH3]->[Pt+2](<-[NH3])([Cl-])[Cl-]",
    "*C(*)c1ccc([*:7])cc1",
    "C%(100)CCCC%(100)",
    "C%99CCC%99",
    "[U+6]",
    "[OH-].[Lr]",
    "C/C=C\\C",
    "[Co@OH12](F)(Cl)(Br)(I)(N)O",
    "[35Cl-].[81Br-]",
    "CCO>>CC=O",
    "C~C$C:C",
    "[Sc]Sc",
    "~!@#$%^&*()_+{}|:\"<>?`-=[]\\;',./",
]


@pytest.fixture(scope="module", params=["smiles", "selfies"])
def tokenizer(request):
    return tk.load_tokenizer(request.param)


SMILES, SELFIES = tk.load_tokenizer("smiles"), tk.load_tokenizer("selfies")


def lines(path):
    with gzip.open(path, "rt") as file:
        return file.read().split()


def decode(tokenizer, ids, offsets):
    pieces = np.split(ids.astype(int), offsets[1:-1])
    return tokenizer.batch_decode([piece.tolist() for piece in pieces], skip_special_tokens=True)


def check(tokenizer, strings):
    """Lossless, without <unk>, framed by <s> and </s>, and the same ids as the Hugging Face tokenizer's."""
    ids, offsets = tk.Codec.of(tokenizer).encode(strings)
    assert offsets.shape == (len(strings) + 1,)
    assert offsets[-1] == len(ids)
    assert (ids[offsets[:-1]] == tk.BOS_ID).all()
    assert (ids[offsets[1:] - 1] == tk.EOS_ID).all()
    assert not np.isin(ids, [tk.UNK_ID, tk.PAD_ID]).any()
    assert ids.tolist() == [i for row in tokenizer(strings)["input_ids"] for i in row]
    assert decode(tokenizer, ids, offsets) == strings
    codec = tk.Codec.of(tokenizer)
    assert [codec.count(string) for string in strings] == np.diff(offsets).tolist()


# every element, isotopes, chirality, hydrogens, charges, maps; rings beyond 9 and 99; bonds, dots, wildcards
ELEMENTS = [Chem.GetPeriodicTable().GetElementSymbol(z) for z in range(1, 119)] + [
    "b",
    "c",
    "n",
    "se",
    "te",
    "*",
]
bracket = st.builds(
    "[{}{}{}{}{}{}]".format,
    st.sampled_from(["", "2", "13", "125"]),
    st.sampled_from(ELEMENTS),
    st.sampled_from(["", "@", "@@", "@TH1", "@AL2", "@SP3", "@TB20", "@OH30"]),
    st.sampled_from(["", "H", "H2", "H12"]),
    st.sampled_from(["", "+", "-", "++", "--", "+3", "-15"]),
    st.sampled_from(["", ":1", ":999"]),
)
organic = st.sampled_from(["B", "C", "N", "O", "P", "S", "F", "Cl", "Br", "I", "b", "c", "n", "o", "p", "s", "*"])
bond = st.sampled_from(["", "-", "=", "#", "$", ":", "~", "/", "\\", "->", "<-", "."])
ring = st.sampled_from(["", "1", "9", "%10", "%12", "%13", "%99", "%(7)", "%(100)", "%(99999)"])
branch = st.sampled_from(["", "(", ")"])
smiles_strings = st.lists(st.tuples(bond, bracket | organic, ring, branch), min_size=1, max_size=30).map(
    lambda atoms: "".join(map("".join, atoms))
)


@settings(deadline=None, max_examples=300)
@given(st.lists(smiles_strings, min_size=1, max_size=5))
def test_any_smiles_comes_back(strings):
    check(SMILES, strings)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.text(st.sampled_from(tk.ASCII), max_size=40).filter(lambda s: "<" not in s), min_size=1))
def test_any_ascii_comes_back(strings):
    check(SELFIES, strings)


def test_strange_smiles_come_back(tokenizer):
    check(tokenizer, STRANGE)


@pytest.mark.parametrize("file", ["valid", "test"])
def test_the_held_out_corpus_comes_back(shared_data, file):
    check(SMILES, lines(shared_data / "corpus" / f"{file}.smi.gz"))


def test_random_spellings_come_back(shared_data):
    mols = [Chem.MolFromSmiles(s) for s in lines(shared_data / "corpus" / "valid.smi.gz")[:300]]
    check(SMILES, [s for mol in mols for s in Chem.MolToRandomSmilesVect(mol, 5, 7)])


def test_selfies_come_back_as_the_same_molecule(shared_data):
    smiles = lines(shared_data / "corpus" / "valid.smi.gz")[:500]
    strings = [tk.smiles_to_selfies(s) for s in smiles]
    check(SELFIES, strings)
    back = [tk.selfies_to_smiles(s) for s in decode(SELFIES, *tk.Codec.of(SELFIES).encode(strings))]
    assert [Chem.CanonSmiles(s) for s in back] == [Chem.CanonSmiles(s) for s in smiles]


@pytest.mark.parametrize("smiles", ["CC*", "[NH3]->[Pt]", "C(C)(C)(C)(C)C", "[Hg]:[Cl]"])
def test_what_selfies_cannot_say_is_an_error(smiles):
    with pytest.raises(ValueError, match="no SELFIES"):
        tk.smiles_to_selfies(smiles)


def test_vocabulary_is_the_one_of_record(tokenizer):
    assert tk.vocab_hash(tokenizer) == HASHES[tk.notation_of(tokenizer)]
    assert len(tokenizer) < 256
    assert tokenizer.convert_tokens_to_ids(list(tk.SPECIAL_TOKENS)) == [0, 1, 2, 3]
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)


def test_common_symbols_are_one_token():
    assert SMILES.tokenize("Clc1c[nH]c([C@@H](Br)[N+](=O)[O-])c1") == [
        *[
            "Cl",
            "c",
            "1",
            "c",
            "[nH]",
            "c",
            "(",
            "[C@@H]",
            "(",
            "Br",
            ")",
            "[N+]",
            "(",
            "=",
            "O",
            ")",
            "[O-]",
        ],
        *[")", "c", "1"],
    ]


def test_saved_tokenizer_is_the_same(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    for loaded in (tk.load_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)):
        assert tk.vocab_hash(loaded) == tk.vocab_hash(tokenizer)
        assert tk.notation_of(loaded) == tk.notation_of(tokenizer)
        check(loaded, STRANGE)


@pytest.mark.parametrize("string", ["C C", "C\nC", "C\u03b1", "C\tC"])
def test_what_no_token_covers_is_an_error(string):
    with pytest.raises(ValueError, match="row 1"):
        tk.Codec.of(SMILES).encode(["CC", string])


def test_nothing_and_the_empty_string():
    carbon = SMILES.convert_tokens_to_ids("C")
    ids, offsets = tk.Codec.of(SMILES).encode([])
    assert (len(ids), offsets.tolist()) == (0, [0])
    ids, offsets = tk.Codec.of(SMILES).encode(["", "C", ""])
    assert (ids.tolist(), offsets.tolist()) == ([1, 2, 1, carbon, 2, 1, 2], [0, 2, 5, 7])


def test_rare_symbols_are_spelled():
    tokenizer = tk.build_smiles_tokenizer(["C[Si](C)C"] * 5 + ["[Fe]", "C%11CC%11"], min_count=5)
    assert tokenizer.tokenize("[Si]") == ["[Si]"]
    assert tokenizer.tokenize("[Fe]") == ["[", "F", "e", "]"]
    assert tokenizer.tokenize("%11%12") == ["%11", "%", "1", "2"]


def test_a_vocabulary_beyond_one_byte_is_an_error():
    with pytest.raises(ValueError, match="raise min_count"):
        tk.build_smiles_tokenizer([f"[{z}C]" for z in range(200)], min_count=1)


def test_a_missing_tokenizer_is_told_with_the_known_ones(tmp_path, monkeypatch):
    monkeypatch.setenv("MOLCMIM_HOME", str(tmp_path))
    SMILES.save_pretrained(tmp_path / "tokenizers" / "mine")
    assert tk.load_tokenizer("mine").get_vocab() == SMILES.get_vocab()
    with pytest.raises(FileNotFoundError, match=r"(?s)'yours'.*Known by name: .*mine \("):
        tk.load_tokenizer("yours")


def test_another_tokenizer_is_refused(tmp_path):
    SMILES.save_pretrained(tmp_path)
    path = tmp_path / "tokenizer.json"
    parts = json.loads(path.read_text())
    parts["pre_tokenizer"]["pattern"]["Regex"] = "."
    path.write_text(json.dumps(parts))
    with pytest.raises(ValueError, match="not a molcmim tokenizer"):
        tk.load_tokenizer(tmp_path)


def test_selfies_of_any_symbols_can_be_read():
    symbols = [token for token in tk.load_tokenizer("selfies").get_vocab() if token[0] == "[" and len(token) > 1]
    rng = np.random.default_rng(0)
    strings = ["".join(rng.choice(symbols, rng.integers(1, 40))) for _ in range(1000)]
    before = selfies.get_semantic_constraints()
    read = [tk.selfies_to_smiles(string) for string in strings]
    assert selfies.get_semantic_constraints() == before
    assert any("Si" in string for string in read)
    _, reasons = smiles.canonicalize(read)
    assert set(reasons) <= {None, "empty string"}
    assert reasons.count(None) > 950
