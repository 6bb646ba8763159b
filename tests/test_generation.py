"""Molecules out of the latent space: each function against a plain computation of what it promises."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch
from pandas.testing import assert_frame_equal
from rdkit import Chem
from stores import MOLECULES, chain_rule, known

from molcmim import generation
from molcmim.config import MolCMIMConfig
from molcmim.featurizer import Featurizer
from molcmim.generation import ShortOfMolecules, decode, interpolate, neighbours, reconstruct, sample, slerp
from molcmim.model import MolCMIMModel
from molcmim.smiles import MoleculeError, similarities
from molcmim.space import Space
from molcmim.tokenizer import load_tokenizer, selfies_to_smiles, vocab_hash

ASPIRIN, PARACETAMOL = "CC(=O)Oc1ccccc1C(=O)O", "CC(=O)Nc1ccc(O)cc1"
FEW = ["CCO", "OCC", "c1ccccc1", "Cc1ccccc1", "CC(C)=O", "ClC(Cl)Cl", "Nc1ccccc1", "CS(C)=O"]


@pytest.fixture(scope="module")
def model() -> Featurizer:
    return known()


@pytest.fixture(scope="module")
def codes(model):
    return model.featurize(FEW) + 0.3 * np.random.default_rng(0).standard_normal((8, 32), np.float32)


@pytest.fixture
def decoded_codes(monkeypatch):
    """Return the codes that are decoded, call by call."""
    calls, plain = [], Space.decode

    def spy(self, z, *rest):
        calls.append(z)
        return plain(self, z, *rest)

    monkeypatch.setattr(Space, "decode", spy)
    return calls


def test_what_is_decoded_is_reported_as_it_is(model):
    """An invalid string stays, with RDKit's reason; a special token is never part of one."""
    z = 4 * np.random.default_rng(0).standard_normal((40, 32), np.float32)
    frame = decode(z, decoding="nucleus:1", checkpoint=model)
    assert 0 < frame["valid"].sum() < 40
    for row in frame.itertuples():
        mol = Chem.MolFromSmiles(row.smiles)
        if row.error is not None and "no end" in row.error:
            assert len(model.tokenizer(row.smiles)["input_ids"]) - 1 == model.max_length
        else:
            assert row.valid == (mol is not None and mol.GetNumAtoms() > 0)
        assert (row.canonical is None) == (not row.valid) == (row.error is not None)
        if row.valid:
            assert row.canonical == Chem.CanonSmiles(row.smiles)
    forbidden = Space(model).forbidden
    assert {0, 1, 3} <= set(forbidden) <= set(range(256)) - {2}
    assert len(forbidden) == 256 - len(model.tokenizer.get_vocab()) + 3


def test_codes_of_any_kind_decode(model, codes):
    whole = decode(codes, checkpoint=model)
    assert_frame_equal(decode(codes.tolist(), checkpoint=model), whole)
    assert_frame_equal(decode(torch.from_numpy(codes).requires_grad_(), checkpoint=model), whole)
    assert_frame_equal(decode(codes[0], checkpoint=model), whole[:1], atol=1e-3)


def test_codes_that_are_no_codes(model, codes):
    with pytest.raises(ValueError, match=r"z must have the shape \(n, 32\).* got \(8, 31\)"):
        decode(codes[:, 1:], checkpoint=model)
    bad = codes.copy()
    bad[3, 5] = np.nan
    with pytest.raises(MoleculeError, match=r"row\(s\) 3:\n.*the code is not finite"):
        decode(bad, checkpoint=model)
    whole = decode(codes, checkpoint=model)
    kept = decode(bad, on_error="nan", checkpoint=model)
    assert list(kept["error"][[3]]) == ["the code is not finite"]
    assert not kept["valid"][3]
    assert kept["valid"].dtype == bool
    assert kept["smiles"].isna().tolist() == [i == 3 for i in range(8)]
    skipped = decode(bad, on_error="skip", checkpoint=model)
    assert list(skipped.index) == [0, 1, 2, 4, 5, 6, 7]
    for frame in (kept.drop(3), skipped):
        assert_frame_equal(frame, whole.drop(3), check_dtype=False, atol=1e-3)


