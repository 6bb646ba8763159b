"""Ways through a latent space to better codes: CMA-ES and two baselines, by asking and telling. Knows vectors alone.

Shapes: m codes of a generation, z latent dimension.
"""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

import cma
import numpy as np
from jaxtyping import Float32, Int


@runtime_checkable
class Search(Protocol):
    """One search: made from the code it begins at, how far it looks, how many codes it asks for, and a generator."""

    restarts: int

    def ask(self) -> Float32[np.ndarray, "m z"]:
        """Codes to try next."""

    def tell(self, z: Float32[np.ndarray, "m z"], ranks: Int[np.ndarray, " m"], better: bool) -> None:
        """Take in how these codes compare, 0 being best; `better`: one of them is better than all before."""


class CovarianceAdaptation:
    """CMA-ES (Hansen & Ostermeier, Evol. Comput. 2001, 9, 159) with a diagonal covariance (Ros & Hansen, PPSN 2008).

    A full one has z (z + 1) / 2 numbers to learn, for which budgets of thousands of calls are too small. Where it has
    not found better in `PATIENCE` generations, it begins anew from the best code that it knows.
    """

    PATIENCE = 12

    def __init__(self, start: Float32[np.ndarray, " z"], radius: float, codes: int, rng: np.random.Generator) -> None:
        self.best, self.radius, self.codes, self.rng = start, radius, codes, rng
        self.restarts = -1
        self._begin()

    def _begin(self) -> None:
        options = {
            "popsize": self.codes,
            "CMA_diagonal": True,
            "randn": lambda *shape: self.rng.standard_normal(shape),
            "seed": math.nan,  # numpy's global state is left alone
            "verbose": -9,
        }
        self.engine = cma.CMAEvolutionStrategy(self.best.astype(np.float64), self.radius, options)
        self.restarts, self.stalled = self.restarts + 1, 0

    def ask(self) -> Float32[np.ndarray, "m z"]:
        """Draw from the present normal distribution."""
        self.asked = self.engine.ask()
        return np.array(self.asked, np.float32)

    def tell(self, z: Float32[np.ndarray, "m z"], ranks: Int[np.ndarray, " m"], better: bool) -> None:
        """Adapt the distribution, or begin anew."""
        if better:
            self.best = z[ranks.argmin()]
        self.stalled = 0 if better else self.stalled + 1
        if self.stalled >= self.PATIENCE:
            self._begin()
        else:
            self.engine.tell(self.asked, ranks.tolist())


class RandomPerturbation:
    """Baseline: noise of one radius around the best code so far, at first the seed's; a climb that does not adapt."""

    def __init__(self, start: Float32[np.ndarray, " z"], radius: float, codes: int, rng: np.random.Generator) -> None:
        self.best, self.radius, self.codes, self.rng = start, radius, codes, rng
        self.restarts = 0

    def ask(self) -> Float32[np.ndarray, "m z"]:
        """Draw around the best code."""
        eps = self.rng.standard_normal((self.codes, len(self.best)), np.float32)
        return self.best + np.float32(self.radius) * eps

    def tell(self, z: Float32[np.ndarray, "m z"], ranks: Int[np.ndarray, " m"], better: bool) -> None:
        """Move to a better code."""
        if better:
            self.best = z[ranks.argmin()]


class BestOfN(RandomPerturbation):
    """Baseline: noise around the seed's code, all the time; the best of what is drawn is what was found."""

    def tell(self, z: Float32[np.ndarray, "m z"], ranks: Int[np.ndarray, " m"], better: bool) -> None:
        """Learn nothing."""


METHODS: dict[str, type[CovarianceAdaptation] | type[RandomPerturbation]] = {
    "cma": CovarianceAdaptation,
    "perturbation": RandomPerturbation,
    "best-of-n": BestOfN,
}
"""Name -> search."""
