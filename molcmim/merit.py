"""Figures of merit of generated molecules, each with its number of observations and its standard error.

Knows frames of :mod:`molcmim.generation` and :mod:`molcmim.optimization`, and the corpus only as a set of hashes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Float64, Int, UInt64
from scipy.stats import wasserstein_distance

from molcmim import smiles
from molcmim.data import gather
from molcmim.decoding import log_probability
from molcmim.properties import internal_diversity, properties
from molcmim.space import Space

DISTRIBUTIONS = ("logp", "qed", "sa", "molecular_weight")
"""Properties whose distributions are compared."""
PROPOSALS = (-6.0, -5.0, -4.0, -3.0, -2.0, -1.0, 0.0)
"""Log-variances that importance sampling chooses from."""


RESAMPLED = 100
"""Resamplings behind the standard error of a distance."""


class Figure(NamedTuple):
    """One figure of merit."""

    part: str
    """Part of the benchmark."""
    setting: str
    """At which setting; empty if there is one."""
    name: str
    """What it is."""
    value: float
    """The figure."""
    se: float
    """Its standard error; NaN where it is no estimate."""
    n: int
    """Observations behind it."""


class Known:
    """A set of molecules as 64-bit hashes, 8 bytes each whatever their length, and a few of them at random.

    Parameters
    ----------
    chunks : iterable of list of str
        Canonical SMILES.
    sample : int
        How many to keep as SMILES: those with the smallest hashes, which is a choice at random.
    """

    def __init__(self, chunks: Iterable[Sequence[str]], sample: int = 0) -> None:
        parts = [np.empty(0, np.uint64)]
        kept: dict[int, str] = {}
        for chunk in chunks:
            parts.append(_hashes(chunk))
            smallest = np.argsort(parts[-1])[:sample]
            kept |= {int(parts[-1][i]): chunk[i] for i in smallest}
            kept = dict(sorted(kept.items())[:sample])
        self.hashes = np.unique(np.concatenate(parts))
        self.sample = list(kept.values())

    def __len__(self) -> int:
        """Different molecules."""
        return len(self.hashes)

    def hold(self, molecules: Sequence[str]) -> Bool[np.ndarray, " n"]:
        """Whether each is one of them."""
        if not len(self):
            return np.zeros(len(molecules), bool)
        sought = _hashes(molecules)
        at = np.searchsorted(self.hashes, sought).clip(max=len(self) - 1)
        return self.hashes[at] == sought


def _hashes(molecules: Sequence[str]) -> UInt64[np.ndarray, " n"]:
    return pd.util.hash_array(np.array(molecules, dtype=object), categorize=False)


def share(hits: Any) -> tuple[float, float, int]:
    """Share of a sample, sqrt(p (1 - p) / n), n."""
    hits = np.asarray(hits, bool)
    p = float(hits.mean())
    return p, math.sqrt(p * (1 - p) / len(hits)), len(hits)


def mean(values: Any) -> tuple[float, float, int]:
    """Mean, its standard error s / sqrt(n) and n of those that are numbers."""
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    if len(values) < 2:
        return (float(values[0]) if len(values) else math.nan), math.nan, len(values)
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values))), len(values)


def ratio(numerators: Any, denominators: Any) -> tuple[float, float, int]:
    """Ratio of two sums over clusters, its standard error, and the second sum.

    Draws around one seed are alike, so what varies freely is the seed: the linearised variance of a ratio estimator
    (Cochran, Sampling Techniques, 1977, 6.4).
    """
    a, b = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    if not b.sum():
        return math.nan, math.nan, 0
    r, m = a.sum() / b.sum(), len(a)
    se = math.sqrt(m / (m - 1) * ((a - r * b) ** 2).sum()) / b.sum() if m > 1 else math.nan
    return float(r), float(se), int(b.sum())


def reconstruction(frame: pd.DataFrame) -> Iterator[Figure]:
    """Figures of :func:`molcmim.generation.reconstruct`: shares of all molecules; similarity of the valid ones."""
    yield Figure("reconstruction", "", "exact", *share(frame["exact"]))
    yield Figure("reconstruction", "", "valid", *share(frame["valid"]))
    yield Figure("reconstruction", "", "similarity", *mean(frame["similarity"]))


def around_seeds(frame: pd.DataFrame, radius: float, corpus: Known | None) -> Iterator[Figure]:
    """Figures of :func:`molcmim.generation.sample` around seeds; standard errors are over seeds.

    Of the draws, ``valid`` is the share of molecules. Of the valid ones, ``unique`` is the share left if of equal ones
    around a seed the first alone counts, and ``not the seed`` the share that differ from it. Of the unique ones,
    ``novel`` is the share that the corpus lacks. ``effective novelty``, whose name is MolMIM's (Reidenbach et al.,
    arXiv 2208.09016), is the share of all draws that are all four at once. ``similarity`` to the seed is of the valid
    ones.
    """
    setting = f"radius {radius:g}"
    valid = frame["valid"]
    unique = valid & ~frame.duplicated(["seed", "canonical"])
    other = valid & (frame["canonical"] != frame["seed"])

    def of(part: Any, whole: Any) -> tuple[float, float, int]:
        seeds = frame["seed"]
        return ratio(part.groupby(seeds, sort=False).sum(), whole.groupby(seeds, sort=False).sum())

    yield Figure("radius", setting, "valid", *of(valid, valid | True))
    yield Figure("radius", setting, "unique", *of(unique, valid))
    yield Figure("radius", setting, "not the seed", *of(other, valid))
    if corpus is not None:
        novel = unique.copy()
        novel[unique] = ~corpus.hold(frame["canonical"][unique].tolist())
        yield Figure("radius", setting, "novel", *of(novel, unique))
        yield Figure("radius", setting, "effective novelty", *of(novel & other, valid | True))
    yield Figure("radius", setting, "similarity", *of(frame["similarity"].fillna(0.0), valid))


def of_prior(
    frame: pd.DataFrame, reference: Float64[np.ndarray, "r 4"] | None, corpus: Known | None
) -> tuple[list[Figure], Float64[np.ndarray, "n 4"]]:
    """Figures of draws from the prior, and the properties of the valid ones.

    ``unique`` is of the valid ones, ``novel`` of the unique ones; ``internal diversity`` is that of
    :func:`molcmim.properties.internal_diversity` of the unique ones; a distance is the 1-Wasserstein distance between
    the valid ones and `reference`, in the property's unit. ``distance within the corpus`` is what two halves of the
    reference have: below it, two distributions cannot be told apart.
    """
    valid = frame["valid"]
    molecules = frame["canonical"][valid].tolist()
    different = list(dict.fromkeys(molecules))
    figures = [Figure("prior", "", "valid", *share(valid))]
    # Molecules are not repeated by chance of a few: their number has no simple standard error
    figures.append(Figure("prior", "", "unique", len(different) / max(1, len(molecules)), math.nan, len(molecules)))
    if corpus is not None and different:
        figures.append(Figure("prior", "", "novel", *share(~corpus.hold(different))))
    some = different[:2000]
    if len(some) > 1:
        halves = [internal_diversity(some[i::5]) for i in range(5)] if len(some) >= 50 else [math.nan]
        figures.append(Figure("prior", "", "internal diversity", internal_diversity(some), mean(halves)[1], len(some)))
    values = properties(molecules, DISTRIBUTIONS)
    if reference is not None and len(reference) > 1 and len(values):
        for i, name in enumerate(DISTRIBUTIONS):
            own, other = values[:, i], reference[:, i]
            figures.append(Figure("prior", name, "distance to the corpus", *_distance(own, other), len(own)))
            figures.append(
                Figure(
                    "prior", name, "distance within the corpus", *_distance(other[::2], other[1::2]), len(other) // 2
                )
            )
    return figures, values


def _distance(a: Float64[np.ndarray, " n"], b: Float64[np.ndarray, " m"]) -> tuple[float, float]:
    """Wasserstein distance, and its standard error by resampling both."""
    rng = np.random.default_rng(0)
    again = [wasserstein_distance(rng.choice(a, len(a)), rng.choice(b, len(b))) for _ in range(RESAMPLED)]
    return float(wasserstein_distance(a, b)), float(np.std(again, ddof=1))


def interpolation(frames: Sequence[pd.DataFrame], path: str) -> Iterator[Figure]:
    """Figures of ways between molecules, of :func:`molcmim.generation.interpolate`; standard errors are over ways.

    ``valid`` is the share of the codes strictly between the ends that give a molecule, ``different`` the number of
    different molecules on a way over its number of codes. Smoothness: ``step similarity`` is the mean Tanimoto
    similarity of one valid molecule to the next on its way, ``least step similarity`` the lowest on a way, ``monotone``
    the share of steps on which similarity to the first end does not grow. ``similarity of ends`` is what one step from
    end to end would have.
    """
    rows = []
    for frame in frames:
        inner, found = frame.iloc[1:-1], frame[frame["valid"]]
        molecules, near = found["canonical"].tolist(), found["similarity_a"].to_numpy()
        steps = [smiles.similarities(a, [b])[0] for a, b in itertools.pairwise(molecules)]
        rows.append(
            {
                "valid": inner["valid"].mean(),
                "different": len(set(molecules)) / len(frame),
                "step similarity": np.mean(steps) if steps else math.nan,
                "least step similarity": min(steps, default=math.nan),
                "monotone": np.mean(np.diff(near) <= 1e-9) if len(near) > 1 else math.nan,
                "similarity of ends": smiles.similarities(frame.attrs["a"], [frame.attrs["b"]])[0],
            }
        )
    for name, values in pd.DataFrame(rows).items():
        yield Figure("interpolation", path, str(name), *mean(values))


class Likelihood(NamedTuple):
    """Log p(x) of molecules by importance sampling."""

    log_px: Float64[np.ndarray, " n"]
    """Estimates in nats."""
    effective: Float64[np.ndarray, " n"]
    """Effective number of samples behind each, (sum w)^2 / sum w^2."""
    logvar: float
    """Log-variance of the proposals."""


@torch.inference_mode()
def importance(
    space: Space, molecules: Sequence[str], samples: int, logvar: float, rng: np.random.Generator
) -> Likelihood:
    """Estimate log p(x) = log E_q[p(x|z) P(z) / q(z)] with z ~ q = N(mu(x), exp(logvar) I).

    The mean of `samples` weights is unbiased for p(x), so that its logarithm is below log p(x) on average, ever less
    with more samples (Burda et al., arXiv 1509.00519).
    """
    encoded = space.featurizer.reader().read(molecules)
    if bad := [reason for reason in encoded.reasons if reason]:
        raise ValueError(f"{len(bad)} molecules cannot be encoded; the first: {bad[0]}")
    mu = space.featurizer.embed_encoded(encoded, "mean")
    weights = np.empty((len(molecules), samples))
    scale = math.exp(logvar / 2)
    for i, which in enumerate(encoded.which):
        ids = torch.from_numpy(gather(encoded.ids, encoded.offsets, np.array([which]))[0])
        eps = rng.standard_normal((samples, space.dim), np.float32)
        z = mu[i] + np.float32(scale) * eps
        log_q = -0.5 * (eps.astype(np.float64) ** 2).sum(1) - space.dim * logvar / 2  # without log(2 pi), as the prior
        log_prior = -0.5 * (z.astype(np.float64) ** 2).sum(1)
        codes = torch.from_numpy(z).to(space.model.device)
        log_p = [
            log_probability(space.model, ids.to(part.device).expand(len(part), -1), part).cpu()
            for part in codes.split(128)
        ]
        weights[i] = torch.cat(log_p).double().numpy() + log_prior - log_q
    top = weights.max(1, keepdims=True)
    w = np.exp(weights - top)
    log_px = top[:, 0] + np.log(w.mean(1))
    return Likelihood(log_px, w.sum(1) ** 2 / (w**2).sum(1), logvar)


def likelihood(
    space: Space, molecules: Sequence[str], samples: int, rng: np.random.Generator, tuning: int
) -> Iterator[Figure]:
    """Log-likelihood of held-out molecules, a lower bound on average, by :func:`importance`.

    The proposal is the one of :data:`PROPOSALS` that does best on the first `tuning` molecules, which are then left
    out. Standard errors are over molecules. ``effective samples`` says how far to trust it: near 1, one sample
    outweighs all others, and the true likelihood is higher.
    """
    first, rest = molecules[:tuning], molecules[tuning:]
    trials = [importance(space, first, max(8, samples // 4), logvar, rng) for logvar in PROPOSALS]
    chosen = max(trials, key=lambda trial: trial.log_px.mean()).logvar
    found = importance(space, rest, samples, chosen, rng)
    characters = np.array([len(molecule) for molecule in rest], np.float64)
    value, se, _ = ratio(-found.log_px / math.log(2), characters)
    setting = f"{samples} samples"
    yield Figure("likelihood", setting, "log p(x), nats", *mean(found.log_px))
    yield Figure("likelihood", setting, "bits per character", value, se, len(rest))
    yield Figure("likelihood", setting, "effective samples", *mean(found.effective))
    yield Figure("likelihood", setting, "log-variance of the proposal", chosen, math.nan, tuning)


def success(evaluations: pd.DataFrame, method: str, calls: int, target: float) -> Iterator[Figure]:
    """Figures of :func:`molcmim.optimization.optimize` with a `target`: standard errors are over seeds."""
    for budget in (calls // 10, calls):
        best = evaluations[evaluations["call"] <= budget].groupby("seed", sort=False)["best"].max()
        if len(best):
            yield Figure("qed", method, f"share that reaches {target:g} in {budget:,} calls", *share(best >= target))
    yield Figure("qed", method, "best score", *mean(best))
    needed = evaluations[evaluations["score"] >= target].groupby("seed")["call"].min()
    if len(needed):
        yield Figure("qed", method, "calls of those that reach it", *mean(needed))
    yield Figure("qed", method, "codes decoded, per seed", evaluations.attrs["draws"] / len(best), math.nan, len(best))


def advantage(ours: pd.DataFrame, theirs: pd.DataFrame, method: str, target: float) -> Figure:
    """Difference of two methods' shares on the same seeds, with the standard error of paired differences."""
    hits = [frame.groupby("seed", sort=False)["best"].max() >= target for frame in (ours, theirs)]
    return Figure("qed", method, "share of cma less this one's", *mean(hits[0].astype(float) - hits[1].astype(float)))