def test_reconstruction_compares_with_what_was_read(model):
    known = [canonical for canonical, _ in sorted(MOLECULES, key=lambda molecule: len(molecule[0]))[:24]]
    frame = reconstruct([*known, ASPIRIN], checkpoint=model)
    assert list(frame["input"]) == [Chem.CanonSmiles(molecule) for molecule in [*known, ASPIRIN]]
    assert 5 < frame["exact"].sum() < 25
    assert list(frame["exact"]) == [a == b for a, b in zip(frame["input"], frame["canonical"], strict=True)]
    assert (frame.loc[frame["exact"], "similarity"] == 1).all()
    assert_frame_equal(
        frame[["smiles", "valid", "canonical", "log_prob", "error"]],
        decode(model.featurize([*known, ASPIRIN]), checkpoint=model),
        atol=1e-3,
    )


def test_reconstruction_keeps_bad_rows_in_place(model):
    frame = reconstruct(["CCO", "C1CC", None, "OCC"], on_error="nan", checkpoint=model)
    assert list(frame["input"]) == ["CCO", "C1CC", "None", "CCO"]
    assert list(frame["error"][1:3]) == ["unclosed ring", "not a string or RDKit Mol but NoneType"]
    assert not frame["valid"][1:3].any()
    assert not frame["exact"][1:3].any()
    assert frame["smiles"][0] == frame["smiles"][3]
    with pytest.raises(MoleculeError, match=r"row\(s\) 1, 2:"):
        reconstruct(["CCO", "C1CC", None], checkpoint=model)


def test_only_bad_rows(model):
    frame = reconstruct(["C1CC", "xx"], on_error="nan", checkpoint=model)
    assert frame["valid"].dtype == bool
    assert not frame["valid"].any()
    assert frame["error"].notna().all()


def test_radius_0_is_the_reconstruction(model):
    frame = sample(FEW, 2, 0.0, checkpoint=model)
    back = reconstruct(FEW, checkpoint=model)
    assert list(frame["seed"]) == list(back["input"].repeat(2))
    columns = ["smiles", "valid", "canonical", "log_prob", "error", "similarity"]
    assert_frame_equal(frame[columns], back.loc[back.index.repeat(2), columns].reset_index(drop=True), atol=1e-3)


def test_noise_is_normal_with_the_scaled_radius(model, decoded_codes):
    sample("CCO", 300, 0.7, checkpoint=model)
    sample(None, 300, checkpoint=model)
    around, prior = decoded_codes
    eps = (around - model.featurize("CCO")) / 0.7
    np.testing.assert_allclose(eps, prior, atol=1e-5)  # the same draws: one stream for a seed
    assert abs(eps.mean()) < 4.5 / math.sqrt(eps.size)
    assert abs(eps.std() - 1) < 4.5 / math.sqrt(2 * eps.size)
    assert np.abs(np.corrcoef(eps.T) - np.eye(32)).max() < 5 / math.sqrt(300)


@pytest.mark.filterwarnings("ignore::molcmim.generation.ShortOfMolecules")
@pytest.mark.parametrize("how", ["greedy", "nucleus:0.9"])
def test_the_same_random_state_gives_the_same_frame(model, how):
    def draw(random_state, torch_state):
        torch.manual_seed(torch_state)
        before = torch.get_rng_state()
        frame = sample(FEW[:3], 6, unique=True, decoding=how, random_state=random_state, checkpoint=model)
        assert torch.equal(torch.get_rng_state(), before)
        return frame

    first, again, other = draw(1, 0), draw(1, 5), draw(2, 0)
    assert_frame_equal(first, again)
    assert first.attrs == again.attrs
    assert list(first["smiles"]) != list(other["smiles"])


@pytest.mark.filterwarnings("ignore::molcmim.generation.ShortOfMolecules")
def test_smaller_rounds_give_the_same_rows(model, decoded_codes, monkeypatch):
    settings = {"unique": True, "max_draws": 40, "checkpoint": model}
    frame = sample(FEW[:3], 2, 0.1, **settings)
    rounds = max(len(z) for z in decoded_codes[1:])
    decoded_codes.clear()
    monkeypatch.setattr(generation, "CODES_AT_A_TIME", 1)
    assert_frame_equal(sample(FEW[:3], 2, 0.1, **settings), frame)
    assert max(len(z) for z in decoded_codes) <= 6 < rounds


