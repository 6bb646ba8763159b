"""Kernel ridge regression in closed form, chosen by its leave-one-out error. Numbers on arrays; knows no molecule.

Shapes: n rows that are fitted, m rows that are predicted, d features, y targets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Float64
from scipy.linalg import cho_factor, cho_solve, eigh

CLIP = 10.0
"""Largest absolute value of a standardised feature."""
GAMMAS = (0.03, 0.1, 0.3, 1.0)
"""Tried, in units of 1 / d."""
PENALTIES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Tried; for standardised targets, as variances of noise."""
CHOOSING = 1_000
"""Rows, drawn, by which gamma and penalty are chosen."""
FITTED = 5_000
"""Rows, drawn, that are fitted for a target: the time grows with their third power, the memory with their second."""
AT_ONCE = 1_024
"""Rows predicted at a time."""


@dataclass(frozen=True)
class KernelMachine:
    """Sum over the fitted rows of coefficients times the kernel with them, plus a constant.

    The kernel is Matern's of order 3/2, (1 + r) exp(-r) with r^2 = 3 gamma ||z - z'||^2 / d (Rasmussen & Williams,
    *Gaussian Processes for Machine Learning*, 2006, eq. 4.17), of standardised and clipped features z.
    """

    center: Float32[np.ndarray, " d"]
    """Means of the features."""
    scale: Float32[np.ndarray, " d"]
    """Their standard deviations; 1 for a constant."""
    support: Float32[np.ndarray, "n d"]
    """z of the fitted rows."""
    coefficients: Float64[np.ndarray, "n y"]
    """0 where a row has no value."""
    gammas: Float64[np.ndarray, " y"]
    """Of each target."""
    penalties: Float64[np.ndarray, " y"]
    """Of each target."""

    @classmethod
    def fit(
        cls,
        X: Float[np.ndarray, "n d"],
        values: Float[np.ndarray, "n y"],
        weights: Float[np.ndarray, " n"],
        seed: int = 0,
    ) -> KernelMachine:
        """Fit; gamma and penalty of each target have the lowest weighted leave-one-out squared error.

        Parameters
        ----------
        X
            Features, finite.
        values
            Standardised targets; NaN where unknown.
        weights
            Of the rows, at least 0.
        seed
            Of the draws, if there are more rows than :data:`CHOOSING` or :data:`FITTED`.
        """
        draw = np.random.default_rng(seed)
        rows = draw.permutation(np.flatnonzero((weights > 0) & ~np.isnan(values).all(1)))
        known = ~np.isnan(values[rows])
        rows = rows[(known & (known.cumsum(0) <= FITTED)).any(1)]  # a target that few rows have loses none of them
        mean, sd = X[rows].mean(0, np.float64), X[rows].std(0, dtype=np.float64)
        sd = np.where(sd > 1e-6 * np.abs(mean), sd, 1)  # less is a constant's rounding
        center, scale = mean.astype(np.float32), sd.astype(np.float32)
        z = _standardized(X[rows], center, scale)
        return cls(center, scale, z, *solve(z, values[rows], weights[rows]))

    def predict(self, X: Float[np.ndarray, "m d"]) -> Float64[np.ndarray, "m y"]:
        """Predict standardised targets."""
        found = np.zeros((len(X), len(self.gammas)))
        for start in range(0, len(X), AT_ONCE):
            rows = slice(start, start + AT_ONCE)
            distances = mean_squares(_standardized(X[rows], self.center, self.scale), self.support)
            for gamma in np.unique(self.gammas):
                own = self.gammas == gamma
                found[rows, own] = matern(distances, gamma) @ self.coefficients[:, own]
        return found


def solve(
    z: Float[np.ndarray, "n d"], values: Float[np.ndarray, "n y"], weights: Float[np.ndarray, " n"]
) -> tuple[Float64[np.ndarray, "n y"], Float64[np.ndarray, " y"], Float64[np.ndarray, " y"]]:
    """Coefficients of the rows for each target, and the gamma and penalty of lowest leave-one-out error.

    Parameters
    ----------
    z
        The rows, standardised, in an order that was drawn: a target is fitted to the first :data:`FITTED` that have it,
        its gamma and penalty are chosen on the first :data:`CHOOSING`.
    values, weights
        As for :meth:`KernelMachine.fit`.
    """
    coefficients, chosen = np.zeros(values.shape), np.zeros((values.shape[1], 2))
    for i, column in enumerate(values.T):
        known = np.flatnonzero(~np.isnan(column))[:FITTED]
        if not len(known):
            continue
        t, root = column[known], np.sqrt(weights[known])
        distances = mean_squares(z[known], z[known])
        few = slice(0, CHOOSING)
        errors = {
            (error, gamma, penalty)
            for gamma in GAMMAS
            for penalty, error in leave_one_out(matern(distances[few, few], gamma), t[few], root[few]).items()
        }
        _, *chosen[i] = min(errors)
        gram = matern(distances, chosen[i, 0]) * root * root[:, None]
        gram[np.diag_indices_from(gram)] += chosen[i, 1]
        coefficients[known, i] = root * cho_solve(cho_factor(gram, overwrite_a=True), root * t)
    return coefficients, *chosen.T


def leave_one_out(
    kernel: Float64[np.ndarray, "n n"], t: Float[np.ndarray, " n"], root: Float[np.ndarray, " n"]
) -> dict[float, float]:
    """Weighted mean squared error of each row, predicted from all others, for each of :data:`PENALTIES`.

    With G = root K root + penalty and u = G^-1 root t, the residual that root_i t_i has without row i is u_i /
    (G^-1)_ii (Rasmussen & Williams, 2006, eq. 5.12); one eigendecomposition serves all penalties.

    Parameters
    ----------
    kernel, t, root
        Kernel and targets of the rows, and the roots of their weights.
    """
    values, vectors = eigh(kernel * root * root[:, None], overwrite_a=True)
    turned, squares = vectors.T @ (root * t), vectors**2
    found = {}
    for penalty in PENALTIES:
        inverse = 1 / (values.clip(0) + penalty)
        residuals = (vectors @ (inverse * turned)) / (squares @ inverse)
        found[penalty] = float((residuals**2).sum() / (root**2).sum())
    return found


def _standardized(
    X: Float[np.ndarray, "m d"], center: Float32[np.ndarray, " d"], scale: Float32[np.ndarray, " d"]
) -> Float32[np.ndarray, "m d"]:
    return ((X - center) / scale).clip(-CLIP, CLIP).astype(np.float32)


def mean_squares(a: Float[np.ndarray, "m d"], b: Float[np.ndarray, "n d"]) -> Float64[np.ndarray, "m n"]:
    """Squared distances by d; in float64, in which a row's distance from itself is 0 but for rounding."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    return np.maximum((x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T, 0) / a.shape[1]


def matern(distances: Float64[np.ndarray, "m n"], gamma: float) -> Float64[np.ndarray, "m n"]:
    """Kernel, with a constant of 1, of :func:`mean_squares`."""
    r = np.sqrt(3 * gamma * distances)
    return (1 + r) * np.exp(-r) + 1
