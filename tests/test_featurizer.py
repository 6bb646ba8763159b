from __future__ import annotations

import copy
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from rdkit import Chem
from stores import MOLECULES

from molcmim import Featurizer, MoleculeError, checkpoint, featurizer, smiles
from molcmim.config import MolCMIMConfig
from molcmim.model import MolCMIMModel
from molcmim.tokenizer import load_tokenizer, vocab_hash

EMBEDDINGS = ("mean", "informative", "both")
ALL = [canonical for canonical, _ in MOLECULES]
MANY = list(dict.fromkeys([*ALL, *(f"{a}.{b}" for a in ALL for b in ALL if a < b)]))[::2][:512]
BAD = {1: None, 3: "C1CC", 4: "", 6: float("nan"), 7: "C" * 255, 8: "C(C)(C)(C)(C)C"}
MIXED = ["CCO", BAD[1], "c1ccccc1", BAD[3], BAD[4], "OCC", BAD[6], BAD[7], BAD[8], "CC(=O)O"]
GOOD = [0, 2, 5, 9]


@pytest.fixture(scope="module")
def tiny(tiny_checkpoint: Path) -> Featurizer:
    return Featurizer.from_pretrained(tiny_checkpoint, device="cpu")


@pytest.fixture(scope="module")
def many(tiny: Featurizer) -> dict[str, np.ndarray]:
    return {embedding: tiny.featurize(MANY, embedding) for embedding in EMBEDDINGS}


