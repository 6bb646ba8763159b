"""Heads on frozen features: fitted on train, chosen on valid, reported on test. Knows no molecule.

The protocol, so that figures can be compared: features standardised on the train part and clipped to
[-10, 10]; y standardised by the train part; hyperparameters by valid RMSE from one grid for all features;
nothing is refitted on train and valid together, and no head sees the test part before it is chosen.
Of several features side by side each counts alike, whatever its width: a fingerprint of 2,048 bits does not drown
200 descriptors.

Shapes: n molecules, d features, m rows of a part.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Float64
from sklearn.ensemble import RandomForestRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Ridge
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.neural_network import MLPRegressor
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR
from threadpoolctl import threadpool_limits

from molcmim.datasets import Split
from molcmim.kernel_machine import CLIP, FITTED, matern, mean_squares, solve

BOOTSTRAPS = 2_000
"""Resamplings of the test part behind an interval."""

Predictor = Callable[[Any], Any]
"""Standardised X of some rows -> standardised y."""
Candidates = Iterator[tuple[dict[str, float], Predictor]]


@dataclass(frozen=True)
class Fit:
    """What one fit on one split is worth; errors in the units of y."""

    hyperparameters: Mapping[str, int | float]
    """Those with the lowest valid RMSE."""
    valid_rmse: float
    """Root mean squared error on the valid part."""
    valid_mae: float
    """Mean absolute error on the valid part."""
    valid_r2: float
    """Coefficient of determination on the valid part, against its own mean."""
    valid_spearman: float
    """Rank correlation on the valid part; NaN if predictions are all equal."""
    test_rmse: float
    """As above, on the test part."""
    test_rmse_low: float
    """2.5 % quantile of the test RMSE over bootstrap resamplings of the test part."""
    test_rmse_high: float
    """97.5 % quantile."""
    test_rmse_over_sd: float
    """Test RMSE divided by the train part's standard deviation of y."""
    test_rmse_of_mean: float
    """What predicting the train part's mean for every row of the test part gives."""
    test_mae: float
    """As above, on the test part."""
    test_r2: float
    """As above, on the test part."""
    test_spearman: float
    """As above, on the test part."""
    test_measured: Float64[np.ndarray, " n_test"]
    """In the order of ``split.test``."""
    valid_predictions: Float64[np.ndarray, " n_valid"]
    """In the order of ``split.valid``."""
    test_predictions: Float64[np.ndarray, " n_test"]
    """In the order of ``split.test``."""


def fit_head(
    name: str,
    X: Float[np.ndarray, "n d"] | Sequence[Float[np.ndarray, "n _"]],
    y: Float[np.ndarray, " n"],
    split: Split,
    seed: int = 0,
) -> Fit:
    """Fit one head; deterministic, and on one thread, so that many may run side by side.

    Parameters
    ----------
    name : {"ridge", "svr", "kernel", "mlp", "forest"}
        A key of :data:`HEADS`.
    X
        Features, finite, or several side by side, which then have equal shares in squared distances.
    y
        Measured values, finite.
    split
        Row numbers.
    seed
        Of the heads that draw (mlp, forest; kernel, where rows are many) and of the bootstrap.

    Raises
    ------
    ValueError
        For an unknown head, rows that do not match, or a value that is not finite, with its row.
    """
    if name not in HEADS:
        raise ValueError(f"unknown head {name!r}; known are {', '.join(HEADS)}")
    groups = [X] if isinstance(X, np.ndarray) else X
    shares, X = equal_shares([group.shape[1] for group in groups]), np.concatenate(groups, axis=1)
    if len(X) != len(y):
        raise ValueError(f"X has {len(X)} rows, y {len(y)}")
    if bad := np.flatnonzero(~(np.isfinite(X).all(1) & np.isfinite(y))).tolist():
        raise ValueError(f"X or y is not finite in row(s) {', '.join(map(str, bad[:20]))}; drop or correct them")
    y = np.asarray(y, np.float64)
    train, valid, test = (part * shares for part in standardize(X, split))
    mean, sd = float(y[split.train].mean()), float(y[split.train].std())
    if np.ptp(y[split.train]) == 0:  # of equal values the standard deviation need not be 0
        raise ValueError(f"y is {mean} in every row of the train part; there is nothing to learn")
    best: tuple[float, dict[str, float], np.ndarray, Predictor] | None = None
    with threadpool_limits(1):
        for hyperparameters, predict in HEADS[name](train, (y[split.train] - mean) / sd, seed):
            predicted = mean + sd * np.asarray(predict(valid), np.float64)
            valid_rmse = rmse(y[split.valid], predicted)
            if best is None or valid_rmse < best[0]:
                best = valid_rmse, hyperparameters, predicted, predict
        assert best is not None
        _, hyperparameters, valid_predictions, predict = best
        test_predictions = mean + sd * np.asarray(predict(test), np.float64)
    return score(y, split, hyperparameters, valid_predictions, test_predictions, seed)


