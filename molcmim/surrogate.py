"""A Gaussian process that learns from few values, and what they make worth a trial. Numbers on arrays alone.

Shapes: n rows that are known, m rows that are asked about, p features.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, Float64, Int
from scipy.linalg import cholesky, solve_triangular
from scipy.special import ndtr, ndtri
from scipy.stats import rankdata

SCALES = (1.0, 2.0, 4.0, 8.0)
"""Tried, in units of the median squared distance between known rows."""
NOISES = (0.01, 0.03, 0.1, 0.3, 1.0)
"""Tried, in units of the process's variance."""
Choice = tuple[float, float]
"""Scale and noise."""


class Surrogate:
    """Gaussian process of mean 0 with the kernel variance * exp(-||x - x'||^2 / (scale * median)), and noise.

    Scale and noise are those that make the values most likely, with the variance that is most likely for them, y^T
    K^-1 y / n (Rasmussen & Williams, *Gaussian Processes for Machine Learning*, 2006, section 5.4.1). What is asked
    about is predicted by their eqs. 2.25 and 2.26. scikit-learn's process computes distances without BLAS, which for
    codes takes longer than to decode them.

    Parameters
    ----------
    x
        Known rows, at least two different ones.
    values
        Theirs, not all 0.
    choice
        Scale and noise, if they are known.
    """

    def __init__(
        self, x: Float[np.ndarray, "n p"], values: Float64[np.ndarray, " n"], choice: Choice | None = None
    ) -> None:
        self.x = x
        squares = _squares(x, x)
        self.median = float(np.median(squares[np.triu_indices(len(x), 1)])) or 1.0
        tried = [(scale, noise) for scale in SCALES for noise in NOISES] if choice is None else [choice]
        self.log_likelihood = -math.inf
        for scale, noise in tried:
            factor = cholesky(self._kernel(squares, scale) + noise * np.eye(len(x)), lower=True)
            turned = solve_triangular(factor, values, lower=True)
            variance = float(turned @ turned) / len(x)
            spread = math.log(2 * math.pi * variance) + 1
            log_likelihood = -len(x) / 2 * spread - float(np.log(factor.diagonal()).sum())
            if log_likelihood > self.log_likelihood:
                self.log_likelihood, self.choice, self.variance = log_likelihood, (scale, noise), variance
                self.factor, self.turned = factor, turned

    def _kernel(self, squares: Float64[np.ndarray, "m n"], scale: float) -> Float64[np.ndarray, "m n"]:
        return np.exp(-squares / (scale * self.median))

    def predict(self, x: Float[np.ndarray, "m p"]) -> tuple[Float64[np.ndarray, " m"], Float64[np.ndarray, " m"]]:
        """Mean and standard deviation of the process, without noise."""
        kernel = self._kernel(_squares(self.x, x), self.choice[0])
        part = solve_triangular(self.factor, kernel, lower=True)
        return self.turned @ part, np.sqrt(self.variance * (1 - (part**2).sum(0)).clip(0))


def _squares(a: Float[np.ndarray, "m p"], b: Float[np.ndarray, "n p"]) -> Float64[np.ndarray, "m n"]:
    return ((a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T).clip(0).astype(np.float64)


def normal_scores(ranks: Int[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """Quantiles of the normal distribution at ranks, the highest for the lowest rank (Blom, 1958); their mean is 0."""
    scores = ndtri(1 - (rankdata(ranks) - 0.375) / (len(ranks) + 0.25))
    return scores - scores.mean()


def expected_improvement(
    mean: Float64[np.ndarray, " m"], sd: Float64[np.ndarray, " m"], best: float
) -> Float64[np.ndarray, " m"]:
    """By how much a normal value exceeds `best` on average (Jones et al., J. Global Optim. 1998, 13, 455, eq. 15)."""
    gain, sd = mean - best, np.maximum(sd, 1e-9)
    u = gain / sd
    return gain * ndtr(u) + sd * np.exp(-(u**2) / 2) / math.sqrt(2 * math.pi)
