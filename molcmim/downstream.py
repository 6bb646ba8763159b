"""Heads on frozen features: fitted on train, chosen on valid, reported on test. Knows no molecule.

The protocol, so that figures can be compared: features standardised on the train part and clipped to
[-10, 10]; y standardised by the train part; hyperparameters by valid RMSE from one grid for all features;
nothing is refitted on train and valid together, and no head sees the test part before it is chosen.

Shapes: n molecules, d features, m rows of a part.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Float64
from sklearn.ensemble import RandomForestRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Ridge
from sklearn.neural_network import MLPRegressor
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR
from threadpoolctl import threadpool_limits

from molcmim.datasets import Split

CLIP = 10.0
"""Largest absolute value of a standardised feature."""
BOOTSTRAPS = 2_000
"""Resamplings of the test part behind an interval."""

Predictor = Callable[[Any], Any]
"""Standardised X of some rows -> standardised y."""
Candidates = Iterator[tuple[dict[str, float], Predictor]]


@dataclass(frozen=True)
class HeadFit:
    """One head on one set of features and one split; errors in the units of y."""

    head: str
    """Name in :data:`HEADS`."""
    hyperparameters: dict[str, float]
    """Those with the lowest valid RMSE."""
    valid_rmse: float
    """Root mean squared error on the valid part."""
    test_rmse: float
    """The same on the test part."""
    test_rmse_low: float
    """2.5 % quantile of the test RMSE over bootstrap resamplings of the test part."""
    test_rmse_high: float
    """97.5 % quantile."""
    test_rmse_over_sd: float
    """Test RMSE divided by the train part's standard deviation of y."""
    test_rmse_of_mean: float
    """What predicting the train part's mean for every row of the test part gives."""
    test_mae: float
    """Mean absolute error on the test part."""
    test_r2: float
    """Coefficient of determination on the test part, against its own mean."""
    test_spearman: float
    """Rank correlation on the test part; NaN if predictions are all equal."""
    test_measured: Float64[np.ndarray, " n_test"]
    """In the order of ``split.test``."""
    valid_predictions: Float64[np.ndarray, " n_valid"]
    """In the order of ``split.valid``."""
    test_predictions: Float64[np.ndarray, " n_test"]
    """In the order of ``split.test``."""


def fit_head(
    name: str, X: Float[np.ndarray, "n d"], y: Float[np.ndarray, " n"], split: Split, seed: int = 0
) -> HeadFit:
    """Fit one head; deterministic, and on one thread, so that many may run side by side.

    Parameters
    ----------
    name : {"ridge", "svr", "mlp", "forest"}
        A key of :data:`HEADS`.
    X, y
        Features and measured values, all finite.
    split
        Row numbers.
    seed
        Of the heads that draw (mlp, forest) and of the bootstrap.

    Raises
    ------
    ValueError
        For an unknown head, rows that do not match, or a value that is not finite, with its row.
    """
    if name not in HEADS:
        raise ValueError(f"unknown head {name!r}; known are {', '.join(HEADS)}")
    if len(X) != len(y):
        raise ValueError(f"X has {len(X)} rows, y {len(y)}")
    if bad := np.flatnonzero(~(np.isfinite(X).all(1) & np.isfinite(y))).tolist():
        raise ValueError(f"X or y is not finite in row(s) {', '.join(map(str, bad[:20]))}; drop or correct them")
    y = np.asarray(y, np.float64)
    train, valid, test = standardize(X, split)
    mean, sd = float(y[split.train].mean()), float(y[split.train].std())
    if sd == 0:
        raise ValueError(f"y is {mean} in every row of the train part; there is nothing to learn")
    best: tuple[float, dict[str, float], np.ndarray, Predictor] | None = None
    with threadpool_limits(1):
        for hyperparameters, predict in HEADS[name](train, (y[split.train] - mean) / sd, seed):
            predicted = mean + sd * np.asarray(predict(valid), np.float64)
            valid_rmse = rmse(y[split.valid], predicted)
            if best is None or valid_rmse < best[0]:
                best = valid_rmse, hyperparameters, predicted, predict
        assert best is not None
        valid_rmse, hyperparameters, valid_predictions, predict = best
        test_predictions = mean + sd * np.asarray(predict(test), np.float64)
    truth = y[split.test]
    low, high = bootstrap_rmse(truth, test_predictions, seed)
    return HeadFit(
        head=name,
        hyperparameters=hyperparameters,
        valid_rmse=valid_rmse,
        test_rmse=rmse(truth, test_predictions),
        test_rmse_low=low,
        test_rmse_high=high,
        test_rmse_over_sd=rmse(truth, test_predictions) / sd,
        test_rmse_of_mean=rmse(truth, np.full_like(truth, mean)),
        test_mae=float(np.abs(truth - test_predictions).mean()),
        test_r2=1 - float(((truth - test_predictions) ** 2).sum() / ((truth - truth.mean()) ** 2).sum()),
        test_spearman=_spearman(truth, test_predictions),
        test_measured=truth,
        valid_predictions=valid_predictions,
        test_predictions=test_predictions,
    )


