"""downstream: heads against second implementations; what is fitted on train alone; what the record says."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.linear_model import Ridge
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.svm import SVR

from molcmim import downstream
from molcmim.datasets import Split
from molcmim.downstream import HEADS, fit_head, standardize

SPLIT = Split(np.arange(70), np.arange(70, 95), np.arange(95, 120))


@pytest.fixture(scope="module")
def problem() -> tuple[np.ndarray, np.ndarray]:
    """120 rows of 8 features of very different scales, and a y that is curved and noisy."""
    rng = np.random.default_rng(5)
    z = rng.normal(size=(120, 8))
    y = 3 + 2 * (z[:, 0] - z[:, 1] + np.sin(2 * z[:, 2])) + 0.3 * rng.normal(size=120)
    return (z * 10.0 ** np.arange(-3, 5) + 7).astype(np.float32), y


def test_features_are_standardised_on_train_and_clipped() -> None:
    X = np.array([[0.0, 5], [2, 5], [4, 5], [100, 5], [2, 900]])
    train, valid, test = standardize(X, Split(np.array([0, 1, 2]), np.array([3]), np.array([4])))
    np.testing.assert_allclose(train[:, 0], [-np.sqrt(1.5), 0, np.sqrt(1.5)])
    np.testing.assert_array_equal(train[:, 1], 0)
    np.testing.assert_array_equal(valid, [[10, 0]])
    np.testing.assert_array_equal(test, [[0, 10]])


def test_metrics_are_scikit_learns(problem: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = problem
    fit = fit_head("ridge", X, y, SPLIT)
    truth, predicted = y[SPLIT.test], fit.test_predictions
    assert fit.valid_rmse == pytest.approx(root_mean_squared_error(y[SPLIT.valid], fit.valid_predictions))
    assert fit.valid_mae == pytest.approx(mean_absolute_error(y[SPLIT.valid], fit.valid_predictions))
    assert fit.valid_r2 == pytest.approx(r2_score(y[SPLIT.valid], fit.valid_predictions))
    assert fit.valid_spearman == pytest.approx(spearmanr(y[SPLIT.valid], fit.valid_predictions).statistic)
    assert fit.test_rmse == pytest.approx(root_mean_squared_error(truth, predicted))
    assert fit.test_rmse_over_sd == pytest.approx(fit.test_rmse / y[SPLIT.train].std())
    assert fit.test_mae == pytest.approx(mean_absolute_error(truth, predicted))
    assert fit.test_r2 == pytest.approx(r2_score(truth, predicted))
    assert fit.test_spearman == pytest.approx(spearmanr(truth, predicted).statistic)
    assert fit.test_rmse_low < fit.test_rmse < fit.test_rmse_high


@pytest.mark.parametrize(
    ("head", "model", "grid"),
    [
        ("ridge", Ridge(), {"alpha": downstream.RIDGE_ALPHA}),
        ("svr", SVR(epsilon=0.05), {"C": [1, 3, 10, 30], "gamma": [0.25, 1, 4]}),
    ],
)
def test_a_head_is_scikit_learns_search_over_the_same_grid(
    head: str, model, grid: dict, problem: tuple[np.ndarray, np.ndarray]
) -> None:
    X, y = problem
    scaled = np.concatenate(standardize(X, SPLIT))
    standard = (y - y[SPLIT.train].mean()) / y[SPLIT.train].std()
    if "gamma" in grid:  # scikit-learn's "scale", of the train part
        scale = 1 / (8 * scaled[:70].var())
        grid = {**grid, "gamma": [gamma * scale for gamma in grid["gamma"]]}
    search = GridSearchCV(
        model, grid, scoring="neg_root_mean_squared_error", refit=False,
        cv=PredefinedSplit(np.where(np.arange(95) < 70, -1, 0)),
    ).fit(scaled[:95], standard[:95])  # fmt: skip
    fit = fit_head(head, X, y, SPLIT)
    assert fit.valid_rmse == pytest.approx(-search.best_score_ * y[SPLIT.train].std())
    reference = model.set_params(**search.best_params_).fit(scaled[:70], standard[:70]).predict(scaled[95:])
    np.testing.assert_allclose(
        fit.test_predictions, y[SPLIT.train].mean() + y[SPLIT.train].std() * reference, rtol=1e-6
    )


@pytest.mark.parametrize("head", HEADS)
def test_every_head_learns_repeats_itself_and_never_looks_at_the_test_part(
    head: str, problem: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downstream, "FOREST_TREES", 30)
    monkeypatch.setattr(downstream, "MLP_ALPHA", [1e-1])
    X, y = problem
    fit = fit_head(head, X, y, SPLIT, seed=1)
    assert fit.test_r2 > 0.5
    hidden = y.copy()
    hidden[SPLIT.test] = hidden[SPLIT.test][::-1]
    again = fit_head(head, X, hidden, SPLIT, seed=1)
    np.testing.assert_array_equal(again.test_predictions, fit.test_predictions)
    assert again.hyperparameters == fit.hyperparameters


def test_units_do_not_matter(problem: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = problem
    a, b = fit_head("svr", X, y, SPLIT), fit_head("svr", X * 1000, y * 4.184 + 10, SPLIT)
    assert b.hyperparameters == a.hyperparameters
    assert b.test_rmse == pytest.approx(4.184 * a.test_rmse, rel=1e-3)
    assert b.test_rmse_over_sd == pytest.approx(a.test_rmse_over_sd, rel=1e-3)


@pytest.mark.parametrize("head", ["svr", "kernel"])
def test_features_side_by_side_count_alike_whatever_their_widths(
    head: str, problem: tuple[np.ndarray, np.ndarray]
) -> None:
    X, y = problem
    narrow, wide = fit_head(head, [X[:, :3], X], y, SPLIT), fit_head(head, [np.tile(X[:, :3], 20), X], y, SPLIT)
    np.testing.assert_allclose(wide.test_predictions, narrow.test_predictions, rtol=1e-4)
    drowned = fit_head(head, np.c_[np.tile(X[:, :3], 20), X], y, SPLIT)
    assert np.abs(drowned.test_predictions - narrow.test_predictions).max() > 1e-3
    alone = fit_head(head, [X], y, SPLIT)
    np.testing.assert_array_equal(alone.test_predictions, fit_head(head, X, y, SPLIT).test_predictions)


def test_bootstrap_interval_covers_what_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = [
        low < 1 < high
        for low, high in (downstream.bootstrap_rmse(rng.normal(size=100), np.zeros(100)) for _ in range(200))
    ]
    assert 0.88 < np.mean(covered) < 0.99


def test_what_cannot_be_fitted_is_named(problem: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = problem
    with pytest.raises(ValueError, match="unknown head 'lasso'; known are ridge, svr, kernel, mlp, forest"):
        fit_head("lasso", X, y, SPLIT)
    holes, gaps = X.copy(), y.copy()
    holes[3, 1], gaps[7] = np.nan, np.inf
    with pytest.raises(ValueError, match=r"not finite in row\(s\) 3, 7;"):
        fit_head("ridge", holes, gaps, SPLIT)
    with pytest.raises(
        ValueError, match=r"y is 0\.(1|09999)\d* in every row of the train part"
    ):  # whose sum is no multiple
        fit_head("ridge", X, np.where(np.arange(len(y)) < 70, 0.1, y), SPLIT)
    with pytest.raises(ValueError, match=r"y is 1\.0 in every row of the train part"):
        fit_head("ridge", X, np.ones(120), SPLIT)


@pytest.mark.parametrize("head", HEADS)
def test_features_that_tell_nothing_give_one_answer(head: str, problem: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = problem
    fit = fit_head(head, np.ones_like(X), y, SPLIT)
    assert np.ptp(fit.test_predictions) < 1e-6 * np.ptp(y)
    assert y[SPLIT.train].min() < fit.test_predictions[0] < y[SPLIT.train].max()
