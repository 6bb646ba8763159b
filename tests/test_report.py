"""report: what is chosen, by whom it is beaten and by how much, against figures made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from molcmim import report
from molcmim.downstream import BOOTSTRAPS


def record(split: str, seed: int, features: str, valid: float, test: float, model: str = "", **more: Any) -> dict:
    """A fit with constant errors: the RMSE of its test part, and of every resampling of it, is `test`."""
    measured = np.arange(10.0)
    return {
        "dataset": "esol", "content": "abc", "split": split, "seed": seed, "features": features, "model": model,
        "features_id": "x", "head": "svr", "unit": "log", "hyperparameters": {}, "valid_rmse": valid, "test_rmse": test,
        "test_rmse_low": test, "test_rmse_high": test, "test_rmse_of_mean": 2.0, "test_rmse_over_sd": test / 4,
        "test_measured": measured, "test_predictions": measured + test, "valid_predictions": measured, **more,
    }  # fmt: skip


RECORDS = [
    # our choice: seed 0 mean (test 0.8), seed 1 both (test 0.6): 0.7; by mean valid RMSE it were mean, 0.75
    record("random", 0, "mean", 0.5, 0.8, "small"),
    record("random", 1, "mean", 0.6, 0.7, "small"),
    record("random", 0, "both", 0.7, 0.4, "small"),
    record("random", 1, "both", 0.5, 0.6, "small"),
    record("random", 0, "rdkit2d", 0.4, 0.9),
    record("random", 1, "rdkit2d", 0.4, 0.6),
    record("random", 1, "chemprop", 0.6, 0.5, head="end-to-end"),  # one seed only: compared on that one
    record("scaffold", 0, "mean", 0.9, 1.0, "small"),
    record("scaffold", 0, "informative", 0.95, 1.1, "small"),
    record("scaffold", 0, "rdkit2d", 0.8, 1.5),
]


@pytest.fixture
def table(tmp_path) -> list[str]:
    report.write(RECORDS, ["a note"], tmp_path)
    return (tmp_path / "table.md").read_text().splitlines()


def test_each_split_chooses_by_its_own_valid_rmse(table: list[str]) -> None:
    ours = next(line for line in table if "*ours, chosen" in line)
    assert "| 0.700 ± 0.100: mean, svr (1 of 2); both, svr (1 of 2) | 1.000 [1.00, 1.00]: mean, svr |" in ours
    theirs = next(line for line in table if "*baselines, chosen" in line)
    assert "| 0.750 ± 0.150: rdkit2d, svr | 1.500 [1.50, 1.50]: rdkit2d, svr |" in theirs


def test_what_ours_does_not_beat_is_said(table: list[str]) -> None:
    # seed 1 against chemprop: 0.6 - 0.5; both seeds against rdkit2d: 0.7 - 0.75
    assert (
        "| esol random | chosen | +0.100 [+0.10, +0.10] | chemprop, end-to-end | 0.175 "
        "| **1 of 4**: chemprop, end-to-end (by 0.100) |" in table
    )
    assert "| esol scaffold | chosen | -0.500 [-0.50, -0.50] | rdkit2d, svr | 0.250 | none of 1 |" in table
    assert "- informative is below mean in 0 of 1 places and heads; not in esol scaffold svr (by 0.100)." in table


def test_the_mean_of_the_best_is_of_predictions(table: list[str]) -> None:
    # errors of one sign: seed 0 (0.8 + 0.4) / 2, seed 1 (0.7 + 0.6) / 2; baselines 0.9 and (0.6 + 0.5) / 2
    ours, theirs = [next(line for line in table if f"*{whose}, mean" in line) for whose in ("ours", "baselines")]
    assert "| 0.625 ± 0.025 | 1.050 [1.05, 1.05] |" in ours
    assert "| 0.725 ± 0.175 | 1.500 [1.50, 1.50] |" in theirs
    assert any(
        line.startswith("| esol random | mean | +0.150 [+0.15, +0.15] | chemprop, end-to-end |") for line in table
    )
    signs = [record("random", 0, f"f{i}", 1 + i, (-1) ** i * (1 + i), "small") for i in range(7)]
    averaged = report.average(pd.DataFrame(signs[::-1]), ours=True)
    assert averaged["test_rmse"].tolist() == pytest.approx([(1 - 2 + 3 - 4 + 5) / 5])  # the five of lowest valid RMSE


def test_the_interval_of_a_difference_is_of_pairs() -> None:
    rng = np.random.default_rng(3)
    y = rng.normal(size=50)
    a, b = y + rng.normal(size=50), y + 1.5 * rng.normal(size=50)
    pair = pd.DataFrame([{"test_measured": y, "test_predictions": a, "test_predictions_theirs": b}])
    low, high = (float(text) for text in report._spread(pair).strip("[]").split(","))
    draws = []
    for _ in range(BOOTSTRAPS):
        rows = rng.integers(0, 50, 50)
        draws.append(np.sqrt(np.mean((a - y)[rows] ** 2)) - np.sqrt(np.mean((b - y)[rows] ** 2)))
    np.testing.assert_allclose([low, high], np.quantile(draws, [0.025, 0.975]), atol=0.06)


def test_without_baselines_there_is_nothing_to_compare(tmp_path) -> None:
    report.write(RECORDS[:2], [], tmp_path)
    assert "lowest baseline" not in (tmp_path / "table.md").read_text()