@pytest.mark.filterwarnings("ignore::molcmim.generation.ShortOfMolecules")
@pytest.mark.parametrize(("valid", "unique"), [*itertools.product([False, True], repeat=2)])
def test_what_is_kept_are_the_first_draws_fit_to_keep(model, valid, unique):
    budget = 60
    every = sample(FEW, budget, checkpoint=model)
    kept = sample(FEW, 7, valid=valid, unique=unique, max_draws=budget, checkpoint=model)
    used = 0
    for number, seed in enumerate(FEW):
        own = every.iloc[number * budget : (number + 1) * budget]
        expected, seen = [], set()
        for row in own.itertuples():
            key = row.canonical if row.valid else row.smiles
            if (row.valid or not valid) and not (unique and key in seen) and len(expected) < 7:
                expected.append(row.draw)
                seen.add(key)
        found = kept[used : used + len(expected)]
        used += len(expected)
        assert list(found["draw"]) == expected, seed
        columns = ["smiles", "valid", "canonical", "error", "similarity", "log_prob"]
        drawn = own.set_index("draw").loc[expected, columns]
        assert_frame_equal(found[columns].reset_index(drop=True), drawn.reset_index(drop=True), atol=1e-3)
    assert used == len(kept)
    if not (valid or unique):
        assert kept.attrs["draws"] == 7 * len(FEW)


@pytest.mark.filterwarnings("ignore::molcmim.generation.ShortOfMolecules")
def test_substructures_and_the_seed_are_left_out_as_asked(model):
    every = sample(FEW, 60, 0.3, checkpoint=model)
    everything = {"max_draws": 60, "checkpoint": model}
    other = sample(FEW, 60, 0.3, not_seed=True, **everything)
    assert_frame_equal(other, every[every["canonical"] != every["seed"]].reset_index(drop=True))
    assert len(other) < len(every)
    fit = every["valid"] & every["smiles"].str.contains("[Oo]") & ~every["smiles"].str.contains("[Nn]")
    assert 0 < fit.sum() < every["valid"].sum()
    kept = sample(FEW, 60, 0.3, must_have="[#8]", must_not_have=["[#7]"], **everything)
    assert_frame_equal(kept, every[fit].reset_index(drop=True))
    with pytest.raises(ValueError, match="not_seed needs a seed"):
        sample(not_seed=True, checkpoint=model)


def test_the_cost_is_counted(model, decoded_codes):
    frame = sample("CCO", 15, 1.5, valid=True, unique=True, checkpoint=model)
    assert len(frame) == 15
    assert frame["canonical"].is_unique
    draws = sum(map(len, decoded_codes))
    assert len(decoded_codes) > 1  # it went on
    assert draws == frame.attrs["draws"] > 15
    again = sample("CCO", draws, 1.5, checkpoint=model)
    assert frame.attrs["valid_draws"] == again["valid"].sum()
    assert frame.attrs["different_draws"] == again["canonical"].nunique()
    assert frame.attrs["scaled_radius"] == 1.5


def test_a_budget_that_ends_is_said(model, decoded_codes):
    with pytest.warns(ShortOfMolecules, match=r"found 2 of 8 molecules in 30 draws; raise max_draws"):
        frame = sample(["CCO", "c1ccccc1"], 4, 0.0, unique=True, max_draws=15, checkpoint=model)
    assert list(frame["draw"]) == [0, 0]
    assert sum(map(len, decoded_codes)) == frame.attrs["draws"] == 30


def test_nothing_fit_to_keep_is_an_empty_frame(model, monkeypatch):
    plain = Space.decode
    monkeypatch.setattr(Space, "decode", lambda *given: plain(*given).assign(valid=False, canonical=None))
    with pytest.warns(ShortOfMolecules, match="found 0 of 4 molecules in 8 draws"):
        frame = sample(["CCO", "C"], 2, valid=True, max_draws=4, checkpoint=model)
    assert list(frame) == ["seed", "draw", "smiles", "valid", "canonical", "log_prob", "error", "similarity"]
    assert len(frame) == 0
    assert frame.attrs["valid_draws"] == 0
    assert len(reconstruct([], checkpoint=model)) == len(decode(np.zeros((0, 32)), checkpoint=model)) == 0


def test_a_seed_is_drawn_around_in_the_same_way_beside_others(model):
    alone = sample("CCO", 6, checkpoint=model)
    beside = sample(["CCO", Chem.MolFromSmiles("c1ccccc1")], 6, checkpoint=model)
    assert_frame_equal(beside[:6], alone, atol=1e-3)
    assert list(beside["seed"]) == ["CCO"] * 6 + ["c1ccccc1"] * 6