@torch.no_grad()
def one_by_one(model: MolCMIMModel, text: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean and informative of one string the long way: no padding, no mask, one prefix of the target at a time."""
    ids = torch.tensor([load_tokenizer(Path(__file__).parents[1] / "tokenizers" / "smiles")(text)["input_ids"]])
    mu = model.encode(ids).mu
    states = [model.decode_hidden(ids[:, : end + 1], mu)[0, -1].double().numpy() for end in range(1, ids.shape[1])]
    return mu[0].numpy(), sum(states) / len(states)


def test_shapes(tiny: Featurizer, many: dict[str, np.ndarray]) -> None:
    assert len(MANY) == 512
    for embedding, X in many.items():
        assert X.dtype == np.float32
        assert X.shape == (512, tiny.dim(embedding))
        assert np.isfinite(X).all()
        assert len(np.unique(X.round(4), axis=0)) == 512
        assert 0.1 < np.abs(X).mean() < 10  # so that a tolerance of 1e-5 says something
    assert np.array_equal(many["both"], np.concatenate([many["mean"], many["informative"]], axis=1))


def test_each_is_what_the_model_says_one_molecule_at_a_time(tiny: Featurizer, many: dict[str, np.ndarray]) -> None:
    for row in range(0, 512, 16):
        mean, informative = one_by_one(tiny.model, smiles.to_smiles(smiles.parse(MANY[row])))
        assert np.abs(many["mean"][row] - mean).max() < 1e-5
        assert np.abs(many["informative"][row] - informative).max() < 1e-5


@pytest.mark.parametrize("embedding", EMBEDDINGS)
def test_alone_as_among_511_others(tiny: Featurizer, many: dict[str, np.ndarray], embedding: str) -> None:
    for row in range(0, 512, 16):
        assert np.abs(tiny.featurize(MANY[row], embedding) - many[embedding][row]).max() < 1e-5


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_neither_batch_size_nor_order_matters(tiny: Featurizer, many: dict[str, np.ndarray], batch_size: int) -> None:
    order = np.random.default_rng(0).permutation(len(MANY))
    X = tiny.featurize([MANY[i] for i in order], "both", batch_size=batch_size)
    assert np.abs(X - many["both"][order]).max() < 1e-5


@pytest.mark.parametrize("embedding", EMBEDDINGS)
def test_spelling_does_not_matter_at_all(tiny: Featurizer, embedding: str) -> None:
    first = tiny.featurize(ALL, embedding)
    assert np.array_equal(tiny.featurize([other for _, other in MOLECULES], embedding), first)
    for seed in range(3):
        spelled = [smiles.random_spellings(smiles.parse(text), 1, seed)[0] for text in ALL]
        assert np.array_equal(tiny.featurize(spelled, embedding), first)


def test_as_written(tiny: Featurizer) -> None:
    written = ["OCC", "C(C)O", "CCO", Chem.MolFromSmiles("OCC")]
    X = tiny.featurize(written, "both", canonicalize=False)
    assert np.array_equal(X[2], X[3])
    for row, text in zip(X, ["OCC", "C(C)O", "CCO"], strict=False):
        assert np.abs(row - np.concatenate(one_by_one(tiny.model, text))).max() < 1e-5
    assert np.abs(X[0] - X[2]).max() > 1e-2
    with pytest.raises(MoleculeError, match=r"row 1: 'C1CC': unclosed ring"):
        tiny.featurize(["OCC", "C1CC"], canonicalize=False)


def test_standardize(tiny: Featurizer) -> None:
    salt = "[Na+].CC(=O)[O-]"
    assert np.array_equal(tiny.featurize(salt, standardize=True), tiny.featurize("CC(=O)O"))
    assert np.abs(tiny.featurize(salt) - tiny.featurize("CC(=O)O")).max() > 1e-2
    with pytest.raises(ValueError, match="it needs canonicalize=True"):
        tiny.featurize(salt, standardize=True, canonicalize=False)


def test_any_container(tiny: Featurizer) -> None:
    X = tiny.featurize(ALL)
    mols = [Chem.MolFromSmiles(text) for text in ALL]
    for molecules in (
        tuple(ALL),
        np.array(ALL, dtype=object),
        np.array(ALL),
        pd.Series(ALL, index=range(7, 7 + len(ALL))),
        pd.Series(ALL, dtype="string"),
        (text for text in ALL),
        dict.fromkeys(ALL),
        pa.chunked_array([ALL[:2], ALL[2:]]),
        mols,
        [mol if i % 2 else text for i, (mol, text) in enumerate(zip(mols, ALL, strict=True))],
        np.array(mols, dtype=object),
        [Chem.AddHs(mol) for mol in mols],
    ):
        assert np.array_equal(tiny.featurize(molecules), X)
    for one in (ALL[0], mols[0], np.str_(ALL[0]), np.array(ALL[0])):
        assert tiny.featurize(one).shape == (1, 32)
        assert np.abs(tiny.featurize(one) - X[0]).max() < 1e-5
    for none in ([], np.array([]), pd.Series([], dtype=str)):
        assert tiny.featurize(none, "both").shape == (0, 96)
    assert np.isnan(tiny.featurize(b"CCO", on_error="nan")).all(1).tolist() == [True]
    with pytest.raises(TypeError, match=r"DataFrame; give one column, such as df\['smiles'\]"):
        tiny.featurize(pd.DataFrame({"smiles": ALL}))


def test_bad_molecules_are_all_named(tiny: Featurizer) -> None:
    with pytest.raises(MoleculeError) as error:
        tiny.featurize(MIXED)
    assert [bad.row for bad in error.value.rows] == list(BAD)
    reasons = {bad.row: bad.reason for bad in error.value.rows}
    assert reasons[3] == "unclosed ring"
    assert reasons[6] == "not a string or RDKit Mol but float (nan)"
    assert reasons[7] == "257 tokens; the model reads 256 at most"
    assert "6 bad molecule(s), row(s) 1, 3, 4, 6-8:" in str(error.value)


@pytest.mark.parametrize("embedding", EMBEDDINGS)
def test_bad_molecules_leave_the_others_aligned(tiny: Featurizer, embedding: str) -> None:
    good = tiny.featurize([MIXED[i] for i in GOOD], embedding)
    X = tiny.featurize(MIXED, embedding, on_error="nan")
    assert np.array_equal(X[GOOD], good)
    assert np.isnan(X[list(BAD)]).all()
    X, kept = tiny.featurize(MIXED, embedding, on_error="skip")
    assert np.array_equal(X, good)
    assert kept.tolist() == GOOD
    X, kept = tiny.featurize(list(BAD.values()), embedding, on_error="skip")
    assert X.shape == (0, tiny.dim(embedding))
    assert kept.tolist() == []


def test_the_longest_that_fits(tiny: Featurizer) -> None:
    assert tiny.max_length == 256
    assert np.isfinite(tiny.featurize("C" * 254, "both")).all()
    X = tiny.featurize(["C" * 255, "CCO", "C" * 300, "CCO"], "both", on_error="nan")
    assert np.isnan(X[[0, 2]]).all()
    assert np.abs(X[[1, 3]] - tiny.featurize("CCO", "both")).max() < 1e-5


def test_each_different_molecule_is_computed_once(tiny: Featurizer, monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[int] = []

    def counted(model: MolCMIMModel, ids: torch.Tensor, *rest: object) -> torch.Tensor:
        computed.append(len(ids))
        return embed(model, ids, *rest)

    embed = featurizer.embed
    monkeypatch.setattr(featurizer, "embed", counted)
    X = tiny.featurize(["CCO", "OCC", "CCO", "C(O)C", "CCN"] * 20)
    assert sum(computed) == 2
    assert (X.reshape(20, 5, -1)[:, :4] == X[0]).all()


def test_batches_shrink_when_memory_runs_out(
    tiny: Featurizer, many: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    embed = featurizer.embed

    def memory(fits: int, error: Exception) -> None:
        def limited(model: MolCMIMModel, ids: torch.Tensor, *rest: object) -> torch.Tensor:
            if len(ids) > fits:
                raise error
            return embed(model, ids, *rest)

        monkeypatch.setattr(featurizer, "embed", limited)

    for error in torch.OutOfMemoryError("x"), RuntimeError("can't allocate memory: 9 bytes"), MemoryError():
        memory(3, error)
        assert np.abs(tiny.featurize(MANY[:100], "both", batch_size=64) - many["both"][:100]).max() < 1e-5
    memory(0, MemoryError())
    with pytest.raises(MemoryError):
        tiny.featurize("CCO")
    memory(3, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes"):
        tiny.featurize(MANY[:10])


def test_every_copy_says_the_same(tiny: Featurizer, tiny_checkpoint: Path) -> None:
    X = tiny.featurize(ALL, "both")
    for other in (Featurizer.from_pretrained(tiny_checkpoint), copy.deepcopy(tiny), pickle.loads(pickle.dumps(tiny))):
        assert np.array_equal(other.featurize(ALL, "both"), X)


def test_the_model_is_left_as_it_was(tiny_checkpoint: Path) -> None:
    model, tokenizer = checkpoint.load(tiny_checkpoint)
    before = torch.get_rng_state()
    loaded = Featurizer(model, tokenizer)
    loaded.featurize(ALL, "both")
    assert torch.equal(torch.get_rng_state(), before)
    ids = torch.tensor([[1, 40, 2]])
    featurizer.embed(loaded.model, ids, None, ids, "both").sum().backward()
    assert loaded.model.encoder.latents.grad is not None


@torch.no_grad()
def test_several_spellings_are_averaged_and_the_decoder_is_told_the_canonical_one(tiny: Featurizer) -> None:
    X = tiny.featurize(ALL, "both", spellings=4, batch_size=7)
    for text, row in zip(ALL, X, strict=True):
        written = [text, *smiles.random_spellings(smiles.parse(text), 3, 0)]
        mu = np.mean([tiny.featurize(spelling, canonicalize=False)[0] for spelling in written], axis=0)
        ids = torch.tensor([load_tokenizer("smiles")(text)["input_ids"]])
        informative = tiny.model.decode_hidden(ids, torch.from_numpy(mu[None])).mean(1)[0].numpy()
        np.testing.assert_allclose(row, np.r_[mu, informative], atol=1e-5)
    assert np.array_equal(X[:, : tiny.dim("mean")], tiny.featurize(ALL, spellings=4, batch_size=7))
    assert np.array_equal(tiny.featurize("OCC", "both", spellings=4), tiny.featurize("C(C)O", "both", spellings=4))
    assert np.abs(tiny.featurize(ALL, spellings=4) - tiny.featurize(ALL)).max() > 1e-3
    Y, kept = tiny.featurize(MIXED, "informative", on_error="skip", spellings=4)
    assert kept.tolist() == GOOD
    np.testing.assert_allclose(Y[0], tiny.featurize("CCO", "informative", spellings=4)[0], atol=1e-5)
    told = Featurizer.from_pretrained("molcmim-small", "cpu")
    first, mean = told.featurize("CCO", "descriptors", spellings=3), told.featurize("CCO", spellings=3)
    assert told.model.to_descriptors is not None
    np.testing.assert_allclose(first, told.model.to_descriptors(torch.from_numpy(mean)).numpy(), atol=1e-5)


def test_choices_are_checked(tiny: Featurizer) -> None:
    with pytest.raises(ValueError, match="embedding must be one of mean, informative, both for this model, got 'Mean'"):
        tiny.featurize("C", embedding="Mean")
    with pytest.raises(ValueError, match="embedding must be one of"):
        tiny.dim("all")
    with pytest.raises(ValueError, match="on_error must be one of raise, nan, skip, got 'ignore'"):
        tiny.featurize("C", on_error="ignore")
    with pytest.raises(ValueError, match="spellings must be at least 1, got 0"):
        tiny.featurize("C", spellings=0)
    with pytest.raises(ValueError, match="of several spellings all but one are drawn: they need canonicalize=True"):
        tiny.featurize("C", spellings=2, canonicalize=False)
    for size in (0, -3):
        with pytest.raises(ValueError, match=f"batch_size must be at least 1, or None, got {size}"):
            tiny.featurize("C", batch_size=size)
    for device, message in (
        ("gpu", "device must be one that torch knows.* got 'gpu'"),
        ("cuda:99", "no device cuda:99"),
    ):
        with pytest.raises(ValueError, match=message):
            Featurizer.from_pretrained("molcmim-small", device)
    assert "mean 32, informative 64, both 96; up to 256 tokens; float32 on cpu" in repr(tiny)


def test_descriptors_are_what_rdkit_computes_nearly(tiny: Featurizer) -> None:
    released = Featurizer.from_pretrained("molcmim-small", "cpu")
    X = released.featurize(ALL, "descriptors")
    assert X.dtype == np.float32
    assert X.shape == (len(ALL), released.dim("descriptors"))
    assert np.abs(released.featurize(ALL[3], "descriptors") - X[3]).max() < 1e-5
    weight, bias = (p.detach().numpy().astype(np.float64) for p in released.model.to_descriptors.parameters())
    assert np.abs(released.featurize(ALL) @ weight.T + bias - X).max() < 1e-4
    scale = checkpoint.describe("molcmim-small")["training"]["descriptors"]
    raw = pd.DataFrame([smiles.descriptors(smiles.parse(text)) for text in ALL], columns=smiles.DESCRIPTOR_NAMES)
    computed = ((raw[scale["names"]] - scale["mean"]) / scale["std"]).clip(-10, 10).to_numpy()
    assert ((X - computed) ** 2).sum() < 0.15 * ((computed - computed.mean(0)) ** 2).sum()
    with pytest.raises(ValueError, match="both for this model, got 'descriptors': that takes training"):
        tiny.featurize("CCO", "descriptors")


@pytest.mark.parametrize("embedding", ["mean", "informative"])
def test_bfloat16_hardly_turns_a_vector(embedding: str) -> None:
    released = [Featurizer.from_pretrained("molcmim-small", "cpu", precision) for precision in featurizer.PRECISIONS]
    exact, fast = (one.featurize(ALL, embedding).astype(np.float64) for one in released)
    norms = np.linalg.norm(exact, axis=1) * np.linalg.norm(fast, axis=1)
    cosine = (exact * fast).sum(1) / norms
    assert 0.999 < cosine.min() < 1 - 1e-8  # below 1, or nothing was rounded
    assert released[1].featurize(ALL, embedding).dtype == np.float32
    with pytest.raises(ValueError, match="precision must be one of float32, bfloat16, got 'int8'"):
        Featurizer.from_pretrained("molcmim-small", precision="int8")


def test_selfies() -> None:
    tokenizer = load_tokenizer(Path(__file__).parents[1] / "tokenizers" / "selfies")
    config = MolCMIMConfig.named(
        "tiny", vocab_size=len(tokenizer), vocab_hash=vocab_hash(tokenizer), notation="selfies"
    )
    spells = Featurizer(MolCMIMModel(config), tokenizer)
    X = spells.featurize(ALL, "both")
    assert np.array_equal(spells.featurize([other for _, other in MOLECULES], "both"), X)
    with pytest.raises(MoleculeError, match=r"row 1: '\*C': no SELFIES"):
        spells.featurize(["CCO", "*C"])


@pytest.mark.parametrize("name", ["esol", "freesolv", "lipophilicity"])
def test_every_row_of_the_property_sets_has_an_embedding(tiny: Featurizer, shared_data: Path, name: str) -> None:
    table = pd.read_csv(shared_data / "moleculenet" / f"{name}.csv")
    assert np.isfinite(tiny.featurize(table["smiles"])).all()
