"""property_metrics: against scikit-learn or the definition, by target, part and similarity; else NaN."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from molcmim import property_metrics
from molcmim.property_metrics import table
from molcmim.tuned import Task

RNG = np.random.default_rng(0)
NEAR = np.array([0.0, 0.39, 1.0, 0.4, 0.6, 0.5, 1.0, 0.2])


def test_the_last_part_is_cut_by_similarity(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {"train": np.array([0]), "valid": np.array([5, 6]), "test": np.array([7, 2, 3, 4, 1])}
    monkeypatch.setattr(property_metrics, "FEWEST", 1)
    found = [(part, band, rows.tolist()) for part, band, rows in property_metrics._bands(parts, NEAR)]
    whole = [("train", "", [0]), ("valid", "", [5, 6]), ("test", "", [7, 2, 3, 4, 1])]
    assert found == [*whole, ("test", "0 to 0.4", [7, 1]), ("test", "0.4 to 0.6", [3]), ("test", "0.6 to 1", [2, 4])]
    monkeypatch.setattr(property_metrics, "FEWEST", 2)  # less says nothing
    assert [band for _, band, _ in property_metrics._bands(parts, NEAR)] == ["", "", "", "0 to 0.4", "0.6 to 1"]


def test_numbers() -> None:
    y, p = RNG.normal(size=(2, 40, 2))
    y[:30, 1] = np.nan
    found = table(
        Task("regression", ["a", "b"], [0.0, 0.0], [1.0, 1.0]), y, p, {"test": np.arange(40)}, np.full(40, 0.5)
    )
    assert found[["target", "train_similarity", "n"]].to_numpy().tolist() == [
        ["a", "", 40], ["a", "0.4 to 0.6", 40], ["b", "", 10], ["b", "0.4 to 0.6", 10]
    ]  # fmt: skip
    assert found["rmse"][0] == pytest.approx(np.sqrt(((y - p)[:, 0] ** 2).mean()))
    assert found["mae"][2] == pytest.approx(np.abs((y - p)[30:, 1]).mean())
    ranks = [column.argsort().argsort() for column in (y[:, 0], p[:, 0])]
    assert found["spearman"][0] == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert "in_interval" not in found
    near, ends = np.where(np.arange(40) < 10, 0.5, 0.1), p + np.array([[-1, -0.5], [1, 0.5]])[:, None]
    held = table(Task("regression", ["a", "b"], [0.0] * 2, [1.0] * 2), y, p, {"test": np.arange(40)}, near, ends)
    inside = np.abs(y - p) <= [1, 0.5]
    expected = [inside[:, 0].mean(), inside[10:, 0].mean(), inside[:10, 0].mean(), *[inside[30:, 1].mean()] * 2, np.nan]
    np.testing.assert_allclose(held["in_interval"], expected)
    constant = table(
        Task("regression", ["a"], [0.0], [1.0]), y[:, :1], np.ones((40, 1)), {"test": np.arange(40)}, np.zeros(40)
    )
    assert np.isnan(constant["spearman"][0])
    nothing = table(Task("regression", ["a"], [0.0], [1.0]), y[:1, 1:], p[:1, :1], {"test": np.arange(1)}, np.zeros(1))
    assert nothing["n"].tolist() == [0]


def test_more_than_two_classes() -> None:
    y = np.repeat([0.0, 1, 2], 10)[:, None]
    p = RNG.dirichlet([1, 1, 1], 30)
    task, rows = Task("multiclass", ["kind"], [0.0], [1.0], ["a", "b", "c"]), np.arange(30)
    (found,) = table(task, y, p, {"test": rows}, np.full(30, np.nan)).to_dict("records")
    assert found["roc_auc"] == pytest.approx(np.mean([roc_auc_score(y[:, 0] == k, p[:, k]) for k in range(3)]))
    assert found["macro_f1"] == pytest.approx(
        np.mean([f1_score(y[:, 0] == k, p.argmax(1) == k, zero_division=0.0) for k in range(3)])
    )
    (found,) = table(task, y, p, {"test": rows[:20]}, np.full(30, np.nan)).to_dict("records")
    assert np.isnan(found["roc_auc"])  # one class is not there


def test_two_classes_with_names_have_two_columns() -> None:
    y, p = np.repeat([0.0, 1], 10)[:, None], RNG.uniform(size=20)
    rows, near = {"test": np.arange(20)}, np.full(20, np.nan)
    named = table(Task("binary", ["x"], [0.0], [1.0], ["no", "yes"]), y, np.c_[1 - p, p], rows, near)
    plain = table(Task("binary", ["x"], [0.0], [1.0], [0, 1]), y, p[:, None], rows, near)
    assert named.drop(columns="positive").equals(plain.drop(columns="positive"))
    assert (named["positive"][0], plain["positive"][0]) == ("yes", 1)
    assert named["roc_auc"][0] == pytest.approx((p[10:, None] > p[:10]).mean())