def standardize(X: Float[np.ndarray, "n d"], split: Split) -> tuple[Float64[np.ndarray, "_ d"], ...]:
    """Features of the train, valid and test part: mean 0 and variance 1 on train, clipped to [-10, 10].

    A feature that is constant on train is only centred.
    """
    scaler = StandardScaler().fit(np.float64(X[split.train]))
    return tuple(scaler.transform(np.float64(X[rows])).clip(-CLIP, CLIP) for rows in split)


def rmse(y: Float[np.ndarray, " m"], predicted: Float[np.ndarray, " m"]) -> float:
    """Root mean squared error."""
    return float(np.sqrt(np.mean((y - predicted) ** 2)))


def bootstrap_rmse(
    y: Float[np.ndarray, " m"], predicted: Float[np.ndarray, " m"], seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval of the RMSE over resamplings of the rows with replacement."""
    rows = np.random.default_rng(seed).integers(0, len(y), (BOOTSTRAPS, len(y)))
    low, high = np.quantile(np.sqrt(((y - predicted) ** 2)[rows].mean(1)), [0.025, 0.975])
    return float(low), float(high)


def _spearman(y: Float[np.ndarray, " m"], predicted: Float[np.ndarray, " m"]) -> float:
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(np.corrcoef(pd.Series(y).rank(), pd.Series(predicted).rank())[0, 1])


RIDGE_ALPHA = [float(f"{alpha:.3g}") for alpha in np.logspace(-3, 5, 17)]
SVR_C = [1.0, 3.0, 10.0, 30.0]
SVR_GAMMA = [0.25, 1.0, 4.0]
"""In units of scikit-learn's "scale", 1 / (d var(X))."""
MLP_ALPHA = [1e-3, 1e-1, 1.0]
MLP_SEEDS = 3
FOREST_FEATURES = [0.1, 0.33]
FOREST_TREES = 300


def _ridge(X: Float64[np.ndarray, "m d"], y: Float64[np.ndarray, " m"], seed: int) -> Candidates:
    """Linear regression with an L2 penalty; one singular value decomposition serves every alpha."""
    model = Ridge(alpha=RIDGE_ALPHA, solver="svd").fit(X, np.repeat(y[:, None], len(RIDGE_ALPHA), axis=1))
    for i, alpha in enumerate(RIDGE_ALPHA):
        yield {"alpha": alpha}, functools.partial(_linear, model.coef_[i], model.intercept_[i])


def _svr(X: Float64[np.ndarray, "m d"], y: Float64[np.ndarray, " m"], seed: int) -> Candidates:
    """Support vector regression with a Gaussian kernel."""
    scale = 1 / (X.shape[1] * X.var())
    for C in SVR_C:
        for gamma in SVR_GAMMA:
            model = SVR(C=C, gamma=gamma * scale, epsilon=0.05, cache_size=500).fit(X, y)
            yield {"C": C, "gamma_over_scale": gamma}, model.predict


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


def _mean_of(models: list[MLPRegressor], X: Any) -> Any:
    return np.mean([model.predict(np.float32(X)) for model in models], axis=0)


def _forest(X: Float64[np.ndarray, "m d"], y: Float64[np.ndarray, " m"], seed: int) -> Candidates:
    """Random forest."""
    for share in FOREST_FEATURES:
        model = RandomForestRegressor(FOREST_TREES, max_features=share, random_state=seed).fit(X, y)
        yield {"max_features": share}, model.predict


HEADS: dict[str, Callable[..., Candidates]] = {"ridge": _ridge, "svr": _svr, "mlp": _mlp, "forest": _forest}
"""Name -> head: a function of standardised X, y of the train part and a seed, which yields every candidate."""
