"""Oracles: whatever a user's function does, each molecule is asked about once and costs no other."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from molcmim.oracles import Scorer, named
from molcmim.properties import properties
from molcmim.smiles import similarities

FEW = ["CCO", "c1ccccc1", "CC(=O)O", "CN"]


def lengths(molecules):
    return [len(molecule) for molecule in molecules]


def totals(scores):
    return [score.total for score in scores]


def test_each_molecule_is_asked_about_once() -> None:
    asked = []

    def oracle(molecules):
        asked.extend(molecules)
        return lengths(molecules)

    scorer = Scorer(oracle)
    assert totals(scorer.score(["CCO", "CN", "CCO"])) == [3, 2, 3]
    assert totals(scorer.score(["CN", "C", "CCO"])) == [2, 1, 3]
    assert asked == ["CCO", "CN", "C"]
    assert scorer.score([]) == []


def test_a_failure_costs_its_molecule_alone() -> None:
    calls = []

    def oracle(molecules):
        calls.append(list(molecules))
        if "CN" in molecules:
            raise RuntimeError("no parameters for N")
        return lengths(molecules)

    scores = Scorer(oracle).score(FEW)
    assert calls == [FEW, *([molecule] for molecule in FEW)]
    assert totals(scores[:3]) == [3, 8, 7]
    assert math.isnan(scores[3].total)
    assert scores[3].error == "oracle score: RuntimeError: no parameters for N"
    assert [score.error for score in scores[:3]] == [None] * 3


@pytest.mark.parametrize("bad", [math.nan, math.inf, None, "high"])
def test_no_number_is_no_score(bad) -> None:
    scores = Scorer(lambda molecules: [bad if m == "CN" else 1.0 for m in molecules]).score(FEW)
    assert [score.error is None for score in scores] == [True, True, True, False]
    assert str(bad) in scores[3].error
    assert math.isnan(scores[3].total)


@pytest.mark.parametrize(
    "answer", [np.array, lambda x: np.array(x)[:, None], tuple, pd.Series, lambda x: (float(v) for v in x)]
)
def test_scores_of_any_kind(answer) -> None:
    assert totals(Scorer(lambda molecules: answer(lengths(molecules))).score(FEW)) == lengths(FEW)


def test_the_wrong_number_of_scores_is_an_error() -> None:
    for answer, what in (([1.0], "1 scores"), ([1.0] * 5, "5 scores"), (0.5, "0.5"), (None, "None")):
        with pytest.raises(ValueError, match=rf"list of 4 molecule.s. and returned {what}.*; it must return a list"):
            Scorer(lambda molecules, answer=answer: answer).score(FEW)


def test_objectives_are_summed_by_weight() -> None:
    scorer = Scorer({"qed": "qed", "long": lengths, "logp": "logp"}, {"long": -0.1, "logp": 2})
    scores = scorer.score(FEW)
    values = properties(FEW, ["qed", "logp"])
    np.testing.assert_allclose(totals(scores), values[:, 0] - 0.1 * np.array(lengths(FEW)) + 2 * values[:, 1])
    assert scores[0].parts == (values[0, 0], 3.0, values[0, 1])
    assert list(scorer.objectives) == ["qed", "long", "logp"]


def test_built_in_oracles() -> None:
    np.testing.assert_allclose(named("molecular_weight")(["O", "CCO"]), [18.015, 46.069], atol=1e-3)
    np.testing.assert_array_equal(named("similarity:OCC")(FEW), similarities("CCO", FEW))


def test_a_sum_that_overflows_is_no_score() -> None:
    scorer = Scorer({"a": lambda molecules: [1e300 * len(molecule) for molecule in molecules]}, {"a": 1e10})
    score = scorer.score(["CC"])[0]
    assert math.isnan(score.total)
    assert score.error == "the weighted sum is not finite"


@pytest.mark.parametrize(
    ("oracle", "weights", "message"),
    [
        ("beauty", None, r"unknown oracle 'beauty'; known are qed, plogp, .*, similarity:SMILES"),
        ("similarity:C1CC", None, "unclosed ring"),
        ({}, None, "oracle holds no objective"),
        ({"a": lengths}, {"b": 1.0}, "weights for b, which the oracle lacks: a"),
        ({"a": lengths}, {"a": math.nan}, "weights must be finite"),
    ],
)
def test_bad_oracles_are_said(oracle, weights, message) -> None:
    with pytest.raises(ValueError, match=message):
        Scorer(oracle, weights)