def plain_greedy(space: Space, z: Float[np.ndarray, "n z"]) -> Int[torch.Tensor, "n t"]:
    """Decode greedily to token ids, but run through the whole sequence for each new token: no cache."""
    decoder, config = space.model.decoder, space.model.config
    with torch.inference_mode():
        codes = torch.from_numpy(z).to(space.model.device)
        ids = torch.full((len(z), 1), config.bos_token_id, device=codes.device)
        done = torch.zeros(len(z), dtype=torch.bool, device=codes.device)
        while ids.shape[1] < config.max_position_embeddings and not done.all():
            logits = decoder.to_vocabulary(decoder(ids, codes)[:, -1]).float()
            logits[:, space.forbidden] = -math.inf
            new = logits.argmax(-1).masked_fill(done, config.pad_token_id)
            done |= new == config.eos_token_id
            ids = torch.cat([ids, new[:, None]], 1)
    return ids


def throughput(
    ways: dict[str, Callable[[], Any]], molecules: int, repeats: int, seconds: Callable[[], float]
) -> Iterator[Figure]:
    """Molecules a second of ways to decode the same codes, taking turns; standard errors are over turns."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            start = seconds()
            way()
            rates[name].append(molecules / (seconds() - start))
    for name, values in rates.items():
        yield Figure("throughput", name, "molecules/s", *mean(values))