def test_samples_of_the_prior_have_no_seed(model):
    frame = sample(n=5, checkpoint=model)
    assert list(frame) == ["draw", "smiles", "valid", "canonical", "log_prob", "error"]


@pytest.mark.parametrize("path", ["linear", "spherical"])
def test_interpolation_ends_at_the_reconstructions(model, path, decoded_codes):
    frame = interpolate(ASPIRIN, "CCO", 5, path=path, checkpoint=model)
    assert list(frame["position"]) == [0, 0.25, 0.5, 0.75, 1]
    ends = reconstruct([ASPIRIN, "CCO"], checkpoint=model)
    columns = ["smiles", "valid", "canonical", "log_prob"]
    assert_frame_equal(frame[columns].iloc[[0, -1]].reset_index(drop=True), ends[columns], atol=1e-3)
    a, b = model.featurize([ASPIRIN, "CCO"])
    middle = (a + b) / 2 if path == "linear" else (a + b) / (2 * math.cos(math.acos(cosine(a, b)) / 2))
    np.testing.assert_allclose(decoded_codes[0][2], middle, atol=1e-4)
    for name, end in (("similarity_a", ASPIRIN), ("similarity_b", "CCO")):
        np.testing.assert_array_equal(frame[name], similarities(end, list(frame["canonical"])))


def cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_slerp_turns_at_a_constant_rate():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 16))
    b *= np.linalg.norm(a) / np.linalg.norm(b)
    t = np.linspace(0, 1, 7)[:, None]
    z = slerp(a, b, t)
    np.testing.assert_allclose(np.linalg.norm(z, axis=1), np.linalg.norm(a))
    angle = math.acos(cosine(a, b))
    np.testing.assert_allclose([math.acos(min(1, cosine(a, row))) for row in z], angle * t[:, 0], atol=1e-6)
    x, y = np.eye(2)
    np.testing.assert_allclose(slerp(x, 3 * y, np.array([[1 / 3]]))[0], [math.cos(math.pi / 6), 3 * 0.5])


@pytest.mark.parametrize("factor", [2.0, -1.0, 0.0])
def test_slerp_without_an_arc_is_a_line(factor):
    a, t = np.array([1.0, 2.0]), np.array([[0.0], [0.25], [1.0]])
    np.testing.assert_allclose(slerp(a, factor * a, t), (1 - t) * a + t * factor * a, atol=1e-9)


def test_neighbours_are_those_of_brute_force(model):
    library = [spelling for molecule in MOLECULES for spelling in molecule]  # each molecule twice
    frame = neighbours(ASPIRIN, pd.Series(library), 12, checkpoint=model)
    X = model.featurize([ASPIRIN, *library]).astype(float)
    ranked = sorted(range(len(library)), key=lambda row: (-round(cosine(X[0], X[row + 1]), 5), row))
    assert list(frame["row"]) == ranked[:12]
    assert list(frame["smiles"]) == [library[row] for row in ranked[:12]]
    assert list(frame["canonical"]) == [Chem.CanonSmiles(smiles) for smiles in frame["smiles"]]
    np.testing.assert_allclose(frame["cosine"], [cosine(X[0], X[row + 1]) for row in ranked[:12]], atol=1e-5)
    assert list(frame["row"][:2]) == [0, 1]  # aspirin itself, and of equals the first comes first
    assert frame["cosine"][0] == pytest.approx(1, abs=1e-6)
    for row in frame.itertuples():
        ids = torch.tensor(model.tokenizer(row.canonical)["input_ids"])
        z = torch.from_numpy(X[0].astype(np.float32))
        assert row.log_prob == pytest.approx(chain_rule(model.model, z, ids), rel=1e-4)
    assert len(neighbours("CCO", FEW, 100, checkpoint=model)) == len(FEW)


def test_neighbours_by_codes_of_several_spellings(model):
    library = [canonical for canonical, _ in MOLECULES]
    frame = neighbours("OCC", library, 12, spellings=3, checkpoint=model)
    X = model.featurize(["CCO", *library], spellings=3).astype(float)
    ranked = sorted(range(len(library)), key=lambda row: -cosine(X[0], X[row + 1]))
    assert list(frame["row"]) == ranked[:12]
    np.testing.assert_allclose(frame["cosine"], [cosine(X[0], X[row + 1]) for row in ranked[:12]], atol=1e-5)
    assert_frame_equal(
        neighbours("OCC", library, 12, spellings=3, embeddings=X[1:], checkpoint=model), frame, atol=1e-4
    )