def score(
    y: Float64[np.ndarray, " n"],
    split: Split,
    hyperparameters: Mapping[str, int | float],
    valid_predictions: Float64[np.ndarray, " n_valid"],
    test_predictions: Float64[np.ndarray, " n_test"],
    seed: int = 0,
) -> Fit:
    """Measure predictions, whoever made them.

    Parameters
    ----------
    y
        Measured values of all rows.
    split
        Row numbers; predictions are in their order.
    hyperparameters
        What was chosen on the valid part.
    valid_predictions, test_predictions
        In the units of y.
    seed
        Of the bootstrap.
    """
    truth, train = y[split.test], y[split.train]
    valid, test = _errors(y[split.valid], valid_predictions), _errors(truth, test_predictions)
    low, high = bootstrap_rmse(truth, test_predictions, seed)
    return Fit(
        hyperparameters,
        **{f"valid_{name}": value for name, value in valid.items()},
        **{f"test_{name}": value for name, value in test.items()},
        test_rmse_low=low,
        test_rmse_high=high,
        test_rmse_over_sd=test["rmse"] / float(train.std()),
        test_rmse_of_mean=rmse(truth, np.full_like(truth, train.mean())),
        test_measured=truth,
        valid_predictions=valid_predictions,
        test_predictions=test_predictions,
    )


def _errors(y: Float64[np.ndarray, " m"], predicted: Float64[np.ndarray, " m"]) -> dict[str, float]:
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "rmse": rmse(y, predicted),
            "mae": float(np.abs(y - predicted).mean()),
            "r2": float(1 - ((y - predicted) ** 2).sum() / ((y - y.mean()) ** 2).sum()),
            "spearman": float(np.corrcoef(pd.Series(y).rank(), pd.Series(predicted).rank())[0, 1]),
        }


def standardize(X: Float[np.ndarray, "n d"], split: Split) -> tuple[Float64[np.ndarray, "_ d"], ...]:
    """Features of the train, valid and test part: mean 0 and variance 1 on train, clipped to [-10, 10].

    A feature that is constant on train is only centred.
    """
    scaler = StandardScaler().fit(np.float64(X[split.train]))
    return tuple(scaler.transform(np.float64(X[rows])).clip(-CLIP, CLIP) for rows in split)


def equal_shares(widths: Sequence[int]) -> Float64[np.ndarray, " d"]:
    """Factors on standardised columns that give groups of these widths equal shares in squared distances; 1 for one."""
    return np.repeat(np.sqrt(sum(widths) / (len(widths) * np.array(widths))), widths)


def rmse(y: Float[np.ndarray, " m"], predicted: Float[np.ndarray, " m"]) -> float:
    """Root mean squared error."""
    return float(np.sqrt(np.mean((y - predicted) ** 2)))


