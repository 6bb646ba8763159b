"""kernel_machine: against scikit-learn's kernels and ridge regression, and leave-one-out by leaving out."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.gaussian_process.kernels import Matern
from sklearn.kernel_ridge import KernelRidge

from molcmim import kernel_machine
from molcmim.kernel_machine import GAMMAS, PENALTIES, KernelMachine, leave_one_out

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 5)) * [1, 10, 0.1, 1, 0] + [0, 5, 0, 0, 7]
Y = np.stack([np.sin(X[:, 0]) + X[:, 1] / 10, X[:, 3] ** 2], 1) + 0.1 * RNG.normal(size=(60, 2))
WEIGHTS = RNG.uniform(0.2, 2, 60)


def kernel(a: np.ndarray, b: np.ndarray, fitted: np.ndarray, gamma: float) -> np.ndarray:
    """Matern's, by scikit-learn, of features standardised by `fitted` rows, plus the constant's."""
    sd = fitted.std(0)
    sd[sd == 0] = 1
    a, b = (((rows - fitted.mean(0)) / sd).clip(-10, 10) for rows in (a, b))
    return Matern(np.sqrt(a.shape[1] / gamma), nu=1.5)(a, b) + 1


def test_it_is_weighted_kernel_ridge_regression_of_what_is_known() -> None:
    y = Y.copy()
    y[::3, 1] = np.nan
    weights = np.where(np.arange(60) < 5, 0, WEIGHTS)
    machine = KernelMachine.fit(np.float32(X), y, weights)
    new = RNG.normal(size=(9, 5)) + X.mean(0)
    found = machine.predict(np.float32(new))
    for i in range(2):
        rows = np.flatnonzero(~np.isnan(y[:, i]) & (weights > 0))
        gamma, penalty = machine.gammas[i], machine.penalties[i]
        ridge = KernelRidge(alpha=penalty, kernel="precomputed")
        ridge.fit(kernel(X[rows], X[rows], X[5:], gamma), y[rows, i], sample_weight=weights[rows])
        np.testing.assert_allclose(found[:, i], ridge.predict(kernel(new, X[rows], X[5:], gamma)), atol=1e-4)
    assert len(machine.support) == 55


def test_leave_one_out_leaves_one_out() -> None:
    K = kernel(X, X, X, 0.3)
    errors = leave_one_out(K, Y[:, 0], np.sqrt(WEIGHTS))
    for penalty in PENALTIES[::3]:
        squared = []
        for i in range(60):
            rest = np.delete(np.arange(60), i)
            ridge = KernelRidge(alpha=penalty, kernel="precomputed")
            ridge.fit(K[np.ix_(rest, rest)], Y[rest, 0], sample_weight=WEIGHTS[rest])
            squared.append((ridge.predict(K[i : i + 1, rest])[0] - Y[i, 0]) ** 2)
        assert errors[penalty] == pytest.approx(WEIGHTS @ squared / WEIGHTS.sum(), rel=1e-6)


def test_each_target_has_its_own_lowest_error() -> None:
    noisy = Y + [[0, 3]] * RNG.normal(size=(60, 2))
    machine = KernelMachine.fit(X, noisy, np.ones(60))
    assert machine.penalties[1] > machine.penalties[0]
    for i in range(2):
        errors = {
            (gamma, penalty): error
            for gamma in GAMMAS
            for penalty, error in leave_one_out(kernel(X, X, X, gamma), noisy[:, i], np.ones(60)).items()
        }
        best = min(errors, key=errors.__getitem__)
        assert errors[machine.gammas[i], machine.penalties[i]] == pytest.approx(errors[best], rel=1e-4)


def test_it_learns_and_does_not_depend_on_the_order_or_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = KernelMachine.fit(X[:50], Y[:50], np.ones(50))
    found = machine.predict(X[50:])
    assert (((found - Y[50:]) ** 2).mean(0) < 0.5 * Y[50:].var(0)).all()
    again = KernelMachine.fit(X[49::-1], Y[49::-1], np.ones(50))
    np.testing.assert_allclose(again.predict(X[50:]), found, atol=1e-4)
    monkeypatch.setattr(kernel_machine, "AT_ONCE", 3)
    np.testing.assert_allclose(machine.predict(X[50:]), found, rtol=1e-12)
    assert machine.predict(X[:0]).shape == (0, 2)


def test_many_rows_are_thinned_and_an_unknown_target_is_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_machine, "CHOOSING", 20)
    monkeypatch.setattr(kernel_machine, "FITTED", 40)
    machine = KernelMachine.fit(X, np.c_[Y, np.full(60, np.nan)], np.ones(60))
    assert machine.support.shape == (40, 5)
    found = machine.predict(X)
    assert np.corrcoef(found[:, 0], Y[:, 0])[0, 1] > 0.8
    assert (found[:, 2] == 0).all()


def test_a_target_that_few_rows_have_loses_none_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_machine, "FITTED", 40)
    few = np.where(np.arange(60) % 6 == 0, Y[:, 1], np.nan)
    machine = KernelMachine.fit(X, np.c_[Y[:, 0], few], np.ones(60))
    assert (machine.coefficients != 0).sum(0).tolist() == [40, 10]
    assert 40 <= len(machine.support) <= 50