def test_several_queries_have_each_their_rows(model):
    queries = [ASPIRIN, Chem.MolFromSmiles("OCC")]
    frame = neighbours(iter(queries), FEW, 3, checkpoint=model)
    assert frame["query"].tolist() == [ASPIRIN] * 3 + ["CCO"] * 3
    for text, own in frame.groupby("query"):
        alone = neighbours(text, FEW, 3, checkpoint=model)
        own = own.drop(columns=["query_row", "query"]).reset_index(drop=True)
        pd.testing.assert_frame_equal(own, alone, atol=1e-5)
    assert "query" not in frame.attrs
    with pytest.raises(ValueError, match="there is no query to look for"):
        neighbours([], FEW, checkpoint=model)
    with pytest.raises(MoleculeError, match="'x'"):
        neighbours(["C", "x"], FEW, checkpoint=model)
    some = neighbours(["x", *queries, "C1CC"], FEW, 3, on_error="skip", checkpoint=model)
    assert some["query_row"].tolist() == [1] * 3 + [2] * 3
    assert some.attrs["queries_skipped"].keys() == {0, 3}
    assert some.attrs["queries_skipped"][3] == "unclosed ring"
    pd.testing.assert_frame_equal(some.assign(query_row=some["query_row"] - 1), frame, atol=1e-5)
    with pytest.raises(ValueError, match="none of 1 queries can be encoded; the first: unclosed ring"):
        neighbours(["C1CC"], FEW, on_error="skip", checkpoint=model)


def test_neighbours_of_a_library_that_is_embedded_already(model, monkeypatch):
    library = [*FEW, None, Chem.MolFromSmiles(ASPIRIN)]
    expected = neighbours("CCO", library, 5, on_error="skip", checkpoint=model)
    X = model.featurize(library, on_error="nan")
    encoded, encode = [], Space.encode
    monkeypatch.setattr(Space, "encode", lambda space, rows, k: encoded.append(len(rows)) or encode(space, rows, k))
    found = neighbours("CCO", library, 5, embeddings=X, on_error="skip", checkpoint=model)
    assert_frame_equal(found, expected, atol=1e-5)
    assert found.attrs == expected.attrs
    assert encoded == [1]  # the query
    with pytest.raises(MoleculeError, match=rf"row\(s\) {len(FEW)}:\n.*no embedding"):
        neighbours("CCO", library, embeddings=X, checkpoint=model)
    with pytest.raises(ValueError, match=r"embeddings have shape \(2, 32\); expected \("):
        neighbours("CCO", library, embeddings=X[:2], checkpoint=model)


def test_embeddings_of_what_cannot_be_read(model):
    library = ["C1CC", *FEW, "nope"]
    X = model.featurize(["CCO", *FEW, "CCO"])  # the two that nobody can read are nearest
    found = neighbours("CCO", library, 2, embeddings=X, on_error="skip", checkpoint=model)
    whole = neighbours("CCO", FEW, 2, checkpoint=model)
    assert (found["row"] - 1).tolist() == whole["row"].tolist()
    assert found.attrs["skipped"] == 2
    with pytest.raises(MoleculeError, match=r"row 0: 'C1CC'|row 9: 'nope'"):  # whichever is met first
        neighbours("CCO", library, 2, embeddings=X, checkpoint=model)
    assert not len(neighbours("CCO", ["x"], embeddings=X[:1], on_error="skip", checkpoint=model))


def test_neighbours_say_what_they_leave_out(model):
    library = ["C1CC", "CCO", None, "c1ccccc1"]
    frame = neighbours(Chem.MolFromSmiles("OCC"), library, on_error="skip", checkpoint=model)
    assert list(frame["row"]) == [1, 3]
    assert (frame.attrs["library"], frame.attrs["skipped"]) == (4, 2)
    with pytest.raises(MoleculeError, match=r"row\(s\) 0, 2:"):
        neighbours("CCO", library, checkpoint=model)
    for nothing in ([], ["C1CC", None]):
        with pytest.raises(ValueError, match=f"the library has {len(nothing)} rows, and no molecule that can be"):
            neighbours("CCO", nothing, on_error="skip", checkpoint=model)