def bootstrap_rmse(
    y: Float[np.ndarray, " m"], predicted: Float[np.ndarray, " m"], seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval of the RMSE over resamplings of the rows with replacement."""
    low, high = np.quantile(bootstrap(y, predicted, seed), [0.025, 0.975])
    return float(low), float(high)


def bootstrap(
    y: Float[np.ndarray, " m"], predicted: Float[np.ndarray, " m"], seed: int = 0
) -> Float64[np.ndarray, " r"]:
    """RMSE of each of :data:`BOOTSTRAPS` resamplings of the rows, the same rows for the same m and seed."""
    rows = np.random.default_rng(seed).integers(0, len(y), (BOOTSTRAPS, len(y)))
    return np.sqrt(((y - predicted) ** 2)[rows].mean(1))


RIDGE_ALPHA = [float(f"{alpha:.3g}") for alpha in np.logspace(-3, 5, 17)]
SVR_C = [1.0, 3.0, 10.0, 30.0]
SVR_GAMMA = [0.25, 1.0, 4.0]
"""In units of scikit-learn's "scale", 1 / (d var(X))."""
MLP_ALPHA = [1e-3, 1e-1, 1.0]
MLP_SEEDS = 3
FOREST_FEATURES = [0.1, 0.33]
FOREST_TREES = 300


def _ridge(X: Float64[np.ndarray, "m d"], y: Float64[np.ndarray, " m"], seed: int) -> Candidates:
    """Linear regression with an L2 penalty; one singular value decomposition serves every alpha.

    The penalty is the one with the lowest valid RMSE, as every hyperparameter here. scikit-learn's ``RidgeCV``
    chooses by leave-one-out error on train instead: other figures, where the two disagree.
    """
    model = Ridge(alpha=RIDGE_ALPHA, solver="svd").fit(X, np.repeat(y[:, None], len(RIDGE_ALPHA), axis=1))
    for i, alpha in enumerate(RIDGE_ALPHA):
        yield {"alpha": alpha}, functools.partial(_linear, model.coef_[i], model.intercept_[i])


def _svr(X: Float64[np.ndarray, "m d"], y: Float64[np.ndarray, " m"], seed: int) -> Candidates:
    """Support vector regression with a Gaussian kernel; one matrix of distances serves all candidates."""
    scale = 1 / (X.shape[1] * (X.var() or 1.0))  # all constant on train: any scale does
    distances = euclidean_distances(X, squared=True)
    for gamma in SVR_GAMMA:
        kernel = np.exp(-gamma * scale * distances)
        for C in SVR_C:
            model = SVR(kernel="precomputed", C=C, epsilon=0.05, cache_size=500).fit(kernel, y)
            support = X[model.support_]
            predict = functools.partial(_expansion, support, model.dual_coef_[0], model.intercept_[0], gamma * scale)
            yield {"C": C, "gamma_over_scale": gamma}, predict


def _kernel(X: Float64[np.ndarray, "m d"], y: Float64[np.ndarray, " m"], seed: int) -> Candidates:
    """Kernel ridge regression, one candidate: what it chooses, it chooses by leave-one-out error on train."""
    rows = np.random.default_rng(seed).permutation(len(X))[:FITTED]
    support = X[rows]
    coefficients, gamma, penalty = solve(support, y[rows, None], np.ones(len(rows)))
    yield (
        {"gamma": float(gamma[0]), "penalty": float(penalty[0])},
        lambda Z: matern(mean_squares(Z, support), gamma[0]) @ coefficients[:, 0],
    )


def _mlp(X: Float64[np.ndarray, "m d"], y: Float64[np.ndarray, " m"], seed: int) -> Candidates:
    """One hidden layer of 256, Adam; the mean of three, drawn differently."""
    for alpha in MLP_ALPHA:
        models = [
            MLPRegressor(hidden_layer_sizes=(256,), alpha=alpha, random_state=MLP_SEEDS * seed + i)
            for i in range(MLP_SEEDS)
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # 200 epochs are the protocol, converged or not
            for model in models:
                model.fit(np.float32(X), np.float32(y))
        yield {"alpha": alpha}, functools.partial(_mean_of, models)


def _linear(w: Any, b: Any, X: Any) -> Any:
    return X @ w + b


def _expansion(support: Any, coefficients: Any, intercept: Any, gamma: float, X: Any) -> Any:
    return np.exp(-gamma * euclidean_distances(X, support, squared=True)) @ coefficients + intercept


def _mean_of(models: list[MLPRegressor], X: Any) -> Any:
    return np.mean([model.predict(np.float32(X)) for model in models], axis=0)


def _forest(X: Float64[np.ndarray, "m d"], y: Float64[np.ndarray, " m"], seed: int) -> Candidates:
    """Random forest."""
    for share in FOREST_FEATURES:
        model = RandomForestRegressor(FOREST_TREES, max_features=share, random_state=seed).fit(X, y)
        yield {"max_features": share}, model.predict


HEADS: dict[str, Callable[..., Candidates]] = {
    "ridge": _ridge, "svr": _svr, "kernel": _kernel, "mlp": _mlp, "forest": _forest,
}  # fmt: skip
"""Name -> head: a function of standardised X, y of the train part and a seed, which yields every candidate."""
