"""Figures of merit: against counts by hand, closed forms, and sampling."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import torch
from stores import learned

from molcmim import merit
from molcmim.featurizer import Featurizer
from molcmim.merit import Figure, Known
from molcmim.space import Space
from molcmim.tokenizer import load_tokenizer, vocab_hash


@pytest.fixture(scope="module")
def space() -> Space:
    """Return the space of a small model that knows 24 molecules by heart."""
    network, tokenizer = copy.deepcopy(learned()[0]), load_tokenizer("smiles")
    network.config.vocab_hash = vocab_hash(tokenizer)
    return Space(Featurizer(network, tokenizer))


def by_name(figures: list[Figure]) -> dict[str, Figure]:
    return {figure.name: figure for figure in figures}


def test_known_molecules_and_a_choice_of_them() -> None:
    chunks = [["C", "CC", "CCC"], ["CC", "CO"], []]
    known = Known(chunks, sample=2)
    assert len(known) == 4
    assert known.hashes.dtype == np.uint64
    assert list(known.hold(["CO", "CN", "C", "OC"])) == [True, False, True, False]
    assert known.hold(["CCC"]).all()
    assert not Known([]).hold(["C"]).any()
    everything = Known(chunks, sample=9).sample
    assert sorted(everything) == ["C", "CC", "CCC", "CO"]
    assert known.sample == everything[:2]
    assert Known(reversed(chunks), sample=2).sample == known.sample  # whatever the order


def test_a_choice_by_hash_is_a_choice_at_random() -> None:
    molecules = ["C" * i for i in range(1, 4001)]
    chosen = np.array([len(m) for m in Known([molecules], 400).sample])
    assert abs(chosen.mean() - 2000.5) < 4.5 * 4000 / math.sqrt(12 * 400)


def test_standard_errors_have_their_closed_forms() -> None:
    assert merit.share([True, False, False, False]) == (0.25, math.sqrt(0.25 * 0.75 / 4), 4)
    value, se, n = merit.mean([1.0, 2.0, 3.0, math.nan])
    assert (value, n) == (2.0, 3)
    assert se == pytest.approx(1 / math.sqrt(3))
    same = merit.ratio([1, 0, 1, 1], [1, 1, 1, 1])  # clusters of one are a plain mean
    assert same[:2] == pytest.approx(merit.mean([1, 0, 1, 1])[:2])
    assert same[2] == 4
    assert all(map(math.isnan, merit.ratio([0], [0])[:2]))


def test_the_error_of_a_ratio_is_that_of_repeated_sampling() -> None:
    rng = np.random.default_rng(0)
    estimates, errors = [], []
    for _ in range(600):
        p = rng.beta(2, 2, 60)  # clusters differ
        sizes = rng.integers(5, 15, 60)
        value, se, _ = merit.ratio(rng.binomial(sizes, p), sizes)
        estimates.append(value)
        errors.append(se)
    assert np.mean(errors) == pytest.approx(np.std(estimates), rel=0.1)


def test_sampling_figures_are_counts() -> None:
    """Two seeds, five draws each, counted by hand."""
    frame = pd.DataFrame(
        {
            "seed": ["CCO"] * 5 + ["CCC"] * 5,
            "canonical": ["CCO", "CCN", "CCN", None, "CO", "CN", "CN", "CN", "CCC", "CCC"],
            "similarity": [1.0, 0.5, 0.5, math.nan, 0.2, 0.1, 0.1, 0.1, 1.0, 1.0],
        }
    )
    frame["valid"] = frame["canonical"].notna()
    found = by_name(list(merit.around_seeds(frame, 0.5, Known([["CO", "CN"]]))))
    expected = {
        "valid": (9, 10), "unique": (5, 9), "not the seed": (6, 9), "novel": (3, 5), "effective novelty": (1, 10),
        "similarity": (4.5, 9),
    }  # fmt: skip
    assert {name: (figure.value, figure.n) for name, figure in found.items()} == {
        name: (pytest.approx(a / b), b) for name, (a, b) in expected.items()
    }
    assert {figure.setting for figure in found.values()} == {"radius 0.5"}
    assert set(by_name(list(merit.around_seeds(frame, 0.5, None)))) == set(expected) - {"novel", "effective novelty"}


def test_prior_figures() -> None:
    frame = pd.DataFrame({"canonical": ["CCO", "CCO", None, "c1ccccc1"], "valid": [True, True, False, True]})
    reference = np.random.default_rng(0).standard_normal((40, 4))
    figures, values = merit.of_prior(frame, reference, Known([["CCO"]]))
    found = by_name(figures)
    assert (found["valid"].value, found["unique"].value, found["novel"].value) == (0.75, pytest.approx(2 / 3), 0.5)
    assert values.shape == (3, 4)
    far = [figure for figure in figures if figure.name == "distance to the corpus"]
    assert [figure.setting for figure in far] == list(merit.DISTRIBUTIONS)
    assert far[3].value == pytest.approx(np.mean([46.069, 46.069, 78.114]) - reference[:, 3].mean(), abs=1e-2)


def test_interpolation_figures() -> None:
    frame = pd.DataFrame({"canonical": ["CCO", "CCO", None, "CCN"], "similarity_a": [1.0, 1.0, math.nan, 0.3]})
    frame["valid"] = frame["canonical"].notna()
    frame.attrs = {"a": "CCO", "b": "CCN"}
    found = {name: figure.value for name, figure in by_name(list(merit.interpolation([frame], "linear"))).items()}
    near = found["similarity of ends"]
    assert found == pytest.approx(
        {
            "valid": 0.5,
            "different": 0.5,
            "step similarity": (1 + near) / 2,
            "least step similarity": near,
            "monotone": 1.0,
            "similarity of ends": near,
        }
    )


def test_importance_sampling_is_the_integral(monkeypatch) -> None:
    """With p(x|z) = N(y(x); sum(z), 1) in two dimensions, p(x) is N(y(x); 0, 3)."""
    y = {"CCO": 0.7, "CC": -1.0}
    rows = np.arange(2)
    toy = Mock(spec=Space)
    toy.dim, toy.model = 2, SimpleNamespace(device="cpu")
    encoded = SimpleNamespace(reasons=[None, None], which=rows, ids=rows, offsets=rows)
    mu = np.array([[value / 3] * 2 for value in y.values()], np.float32)
    toy.featurizer = SimpleNamespace(
        reader=lambda: SimpleNamespace(read=lambda molecules: encoded), embed_encoded=lambda encoded, embedding: mu
    )
    values = torch.tensor(list(y.values()))
    monkeypatch.setattr(merit, "gather", lambda ids, offsets, rows: (rows[:, None], None))
    monkeypatch.setattr(
        merit,
        "log_probability",
        lambda model, ids, z: torch.distributions.Normal(z.sum(1), 1.0).log_prob(values[ids[:, 0]]),
    )
    found = merit.importance(toy, list(y), 20_000, -0.5, np.random.default_rng(0))
    expected = torch.distributions.Normal(0.0, math.sqrt(3)).log_prob(values)
    np.testing.assert_allclose(found.log_px, expected, atol=0.03)
    assert (found.effective > 1000).all()


def test_likelihood_of_what_a_model_knows_is_higher(space) -> None:
    known = ["CCO", "c1ccccc1", "CC(C)=O", "ClC(Cl)Cl", "Nc1ccccc1", "CS(C)=O"]
    foreign = ["CCOCCN", "c1ccc(F)cc1", "CC(C)=NO", "ClC(Cl)CBr", "Nc1ccccc1F", "CS(C)=N"]
    rng = np.random.default_rng(0)
    figures = {
        name: by_name(list(merit.likelihood(space, molecules, 16, rng, 2)))
        for name, molecules in (("known", known), ("foreign", foreign))
    }
    bits = {name: found["bits per character"].value for name, found in figures.items()}
    assert bits["known"] < bits["foreign"]
    found = figures["known"]
    assert found["bits per character"].value == pytest.approx(
        -found["log p(x), nats"].value * 4 / math.log(2) / sum(map(len, known[2:]))
    )
    assert 1 <= found["effective samples"].value <= 16
    with pytest.raises(ValueError, match="1 molecules cannot be encoded; the first: unclosed ring"):
        merit.importance(space, ["C1CC"], 2, -1.0, rng)


def test_decoding_without_a_cache_writes_the_same(space) -> None:
    z = space.encode(["CCO", "c1ccccc1", "CC(C)=O", "CC(=O)Oc1ccccc1"]).mu
    ids = merit.plain_greedy(space, z)
    frame = space.decode(z, "greedy", np.random.default_rng(0))
    assert space.tokenizer.batch_decode(ids, skip_special_tokens=True) == frame["smiles"].tolist()


def test_throughput_counts_molecules_a_second() -> None:
    ticks = iter([0.0, 2.0, 2.0, 3.0, 3.0, 7.0, 7.0, 8.0])
    figures = list(merit.throughput({"a": int, "b": int}, 8, 2, lambda: next(ticks)))
    assert [(figure.setting, figure.value, figure.n) for figure in figures] == [("a", 3.0, 2), ("b", 8.0, 2)]
    assert figures[0].se == pytest.approx(1.0)


def evaluations(scores: dict[str, list[float]]) -> pd.DataFrame:
    rows = [(seed, i + 1, score) for seed, own in scores.items() for i, score in enumerate(own)]
    frame = pd.DataFrame(rows, columns=["seed", "call", "score"])
    frame["best"] = frame.groupby("seed")["score"].cummax()
    frame.attrs = {"draws": 40}
    return frame


def test_success_is_the_share_of_seeds() -> None:
    ours = evaluations({"a": [0.7, 0.91], "b": [0.7, 0.8, 0.9], "c": [0.7], "d": [0.7, 0.95]})
    theirs = evaluations({"a": [0.7, 0.8], "b": [0.7, 0.92], "c": [0.7], "d": [0.7]})
    found = by_name(list(merit.success(ours, "cma", 20, 0.9)))
    assert found["share that reaches 0.9 in 2 calls"].value == 0.5
    assert found["share that reaches 0.9 in 20 calls"][3:] == (0.75, pytest.approx(math.sqrt(3 / 64)), 4)
    assert found["best score"].value == pytest.approx((0.91 + 0.9 + 0.7 + 0.95) / 4)
    assert found["calls of those that reach it"].value == pytest.approx(7 / 3)
    assert found["codes decoded, per seed"].value == 10
    difference = merit.advantage(ours, theirs, "best-of-n", 0.9)
    assert (difference.value, difference.n) == (0.5, 4)
    assert difference.se == pytest.approx(math.sqrt(1 / 3) / 2)
