"""Ways through a latent space to better codes: CMA-ES and two baselines, by asking and telling. Knows vectors alone.

What is told of a code is a key, a pair of numbers: of two codes the one with the smaller key is better.

Shapes: m codes of a generation, n codes that are known, z latent dimension.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Protocol, runtime_checkable

import cma
import numpy as np
from jaxtyping import Float32, Float64, Int

Key = tuple[int, float]


def ranks(keys: Sequence[Key]) -> Int[np.ndarray, " n"]:
    """Rank keys from 0, the best; equal keys have equal ranks, and no rank is left out."""
    number = {key: rank for rank, key in enumerate(sorted(set(keys)))}
    return np.array([number[key] for key in keys])


@runtime_checkable
class Search(Protocol):
    """One search: made from the code it begins at, how far it looks, how many codes it asks for, and a generator."""

    projects: ClassVar[bool]
    """Whether it wants to be told not the codes that it asked for but those of the molecules they were decoded to."""
    restarts: int

    def ask(self) -> Float32[np.ndarray, "m z"]:
        """Codes to try next."""

    def tell(self, z: Float32[np.ndarray, "m z"], keys: Sequence[Key], better: bool) -> None:
        """Take in how good these codes are; `better`: one of them is better than all before."""


class CovarianceAdaptation:
    """CMA-ES (Hansen & Ostermeier, Evol. Comput. 2001, 9, 159) that looks where a linear model points.

    The covariance is diagonal (Ros & Hansen, PPSN 2008): a full one has z (z + 1) / 2 numbers to learn, for which
    budgets of thousands of calls are too small. Of `OFFERED` times as many codes as are asked for, those are tried that
    a ridge regression of all keys so far, as ranks, prefers: pre-selection by a surrogate. The radius stays: what the
    search is told is nearer than what it asked for, which would wear it away. Where it has not found better in
    `PATIENCE` generations, it begins anew from the best code that it knows.
    """

    projects: ClassVar[bool] = True
    PATIENCE = 6
    OFFERED = 10
    LATEST = 1000
    """Codes that the regression looks back to."""

    def __init__(self, start: Float32[np.ndarray, " z"], radius: float, codes: int, rng: np.random.Generator) -> None:
        self.best, self.radius, self.codes, self.rng = start, radius, codes, rng
        self.restarts = -1
        self.known: list[Float32[np.ndarray, "m z"]] = []
        self.keys: list[Key] = []
        self._begin()

    def _begin(self) -> None:
        options = {
            "popsize": self.codes,
            "CMA_diagonal": True,
            "AdaptSigma": False,
            "randn": lambda *shape: self.rng.standard_normal(shape),
            "seed": math.nan,  # numpy's global state is left alone
            "verbose": -9,
        }
        self.engine = cma.CMAEvolutionStrategy(self.best.astype(np.float64), self.radius, options)
        self.restarts, self.stalled = self.restarts + 1, 0

    def ask(self) -> Float32[np.ndarray, "m z"]:
        """Draw from the present normal distribution, and keep what promises most."""
        offered = np.array(self.engine.ask(self.codes * (self.OFFERED if self.known else 1)))
        if self.known:
            offered = offered[np.argsort(offered @ self._slope(), kind="stable")[: self.codes]]
        return offered.astype(np.float32)

    def _slope(self) -> Float64[np.ndarray, " z"]:
        """Coefficients of the ridge regression, its penalty the mean square of the codes about their mean."""
        z = np.concatenate(self.known)[-self.LATEST :].astype(np.float64)
        y = ranks(self.keys[-self.LATEST :]).astype(np.float64)
        z, y = z - z.mean(0), y - y.mean()
        gram = z @ z.T
        return z.T @ np.linalg.solve(gram + (gram.trace() / len(z) + 1e-12) * np.eye(len(z)), y)

    def tell(self, z: Float32[np.ndarray, "m z"], keys: Sequence[Key], better: bool) -> None:
        """Adapt the distribution, or begin anew."""
        self.known.append(z)
        self.keys += keys
        order = ranks(keys)
        if better:
            self.best = z[order.argmin()]
        self.stalled = 0 if better else self.stalled + 1
        if self.stalled >= self.PATIENCE:
            self._begin()
        else:
            self.engine.tell(z.astype(np.float64), order.tolist())


class RandomPerturbation:
    """Baseline: noise of one radius around the best code so far, at first the seed's; a climb that does not adapt."""

    projects: ClassVar[bool] = False

    def __init__(self, start: Float32[np.ndarray, " z"], radius: float, codes: int, rng: np.random.Generator) -> None:
        self.best, self.radius, self.codes, self.rng = start, radius, codes, rng
        self.restarts = 0

    def ask(self) -> Float32[np.ndarray, "m z"]:
        """Draw around the best code."""
        eps = self.rng.standard_normal((self.codes, len(self.best)), np.float32)
        return self.best + np.float32(self.radius) * eps

    def tell(self, z: Float32[np.ndarray, "m z"], keys: Sequence[Key], better: bool) -> None:
        """Move to a better code."""
        if better:
            self.best = z[ranks(keys).argmin()]


class BestOfN(RandomPerturbation):
    """Baseline: noise around the seed's code, all the time; the best of what is drawn is what was found."""

    def tell(self, z: Float32[np.ndarray, "m z"], keys: Sequence[Key], better: bool) -> None:
        """Learn nothing."""


METHODS: dict[str, type[CovarianceAdaptation] | type[RandomPerturbation]] = {
    "cma": CovarianceAdaptation,
    "perturbation": RandomPerturbation,
    "best-of-n": BestOfN,
}
"""Name -> search."""
