"""calibration: against closed forms and Monte Carlo."""

from __future__ import annotations

import numpy as np
import pytest

from molcmim.calibration import (
    PROPORTIONS,
    conformal_reach,
    coverage,
    fit_spread,
    miscalibration_area,
    normalized_error,
    scaled_errors,
)


@pytest.fixture(scope="module")
def truth() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """20,000 errors of known, different size."""
    rng = np.random.default_rng(0)
    std = rng.uniform(0.2, 2, 20_000)
    predicted = rng.normal(size=20_000)
    return predicted + std * rng.normal(size=20_000), predicted, std


@pytest.mark.parametrize(("n", "share"), [(9, 0.9), (19, 0.9), (40, 0.5), (64, 0.95)])
def test_conformal_intervals_hold_what_they_promise(n: int, share: float) -> None:
    # Whatever the distribution, the truth is within the k-th of n errors with the probability k / (n + 1).
    errors = np.abs(np.random.default_rng(n).standard_t(1.5, size=(20_000, n + 1)))
    held = np.mean([new <= conformal_reach(known, share) for known, new in ((row[:-1], row[-1]) for row in errors)])
    exact = np.ceil((n + 1) * share) / (n + 1)
    assert held == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / len(errors)))
    assert exact >= share


def test_what_too_few_errors_cannot_tell() -> None:
    errors = np.array([3.0, np.nan, 1.0, 2.0, 8.0, 7.0, 6.0, 5.0, 4.0])
    assert conformal_reach(errors, 0.9) == np.inf  # of eight
    assert conformal_reach(np.append(errors, 0.5), 0.9) == 8.0
    assert conformal_reach(errors, 0.5) == 5.0
    assert conformal_reach(errors[:0], 0.1) == np.inf


def test_true_uncertainties_are_calibrated(truth: tuple[np.ndarray, ...]) -> None:
    y, predicted, std = truth
    np.testing.assert_allclose(coverage(y, predicted, std), PROPORTIONS, atol=0.02)
    assert miscalibration_area(y, predicted, std) < 0.01
    assert normalized_error(y, predicted, std) < 0.03


def test_false_ones_are_not(truth: tuple[np.ndarray, ...]) -> None:
    y, predicted, std = truth
    assert normalized_error(y, predicted, std / 2) == pytest.approx(1, abs=0.06)  # |s / 2 - s| / (s / 2)
    assert normalized_error(y, predicted, std * 2) == pytest.approx(0.5, abs=0.03)
    assert miscalibration_area(y, predicted, std * 1e9) == pytest.approx(0.5, abs=0.01)  # all inside, always
    assert miscalibration_area(y, predicted, std * 1e-9) == pytest.approx(0.5, abs=0.01)


def test_one_sigma_holds_what_a_gaussian_says() -> None:
    y = np.array([0.0, 0.6, 0.7, 5.0])  # of 1: the median of |N(0, 1)| is 0.674
    assert coverage(y, np.zeros(4), np.ones(4))[50] == 0.5
    assert coverage(y, np.zeros(4), np.ones(4))[100] == 1


def test_spread_finds_both_terms() -> None:
    rng = np.random.default_rng(1)
    sd = rng.uniform(0.1, 2, 40_000)
    predicted, variance = rng.normal(size=40_000), (sd * rng.normal(size=40_000)) ** 2
    y = predicted + np.sqrt(1.5 * variance + 0.5) * rng.normal(size=40_000)
    a, b = fit_spread(y, predicted, variance)
    assert a == pytest.approx(1.5, rel=0.1)
    assert b == pytest.approx(0.5, rel=0.1)


def test_spread_of_voices_that_agree_is_the_error_and_unknown_values_take_no_part() -> None:
    y = np.array([1.0, -1.0, 3.0, np.nan])
    a, b = fit_spread(y, np.zeros(4), np.zeros(4))
    assert b == pytest.approx(11 / 3)
    assert np.isfinite(a)
    assert fit_spread(np.full(4, np.nan), np.zeros(4), np.zeros(4)) == (1.0, 0.0)


def test_ranks_are_exact() -> None:
    errors = np.arange(1.0, 100.0)
    for share in (0.55, 0.07, 0.9, 0.95):  # 100 * 0.55 is a little more than 55
        assert conformal_reach(errors, share) == round(100 * share)


@pytest.mark.parametrize("n", [9, 30])
def test_intervals_of_an_ensemble_hold_what_they_promise(n: int) -> None:
    """With spreads fitted to the same rows they would hold 86 % for n = 9."""
    rng, held = np.random.default_rng(n), []
    for _ in range(120):
        variance = rng.gamma(2, 0.5, n + 100)
        y, zero = rng.standard_normal(n + 100) * np.sqrt(variance / 2 + 0.2), np.zeros(n + 100)
        a, b = fit_spread(y[:n], zero[:n], variance[:n])
        reach = conformal_reach(scaled_errors(y[:n], zero[:n], variance[:n]), 0.9)
        held.append((np.abs(y[n:]) <= reach * np.sqrt(a * variance[n:] + b)).mean())
    assert 0.885 < np.mean(held) < 0.96
