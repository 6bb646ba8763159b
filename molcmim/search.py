"""Ways through a latent space to better codes: CMA-ES and two baselines, by asking and telling. Knows vectors alone.

What is told of a code is a key, a pair of numbers: of two codes the one with the smaller key is better. A code with a
score has the key (0, -score); 1 or 3 stands first where the code gave nothing that may be scored.

Shapes: m codes of a generation, n codes that are known, z latent dimension.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Protocol, runtime_checkable

import cma
import numpy as np
from jaxtyping import Float, Float32, Float64, Int

Key = tuple[int, float]


def ranks(keys: Sequence[Key]) -> Int[np.ndarray, " n"]:
    """Rank keys from 0, the best; equal keys have equal ranks, and no rank is left out."""
    number = {key: rank for rank, key in enumerate(sorted(set(keys)))}
    return np.array([number[key] for key in keys], np.int64)


@runtime_checkable
class Search(Protocol):
    """One search: made from the code it begins at, how far it looks, how many codes it asks for, and a generator."""

    chooses: ClassVar[bool]
    """Whether it says which molecules are worth a call, by their own codes instead of those that it asked for."""
    restarts: int

    def ask(self) -> Float32[np.ndarray, "m z"]:
        """Codes to try next."""

    def worth(self, z: Float32[np.ndarray, "n z"]) -> Float[np.ndarray, " n"]:
        """How much each of these codes is worth a call, more being better."""

    def tell(self, z: Float32[np.ndarray, "n z"], keys: Sequence[Key], known: int, better: bool) -> None:
        """Take in how good these codes are.

        Parameters
        ----------
        z, keys
            New codes and their keys.
        known
            How many of the codes asked for last gave nothing new.
        better
            Whether one is better than all before.
        """


class Surrogate:
    """Gaussian process of values over codes, in whose kernel codes at their usual distance correlate by 1 / e.

    scikit-learn's computes distances without BLAS, which for codes takes longer than to decode them.
    """

    NOISE = 0.1
    """Variance of a value about the process, in that of all values."""

    def __init__(self, z: Float32[np.ndarray, "n z"], values: Float64[np.ndarray, " n"]) -> None:
        self.z = z.astype(np.float64)
        self.scale = float(np.median(self._squares(self.z))) or 1.0
        self.inverse = np.linalg.inv(self._kernel(self.z) + self.NOISE * np.eye(len(z)))
        self.weights = self.inverse @ ((values - values.mean()) / (values.std() or 1.0))

    def _squares(self, z: Float64[np.ndarray, "m z"]) -> Float64[np.ndarray, "m n"]:
        return ((z**2).sum(1)[:, None] + (self.z**2).sum(1) - 2 * z @ self.z.T).clip(0)

    def _kernel(self, z: Float64[np.ndarray, "m z"]) -> Float64[np.ndarray, "m n"]:
        return np.exp(-self._squares(z) / self.scale)

    def predict(self, z: Float[np.ndarray, "m z"]) -> tuple[Float64[np.ndarray, " m"], Float64[np.ndarray, " m"]]:
        """Mean and standard deviation, in standard deviations of the values."""
        k = self._kernel(z.astype(np.float64))
        return k @ self.weights, np.sqrt((1 - ((k @ self.inverse) * k).sum(1)).clip(0))


class CovarianceAdaptation:
    """CMA-ES (Hansen & Ostermeier, Evol. Comput. 2001, 9, 159) with a surrogate, several parents, and its own radius.

    The covariance is diagonal (Ros & Hansen, PPSN 2008): a full one has z (z + 1) / 2 numbers to learn, for which
    budgets of thousands of calls are too small. What a small budget needs besides:

    - A surrogate, a Gaussian process of the ranks of the latest keys. Those molecules are worth a call whose mean plus
      half a standard deviation is highest (an upper confidence bound; Srinivas et al., arXiv 0912.3995). Of `OFFERED`
      times as many codes as are asked for, those are decoded that have the highest draws from it.
    - Parents: half of the codes lie not around the engine's mean, but around points between two of the best codes, of
      which the start is always one.
    - A radius that grows while codes give known molecules, and shrinks while they give none that may be scored.

    Where it has not found better in `PATIENCE` generations, the engine begins anew from the best code that it knows.
    """

    chooses: ClassVar[bool] = True
    OFFERED = 10
    ELITES = 8
    PATIENCE = 12
    LATEST = 400
    """Codes that it looks back to, besides the best."""
    RATE = 0.2
    """Logarithm by which the radius grows when every code gives a known molecule."""

    def __init__(self, start: Float32[np.ndarray, " z"], radius: float, codes: int, rng: np.random.Generator) -> None:
        self.start = self.best = start
        self.radius, self.codes, self.rng = radius, codes, rng
        self.restarts = -1
        self.known = np.empty((0, len(start)), np.float32)
        self.keys: list[Key] = []
        self.elites: list[int] = []
        self.untold = 0
        self.surrogate: Surrogate | None = None
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
        """Draw from the present normal distribution around several parents, and keep what promises most."""
        if self.surrogate is None:
            return np.array(self.engine.ask(), np.float32)
        offered = np.array(self.engine.ask(self.codes * self.OFFERED))
        parents = np.concatenate([self.start[None], self.known[self.elites]])
        a, b = parents[self.rng.integers(len(parents), size=(2, len(offered) // 2))]
        way = self.rng.random((len(a), 1))
        offered[: len(a)] += way * a + (1 - way) * b - self.engine.mean
        mean, sd = self.surrogate.predict(offered)
        promise = mean + sd * self.rng.standard_normal(len(sd))
        return offered[np.argsort(-promise, kind="stable")[: self.codes]].astype(np.float32)

    def worth(self, z: Float32[np.ndarray, "n z"]) -> Float[np.ndarray, " n"]:
        """Upper confidence bound of the surrogate."""
        if self.surrogate is None:
            return np.zeros(len(z))
        mean, sd = self.surrogate.predict(z)
        return mean + sd / 2

    def tell(self, z: Float32[np.ndarray, "n z"], keys: Sequence[Key], known: int, better: bool) -> None:
        """Learn, and adapt the distribution or begin anew."""
        keep = sorted({*self.elites, *range(len(self.keys))[-max(self.LATEST, self.codes) :]})
        self.known = np.concatenate([self.known[keep], z])
        self.keys = [*(self.keys[i] for i in keep), *keys]
        self.elites = np.argsort(ranks(self.keys), kind="stable")[: self.ELITES].tolist()
        self.untold += len(keys)
        failed = sum(key[0] in (1, 3) for key in keys)
        self.radius *= math.exp(self.RATE * (known - failed) / self.codes)
        if better:
            self.best = z[ranks(keys).argmin()]
        self.stalled = 0 if better else self.stalled + 1
        if len(self.keys) > 2:
            self.surrogate = Surrogate(self.known, -ranks(self.keys).astype(np.float64))
        if self.stalled >= self.PATIENCE:
            self._begin()
        elif self.untold >= self.codes:
            last = self.known[-self.codes :].astype(np.float64)
            self.engine.tell(last, ranks(self.keys[-self.codes :]).tolist())
            self.untold = 0
        self.engine.sigma = self.radius


class RandomPerturbation:
    """Baseline: noise of one radius around the best code so far, at first the seed's; a climb that does not adapt."""

    chooses: ClassVar[bool] = False

    def __init__(self, start: Float32[np.ndarray, " z"], radius: float, codes: int, rng: np.random.Generator) -> None:
        self.best, self.radius, self.codes, self.rng = start, radius, codes, rng
        self.restarts = 0

    def ask(self) -> Float32[np.ndarray, "m z"]:
        """Draw around the best code."""
        eps = self.rng.standard_normal((self.codes, len(self.best)), np.float32)
        return self.best + np.float32(self.radius) * eps

    def worth(self, z: Float32[np.ndarray, "n z"]) -> Float[np.ndarray, " n"]:
        """All the same."""
        return np.zeros(len(z))

    def tell(self, z: Float32[np.ndarray, "n z"], keys: Sequence[Key], known: int, better: bool) -> None:
        """Move to a better code."""
        if better:
            self.best = z[ranks(keys).argmin()]


class BestOfN(RandomPerturbation):
    """Baseline: noise around the seed's code, all the time; the best of what is drawn is what was found."""

    def tell(self, z: Float32[np.ndarray, "n z"], keys: Sequence[Key], known: int, better: bool) -> None:
        """Learn nothing."""


METHODS: dict[str, type[CovarianceAdaptation] | type[RandomPerturbation]] = {
    "cma": CovarianceAdaptation,
    "perturbation": RandomPerturbation,
    "best-of-n": BestOfN,
}
"""Name -> search."""
