"""Ways through a latent space to better codes: CMA-ES and two baselines, by asking and telling. Knows vectors alone.

What is told of a code is a key, a pair of numbers: of two codes the one with the smaller key is better. A code with a
score has the key (0, -score); 1 or 3 stands first where the code gave nothing that may be scored.

Shapes: m codes of a generation, n codes that are known, z latent dimension, p measured coordinates.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import ClassVar, Protocol, runtime_checkable

import cma
import numpy as np
from jaxtyping import Float, Float32, Int

from molcmim.surrogate import Choice, Surrogate, expected_improvement, normal_scores

Key = tuple[int, float]


def ranks(keys: Sequence[Key]) -> Int[np.ndarray, " n"]:
    """Rank keys from 0, the best; equal keys have equal ranks, and no rank is left out."""
    number = {key: rank for rank, key in enumerate(sorted(set(keys)))}
    return np.array([number[key] for key in keys], np.int64)


@runtime_checkable
class Search(Protocol):
    """One search: made from the code it begins at, how far it looks, how many codes it asks for, and a generator.

    And from a linear map of codes to what values may depend on most, or None; the baselines need none.
    """

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


class CovarianceAdaptation:
    """CMA-ES (Hansen & Ostermeier, Evol. Comput. 2001, 9, 159) with surrogates, several parents, and its own radius.

    The covariance is diagonal (Ros & Hansen, PPSN 2008): a full one has z (z + 1) / 2 numbers to learn, for which
    budgets of thousands of calls are too small. What a small budget needs besides:

    - A surrogate, a Gaussian process of the normal scores of the keys of what was scored. Those molecules are worth a
      call whose expected improvement over the best is highest. It measures codes by `measure`, if there is one: few
      scores tell more about few coordinates on which values depend than about all of a code's.
    - Another, of 1 where a code gave something that was scored and 0 where not, over codes. Of `OFFERED` times as many
      codes as are asked for, those are decoded for which draws from both are best: draws of what can be scored come
      first, as Thompson sampling under a constraint has it (Eriksson & Poloczek, arXiv 2002.08526).
    - Parents: half of the codes lie not around the engine's mean, but around points that have some coordinates of one
      parent and the rest of another (uniform crossover; Syswerda, ICGA 1989), in half of these of the start. A parent
      is one of what is known, drawn with a probability that falls as 1 / rank.
    - A radius that grows while codes give known molecules, and shrinks while they give none that may be scored.

    Where it has not found better in `PATIENCE` generations, the engine begins anew from the best code that it knows. So
    few generations hardly move the covariance of hundreds of coordinates; the rest does most of the work.
    """

    chooses: ClassVar[bool] = True
    OFFERED = 10
    PATIENCE = 12
    BEST = LATEST = 200
    """Codes that it looks back to."""
    RATE = 0.2
    """Logarithm by which the radius grows when every code gives a known molecule."""
    SPREAD = 0.3
    """Standard deviation of the logarithms of the radii of one generation's codes."""
    SMOOTH: Choice = (1.0, 0.1)
    """Scale and noise of the surrogate of what can be scored."""
    GROWTH = 1.2
    """By how much more must be scored until the other's are chosen anew."""

    def __init__(
        self,
        start: Float32[np.ndarray, " z"],
        radius: float,
        codes: int,
        rng: np.random.Generator,
        measure: Float32[np.ndarray, "z p"] | None = None,
    ) -> None:
        self.start = self.best = start
        self.radius, self.codes, self.rng, self.measure = radius, codes, rng, measure
        self.restarts = -1
        self.known = np.empty((0, len(start)), np.float32)
        self.keys: list[Key] = []
        self.untold = self.chosen_at = 0
        self.order: list[int] = []
        self.value: Surrogate | None = None
        self.top = 0.0
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
        """Draw from the present normal distribution around several centres, and keep what promises most."""
        if self.value is None:
            return np.array(self.engine.ask(), np.float32)
        steps = np.array(self.engine.ask(self.codes * self.OFFERED)) - self.engine.mean
        steps *= np.exp(self.SPREAD * self.rng.standard_normal((len(steps), 1)))
        centres = np.tile(self.engine.mean, (len(steps), 1))
        centres[: len(steps) // 2] = self._crosses(len(steps) // 2)
        offered = (centres + steps).astype(np.float32)
        mean, sd = self.value.predict(self._measured(offered))
        promise = mean + sd * self.rng.standard_normal(len(offered))
        fails = self.rng.random(len(offered)) > self._share(offered)
        return offered[np.lexsort((-promise, fails))[: self.codes]]

    def _crosses(self, n: int) -> Float32[np.ndarray, "n z"]:
        parents = self.known[self.order]
        rank = np.expm1(self.rng.random((2, n)) * math.log1p(len(parents))).astype(int).clip(0, len(parents) - 1)
        a, b = parents[rank]
        b[: n // 2] = self.start
        return np.where(self.rng.random(a.shape) < self.rng.random((n, 1)), a, b)

    def _measured(self, z: Float32[np.ndarray, "n z"]) -> Float32[np.ndarray, "n p"]:
        return z if self.measure is None else z @ self.measure

    def _share(self, z: Float32[np.ndarray, "n z"]) -> Float[np.ndarray, " n"]:
        """Probability that what a code gives can be scored, at least that of a code in fifty."""
        good = np.array([key[0] == 0 for key in self.keys], np.float64)
        if good.all() or not good.any():
            return np.ones(len(z))
        mean, _ = Surrogate(self.known, good - good.mean(), self.SMOOTH).predict(z)
        return (mean + good.mean()).clip(0.02)

    def worth(self, z: Float32[np.ndarray, "n z"]) -> Float[np.ndarray, " n"]:
        """Compute the expected improvement, in normal scores."""
        if self.value is None:
            return np.zeros(len(z))
        return expected_improvement(*self.value.predict(self._measured(z)), self.top)

    def tell(self, z: Float32[np.ndarray, "n z"], keys: Sequence[Key], known: int, better: bool) -> None:
        """Learn, and adapt the distribution or begin anew."""
        keep = sorted({*self.order[: self.BEST], *range(len(self.keys))[-max(self.LATEST, self.codes) :]})
        self.known = np.concatenate([self.known[keep], z])
        self.keys = [*(self.keys[i] for i in keep), *keys]
        self.order = np.argsort(ranks(self.keys), kind="stable").tolist()
        self.untold += len(keys)
        failed = sum(key[0] in (1, 3) for key in keys)
        self.radius *= math.exp(self.RATE * (known - failed) / self.codes)
        if better:
            self.best = z[ranks(keys).argmin()]
        self.stalled = 0 if better else self.stalled + 1
        self._learn()
        if self.stalled >= self.PATIENCE:
            self._begin()
        elif self.untold >= self.codes:
            last = self.known[-self.codes :].astype(np.float64)
            with warnings.catch_warnings():  # a molecule's code may lie far from the one that was asked for
                warnings.filterwarnings("ignore", "elements of z2", UserWarning)
                self.engine.tell(last, ranks(self.keys[-self.codes :]).tolist())
            self.untold = 0
        self.engine.sigma = self.radius

    def _learn(self) -> None:
        scored = [i for i in range(len(self.keys)) if self.keys[i][0] == 0]
        if len({self.keys[i] for i in scored}) < 3:
            return
        values = normal_scores(ranks([self.keys[i] for i in scored]))
        self.top = float(values.max())
        anew = self.value is None or len(scored) >= self.GROWTH * self.chosen_at
        choice = None if anew or self.value is None else self.value.choice
        self.chosen_at = len(scored) if anew else self.chosen_at
        self.value = Surrogate(self._measured(self.known[scored]), values, choice)


class RandomPerturbation:
    """Baseline: noise of one radius around the best code so far, at first the seed's; a climb that does not adapt."""

    chooses: ClassVar[bool] = False

    def __init__(
        self,
        start: Float32[np.ndarray, " z"],
        radius: float,
        codes: int,
        rng: np.random.Generator,
        measure: Float32[np.ndarray, "z p"] | None = None,
    ) -> None:
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