@pytest.fixture(scope="module")
def selfies_model():
    """Return an untrained SELFIES model with loud weights: it writes any symbol after any other."""
    tokenizer = load_tokenizer("selfies")
    torch.manual_seed(0)
    config = MolCMIMConfig.named(
        "tiny", vocab_size=len(tokenizer), vocab_hash=vocab_hash(tokenizer), notation="selfies",
        max_position_embeddings=40,
    )  # fmt: skip
    network = MolCMIMModel(config)
    for parameter in network.decoder.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return Featurizer(network, tokenizer)


def test_selfies_models_write_valid_molecules(selfies_model):
    frame = sample(n=300, decoding="nucleus:1", checkpoint=selfies_model)
    assert list(frame)[:3] == ["draw", "selfies", "smiles"]
    ended = frame[~frame["error"].fillna("").str.contains("no end")]
    assert len(ended) > 60
    assert ended["selfies"].nunique() > 60
    assert set(ended["error"].dropna()) <= {"empty string"}
    assert ended["valid"].mean() > 0.9
    for row in ended[ended["valid"]].itertuples():
        assert Chem.CanonSmiles(row.smiles) == row.canonical
        assert row.smiles == selfies_to_smiles(row.selfies)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: sample("C1CC", checkpoint=model), "row 0: 'C1CC': unclosed ring"),
        (lambda model: sample(["CCO", "aspirin"], checkpoint=model), r"row\(s\) 1:"),
        (lambda model: sample("C" * 300, checkpoint=model), "302 tokens; the model reads 256 at most"),
        (lambda model: sample([], checkpoint=model), "seed holds no molecule"),
        (lambda model: sample("CCO", 0, checkpoint=model), "n must be at least 1 and finite, got 0"),
        (
            lambda model: sample("CCO", 5, -0.1, checkpoint=model),
            "scaled_radius must be at least 0 and finite, got -0.1",
        ),
        (lambda model: sample("CCO", 5, math.nan, checkpoint=model), "scaled_radius must be .*, got nan"),
        (
            lambda model: sample("CCO", 5, max_draws=4, checkpoint=model),
            "max_draws must be at least 5 and finite, got 4",
        ),
        (lambda model: interpolate("CCO", "CC", 1, checkpoint=model), "steps must be at least 2 and finite, got 1"),
        (lambda model: interpolate("CCO", "x", checkpoint=model), r"row\(s\) 1:\n  row 1: 'x'"),
        (
            lambda model: interpolate("CCO", "C", path="curved", checkpoint=model),
            "path must be one of linear, spherical",
        ),
        (lambda model: neighbours("x", FEW, checkpoint=model), "row 0: 'x'"),
        (lambda model: neighbours("C", FEW, 0, checkpoint=model), "k must be at least 1 and finite, got 0"),
        (
            lambda model: neighbours("C", FEW, on_error="nan", checkpoint=model),
            "on_error must be one of raise, skip, got",
        ),
        (lambda model: reconstruct("C", on_error="drop", checkpoint=model), "on_error must be one of raise, nan, skip"),
        (
            lambda model: decode(np.zeros(32), decoding="best", checkpoint=model),
            "decoding must be greedy, beam:N or valid:N .*'best'",
        ),
        (lambda model: decode(np.zeros(32), decoding="beam:1", checkpoint=model), "decoding must be"),
        (lambda model: decode(np.zeros(32), decoding="valid:1", checkpoint=model), "decoding must be"),
        (lambda model: decode(np.zeros(32), decoding="nearest:0", checkpoint=model), "decoding must be"),
        (lambda model: decode(np.zeros(32), decoding="beam:x", checkpoint=model), "decoding must be"),
        (lambda model: decode(np.zeros(32), decoding="nucleus:0", checkpoint=model), "decoding must be"),
        (lambda model: decode(np.zeros(32), decoding="greedy:2", checkpoint=model), "decoding must be"),
    ],
)
def test_bad_input_is_one_clear_error(model, call, message):
    with pytest.raises(ValueError, match=message):
        call(model)


def test_an_unknown_checkpoint_is_said():
    with pytest.raises(FileNotFoundError, match="no checkpoint 'nowhere'"):
        generation.sample(checkpoint="nowhere")
