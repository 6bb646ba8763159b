"""Are predicted uncertainties true? Numbers on arrays; knows no model.

Shapes: n molecules, p proportions.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from jaxtyping import Float, Float64

FOLDS = 10
"""Parts of the valid rows that spreads are fitted without."""
GROUPS = 10
"""Groups of like standard deviation."""
PROPORTIONS = np.linspace(0, 1, 101)
"""Shares of the truth that central intervals are asked to hold."""


def fit_spread(
    y: Float[np.ndarray, " n"], predicted: Float[np.ndarray, " n"], variance: Float[np.ndarray, " n"]
) -> tuple[float, float]:
    """Fit the variance of errors, a * variance + b, by maximum likelihood of a Gaussian; a, b >= 0.

    The likelihood is searched over how the mean squared error is shared between the two terms and over their common
    factor, which has a closed form. Rows with an unknown (NaN) y take no part; with none known, (1, 0).
    """
    known = ~np.isnan(y)
    if not known.any():
        return 1.0, 0.0
    error, variance = (y - predicted)[known] ** 2, variance[known]
    scale = max(float(variance.mean()), 1e-300)
    best: tuple[float, float, float] | None = None
    for share in np.linspace(0, 1, 101)[:-1]:  # share of the variance; never all of it: it may be 0
        shape = np.maximum(share * variance / scale + (1 - share), 1e-12)
        factor = max(float((error / shape).mean()), 1e-300)
        loss = float(np.log(shape).mean() + np.log(factor))
        if best is None or loss < best[0]:
            best = loss, factor * share / scale, factor * (1 - share)
    assert best is not None
    return best[1], best[2]


def scaled_errors(
    y: Float[np.ndarray, " n"], predicted: Float[np.ndarray, " n"], variance: Float[np.ndarray, " n"]
) -> Float64[np.ndarray, " n"]:
    """Absolute errors in units of the standard deviations that :func:`fit_spread` gives when fitted to other rows.

    In each of :data:`FOLDS` folds; fitted to the same rows, it would make errors look smaller than those to come.
    """
    scaled = np.full(len(y), np.nan)
    for fold in range(FOLDS):
        own = np.arange(len(y)) % FOLDS == fold
        a, b = fit_spread(y[~own], predicted[~own], variance[~own])
        scaled[own] = np.abs(y - predicted)[own] / np.sqrt(np.maximum(a * variance[own] + b, 1e-300))
    return scaled


def conformal_reach(errors: Float[np.ndarray, " n"], share: float) -> float:
    """Find how far from a prediction the truth lies at most in a share of cases (split conformal prediction).

    For molecules drawn as those were that the errors are of, an interval of this half-width holds the truth with at
    least this probability, whatever the errors' distribution (Lei et al., arXiv 1604.04173, section 2.2).

    Parameters
    ----------
    errors
        Absolute errors of predictions that were not fitted to; NaN is unknown.
    share
        Above 0 and below 1.

    Returns
    -------
    float
        Infinity if there are too few errors to tell.
    """
    known = np.sort(errors[~np.isnan(errors)])
    rank = math.ceil((len(known) + 1) * share - 1e-9)  # 100 * 0.55 is a little more than 55
    return float(known[rank - 1]) if rank <= len(known) else math.inf


def coverage(
    y: Float[np.ndarray, " n"], predicted: Float[np.ndarray, " n"], std: Float[np.ndarray, " n"]
) -> Float64[np.ndarray, " p"]:
    """Share of the truth inside the central Gaussian interval of each of PROPORTIONS (Kuleshov et al., 1807.00263)."""
    reach = np.abs(y - predicted) / np.maximum(std, 1e-300)
    halves = np.array([NormalDist().inv_cdf((1 + p) / 2) if p < 1 else np.inf for p in PROPORTIONS])
    return (reach[:, None] <= halves).mean(0)


def miscalibration_area(
    y: Float[np.ndarray, " n"], predicted: Float[np.ndarray, " n"], std: Float[np.ndarray, " n"]
) -> float:
    """Area between :func:`coverage` and the diagonal; 0 is perfect, 1/2 the worst."""
    gap = np.abs(coverage(y, predicted, std) - PROPORTIONS)
    return float(((gap[1:] + gap[:-1]) / 2).mean())


def normalized_error(
    y: Float[np.ndarray, " n"], predicted: Float[np.ndarray, " n"], std: Float[np.ndarray, " n"]
) -> float:
    """Compute the expected normalised calibration error (Levi et al., 1905.11659).

    The mean of |RMV - RMSE| / RMV over :data:`GROUPS` groups of like std; RMV is the root of a group's mean predicted
    variance.
    """
    found = []
    for rows in np.array_split(np.argsort(std, kind="stable"), min(GROUPS, len(y))):
        rmv = float(np.sqrt(np.mean(std[rows] ** 2)))
        rmse = float(np.sqrt(np.mean((y[rows] - predicted[rows]) ** 2)))
        found.append(abs(rmv - rmse) / max(rmv, 1e-300))
    return float(np.mean(found))
