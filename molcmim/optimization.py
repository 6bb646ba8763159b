"""Better molecules near seeds: a search in the latent space, and a budget of oracle calls.

Knows neither how a search goes on nor what a score means. A run is a pure function of its arguments, so its log of
what was decoded and scored is all its state: to resume is to run again and to look up instead of decode and ask.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from molcmim import smiles
from molcmim.atomic import alone
from molcmim.featurizer import as_rows
from molcmim.oracles import Oracle, Score, Scorer
from molcmim.search import METHODS, Key, Search
from molcmim.search_log import SearchLog
from molcmim.space import Checkpoint, Device, Space, good_rows
from molcmim.substructure import Substructures

DRAWS_PER_CALL = 10
"""Default of the codes that may be decoded for each oracle call."""
GROWING = 10
"""A search which chooses what to score has at most one molecule scored at a time for so many known ones, or two: at
first, each teaches it most."""
FAILURES = 20
"""Molecules, the first of all, that an oracle may fail for before it is taken to be broken."""
COLUMNS = {"seed", "call", "smiles", "valid", "canonical", "log_prob", "similarity", "score", "best", "error",
           "row", "generation", "first", "score_error"}  # fmt: skip
"""Of the result and of what leads to it: names that no objective of several may have."""
POOL = 200
"""Molecules that a search which chooses what to score may put off, the most promising ones."""


@dataclass
class _Run:
    """The search around one seed."""

    row: int
    seed: str
    search: Search
    best: float
    seen: dict[str, Score] = field(default_factory=dict)
    """What counts as an oracle call of this seed, in order."""
    pool: dict[str, Any] = field(default_factory=dict)
    """What may be scored, and its code."""
    far: set[str] = field(default_factory=set)
    """What is too dissimilar."""
    draws: int = 0


def optimize(
    seeds: Any,
    oracle: Oracle | str | Mapping[str, Oracle | str] = "qed",
    *,
    calls: int = 1000,
    min_similarity: float = 0.0,
    must_have: str | Sequence[str] = (),
    must_not_have: str | Sequence[str] = (),
    target: float = math.inf,
    weights: Mapping[str, float] | None = None,
    method: str = "cma",
    radius: float = 0.5,
    codes: int = 24,
    max_draws: int | None = None,
    log: str | os.PathLike[str] | None = None,
    restart: bool = False,
    progress: bool | None = None,
    decoding: str = "greedy",
    random_state: int = 0,
    checkpoint: Checkpoint = "molcmim-small",
    device: Device = None,
) -> pd.DataFrame:
    """Search for molecules near seeds that an oracle likes better, all seeds side by side.

    A code is decoded; what is valid, new, and as similar to the seed as it must be, is scored. As MolMIM does it
    (arXiv 2208.09016), but that molecules below `min_similarity`, or with other substructures than they are to have,
    rank behind all others, by similarity, and cost no oracle call, and that ``cma`` decodes more than it has scored:
    what a surrogate thinks best. If the checkpoint was trained to tell descriptors of a molecule from its code, the
    surrogate knows a code by these, so it learns soonest what depends on logP, surface, rings and the like, as QED.

    Parameters
    ----------
    seeds : str, Mol, or any iterable of them
        Different molecules to begin at.
    oracle : callable, str, or mapping of names to these
        Function of a list of canonical SMILES that returns as many numbers, more being better; a built-in one (see
        :func:`molcmim.oracles.named`); or several objectives. ``MolCMIMRegressor.load(folder).predict`` is an oracle.
        An attribute ``fingerprint``, if it has one, tells it from another: `log` is then of this oracle only.
    calls : int
        How many different molecules each seed may have scored, the seed's own score included. A molecule met
        around several seeds is scored once, and counts for each of them.
    min_similarity : float
        Least Tanimoto similarity to the seed.
    must_have, must_not_have : str or sequence of str
        SMARTS that every molecule but the seed must match, or must not, to be scored; ``.``: a second fragment.
    target : float
        Score at which a seed's search ends.
    weights : mapping of str to float, optional
        Factor of each objective in the score; default 1.
    method : {"cma", "perturbation", "best-of-n"}
        A key of :data:`molcmim.search.METHODS`. ``cma`` spreads its calls over `max_draws` codes; the climb
        that ``perturbation`` is has everything new scored at once.
    radius : float
        Standard deviation of the noise in each latent dimension, for ``cma`` at the start.
    codes : int
        Codes that are decoded for each seed at a time; at least 2.
    max_draws : int, optional
        Codes after which no more are decoded for a seed, which takes whole generations of `codes`; default 10 `calls`.
    log : path, optional
        Parquet file of every code that was decoded. If there is one of the same call, it is gone on with; one of a
        call with other `calls`, `max_draws` or `target` gives its scores, so that a larger budget asks only for new
        ones.
    restart : bool
        Begin anew, whatever `log` holds.
    progress : bool, optional
        Show a bar with the best score so far; default: if standard error is a terminal.

    Returns
    -------
    DataFrame
        A row per scored molecule, seed by seed, in the order of their `call`, which counts from 1, the seed itself:
        ``seed``, ``call``, ``smiles``, ``valid``, ``canonical``, ``log_prob`` (of the seed itself NaN), ``similarity``,
        ``score``, the objectives if there are several, ``best`` (score so far of this seed), and ``error``: why there
        is no score. ``attrs`` says what it cost: ``draws``, and among these ``invalid``, ``dissimilar``, ``excluded``
        (by their substructures) and ``repeated`` (known, or not chosen) ones, ``scored`` (different molecules handed
        to the oracle), ``failed`` (those of them without a score), ``restarts``. :func:`best` picks the winners.

    Raises
    ------
    MoleculeError
        If a seed cannot be encoded.
    FileExistsError
        If another process is writing `log`.
    ValueError
        For an argument out of its range, two equal seeds, an oracle that returns another number of scores than it was
        given molecules or that fails for all molecules, or a log of another run.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; known are {', '.join(METHODS)}")
    max_draws = DRAWS_PER_CALL * calls if max_draws is None else max_draws
    for name, value, least, most in (
        ("calls", calls, 1, math.inf), ("min_similarity", min_similarity, 0, 1), ("codes", codes, 2, math.inf),
        ("max_draws", max_draws, 1, math.inf),
    ):  # fmt: skip
        if not least <= value <= most:
            raise ValueError(f"{name} must be at least {least}{f' and at most {most}' * (most == 1)}, got {value}")
    if math.isnan(target):
        raise ValueError("target must be a number, got nan; of no target leave it out")
    if not 0 < radius < math.inf:
        raise ValueError(f"radius must be above 0 and finite, got {radius}")
    asked_for = Substructures(must_have, must_not_have)
    scorer = Scorer(oracle, weights)
    if len(scorer.objectives) > 1 and (taken := sorted(COLUMNS & scorer.objectives.keys())):
        raise ValueError(f"no objective can be called {', '.join(taken)}, as columns of the result are; rename it")
    space = Space(checkpoint, device)
    if not (rows := as_rows(seeds)):
        raise ValueError("seeds holds no molecule")
    origins, reasons, mu = space.encode(rows)
    good_rows(rows, reasons, "raise")
    if len(set(origins)) < len(origins):
        twice = next(i for i, seed in enumerate(origins) if seed in origins[:i])
        raise ValueError(f"seeds {origins.index(origins[twice])} and {twice} are the same molecule, {origins[twice]}")
    settings = {
        "seeds": origins, "weights": scorer.weights, "calls": calls, "min_similarity": min_similarity, "target": target,
        "must_have": asked_for.must_have, "must_not_have": asked_for.must_not_have,
        "method": method, "radius": radius, "codes": codes, "max_draws": max_draws, "decoding": decoding,
        "random_state": random_state, "model": _digest(space),
        "oracles": {name: one.fingerprint for name, one in scorer.objectives.items() if hasattr(one, "fingerprint")},
    }  # fmt: skip
    with contextlib.ExitStack() as stack:
        if log is not None:
            stack.enter_context(alone(log))
        record = SearchLog(None if log is None else Path(log), settings, scorer, restart)
        head = space.model.to_descriptors
        measure = None if head is None else head.weight.detach().cpu().float().numpy().T
        rngs = np.random.default_rng(random_state).spawn(len(origins))
        firsts = scorer.score(origins)
        runs = [
            _Run(row, seed, METHODS[method](z, radius, codes, rng, measure), _total(first), {seed: first})
            for row, (seed, z, rng, first) in enumerate(zip(origins, mu, rngs, firsts, strict=True))
        ]
        for run, z in zip(runs, mu, strict=True):
            run.search.tell(z[None], [_key(run.seen[run.seed])], 0, False)
        seen = [run.seen for run in runs]
        if not record.generations:
            n = len(runs)
            record.add({"generation": [0] * n, "row": list(range(n)), "seed": origins, "smiles": origins,
                        "canonical": origins, "log_prob": [math.nan] * n, "similarity": [1.0] * n,
                        "error": [None] * n}, seen)  # fmt: skip
        pace = math.ceil(codes * calls / max_draws)
        hidden = None if progress is None else not progress
        stack.callback(record.save, seen)
        bar = stack.enter_context(tqdm(total=calls * len(runs), desc=method, unit=" calls", disable=hidden))
        for generation in range(1, 1 + max_draws):
            live = [r for r in runs if len(r.seen) < calls and r.draws < max_draws and not r.best >= target]
            if not live:
                break
            asked = [run.search.ask() for run in live]
            drawn = record.recall(generation)
            if drawn is None:
                rng = np.random.default_rng([random_state, generation])
                frame = space.decode(np.concatenate(asked), decoding, rng)
                drawn = {name: frame[name].tolist() for name in ("smiles", "canonical", "log_prob", "error")}
            found = [
                _sift(run, z, drawn["canonical"][place : place + codes], min_similarity, asked_for)
                for run, z, place in zip(live, asked, range(0, codes * len(live), codes), strict=True)
            ]
            owners = [run for run in live for _ in range(codes)]
            record.add({**drawn, "generation": [generation] * len(owners), "row": [run.row for run in owners],
                        "seed": [run.seed for run in owners],
                        "similarity": [near for one in found for near in one.similarity]}, seen)  # fmt: skip
            if METHODS[method].chooses:
                _project(space, found)
            chosen = [_choose(run, one, calls, pace, max_draws) for run, one in zip(live, found, strict=True)]
            scorer.score([molecule for molecules in chosen for molecule in molecules])
            for run, molecules, one in zip(live, chosen, found, strict=True):
                _tell(run, molecules, one, scorer, space.dim)
            failed = [score.error for score in scorer.known.values() if score.error]
            if len(scorer.known) == len(failed) >= max(FAILURES, 2 * len(runs)):
                raise ValueError(f"the oracle failed for each of {len(failed)} molecules; the first: {failed[0]}")
            bar.update(sum(len(run.seen) for run in runs) - bar.n)
            best = [run.best for run in runs if run.best > -math.inf]
            if best:
                bar.set_postfix_str(f"best {max(best):.4g}, mean of {len(runs)} seeds {np.mean(best):.4g}")
    return _evaluations(record, runs, settings, asked_for, space.featurizer.name)


def best(evaluations: pd.DataFrame, k: int = 1, max_similarity: float = 1.0) -> pd.DataFrame:
    """Pick the `k` best molecules of each seed.

    Parameters
    ----------
    evaluations
        What :func:`optimize` returned.
    k
        Molecules.
    max_similarity
        Below 1, a molecule is left out whose Tanimoto similarity to a better one that is picked is at least this.

    Returns
    -------
    DataFrame
        Rows of what :func:`optimize` returned, seed by seed, the best first; after ``score`` stands ``gain``, by how
        much it is above the seed's.
    """
    scored = evaluations[evaluations["score"].notna()]
    first = evaluations[evaluations["call"] == 1].set_index("seed")["score"]
    order = scored.sort_values("score", ascending=False, kind="stable")
    if max_similarity < 1:
        groups = [group for _, group in order.groupby("seed", sort=False)]
        apart = [group.iloc[smiles.leaders(group["canonical"].tolist(), max_similarity)] for group in groups]
        order = pd.concat([order.iloc[:0], *apart])
    order = order.groupby("seed", sort=False).head(k)
    rank = {seed: i for i, seed in enumerate(first.index)}
    frame = order.sort_values("seed", key=lambda names: names.map(rank), kind="stable").reset_index(drop=True)
    frame = frame.drop(columns=["best", "error"])
    frame.insert(list(frame).index("score") + 1, "gain", frame["score"] - frame["seed"].map(first))
    frame.attrs = evaluations.attrs
    return frame


@dataclass
class _Found:
    """What the codes of a seed were decoded to, known molecules left out."""

    similarity: list[float]
    """Of each code's molecule."""
    new: dict[str, Any]
    """Molecules that may be scored, and their codes."""
    far: dict[str, tuple[Any, Key]]
    """Too dissimilar ones and excluded ones, their codes and keys."""
    broken: list[tuple[Any, Key]]
    """Codes without a molecule, and their keys."""


def _sift(run: _Run, z: Any, molecules: list[str | None], floor: float, asked_for: Substructures) -> _Found:
    similarity, fit = smiles.similarities(run.seed, molecules).tolist(), asked_for.fit(molecules)
    found = _Found(similarity, {}, {}, [])
    for code, molecule, near, fits in zip(z, molecules, similarity, fit, strict=True):
        if molecule is None:
            found.broken.append((code, (3, 0.0)))
        elif molecule in run.far or molecule in run.seen or molecule in run.pool:
            continue
        elif near < floor or not fits:
            found.far.setdefault(molecule, (code, (1, -near)))
        else:
            found.new.setdefault(molecule, code)
    return found


def _project(space: Space, found: list[_Found]) -> None:
    """Replace codes by those of the molecules that they were decoded to, unless these are too long to be read."""
    molecules = list(dict.fromkeys(molecule for one in found for molecule in (*one.new, *one.far)))
    if molecules:
        codes = zip(molecules, space.encode(molecules).mu, strict=True)
        mu = {molecule: code for molecule, code in codes if np.isfinite(code).all()}
        for one in found:
            one.new |= {molecule: mu.get(molecule, code) for molecule, code in one.new.items()}
            one.far |= {molecule: (mu.get(molecule, code), key) for molecule, (code, key) in one.far.items()}


def _choose(run: _Run, found: _Found, calls: int, pace: int, max_draws: int) -> dict[str, Any]:
    """Put what was found into the pool, and take out of it what is scored now, with its code."""
    run.far |= set(found.far)
    run.draws += len(found.similarity)
    pool = [*run.pool.items(), *found.new.items()]
    number = calls - len(run.seen)
    if run.search.chooses and pool:
        worth = run.search.worth(np.array([code for _, code in pool]))
        pool = [pool[i] for i in np.argsort(-worth, kind="stable")]
        pace = min(pace, max(2, len(run.seen) // GROWING))
        number = min(number, pace) if run.draws < max_draws else number
    run.pool = dict(pool[number:][:POOL])
    return dict(pool[:number])


def _tell(run: _Run, chosen: Mapping[str, Any], found: _Found, scorer: Scorer, dim: int) -> None:
    told = [(code, _key(scorer.known[molecule])) for molecule, code in chosen.items()]
    told += [*found.far.values(), *found.broken]
    run.seen |= {molecule: scorer.known[molecule] for molecule in chosen}
    top = max((_total(run.seen[molecule]) for molecule in chosen), default=-math.inf)
    known = len(found.similarity) - len(found.new) - len(found.far) - len(found.broken)
    z = np.array([code for code, _ in told], np.float32).reshape(len(told), dim)
    run.search.tell(z, [key for _, key in told], known, top > run.best)
    run.best = max(run.best, top)


def _total(score: Score) -> float:
    return -math.inf if score.error else score.total


def _key(score: Score) -> Key:
    """Scored ones come first, by score, then those not to be scored, by similarity, that failed, broken strings."""
    return (2, 0.0) if score.error else (0, -score.total)


def _digest(space: Space) -> str:
    """Hash of a model's weights."""
    digest = hashlib.sha256()
    for name, weight in space.model.state_dict().items():
        digest.update(name.encode() + weight.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()


def _evaluations(
    record: SearchLog,
    runs: list[_Run],
    settings: dict[str, Any],
    asked_for: Substructures,
    checkpoint: str,
) -> pd.DataFrame:
    whole = record.frame([run.seen for run in runs])
    drawn = whole[whole["generation"] > 0]
    frame = whole[whole["call"].notna()].sort_values(["row", "call"], ignore_index=True)
    if len(record.names) == 1:
        frame = frame.drop(columns=f"objective {record.names[0]}")
    frame = frame.rename(columns={f"objective {name}": name for name in record.names})
    invalid, near = drawn["canonical"].isna(), drawn["similarity"] >= settings["min_similarity"]
    fit = pd.Series(
        asked_for.fit([text if isinstance(text, str) else None for text in drawn["canonical"]]), drawn.index
    )
    parts = record.names if len(record.names) > 1 else []
    scored = {molecule: score for run in runs for molecule, score in run.seen.items()}
    result = pd.DataFrame(
        {
            **{
                name: frame[name] for name in ("seed", "smiles", "canonical", "log_prob", "similarity", "score", *parts)
            },
            "best": frame.groupby("row")["score"].cummax().groupby(frame["row"]).ffill(),
            "error": frame["score_error"].astype(object).where(frame["score_error"].notna(), None),
        }
    )
    result.insert(1, "call", frame["call"].astype(int))
    result.insert(3, "valid", True)
    result.attrs = {
        "checkpoint": checkpoint,
        **{name: settings[name] for name in settings if name not in ("seeds", "model", "oracles")},
        "draws": len(drawn),
        "invalid": int(invalid.sum()),
        "dissimilar": int((~invalid & ~near).sum()),
        "excluded": int((~invalid & near & ~fit).sum()),
        "repeated": int((near & fit & drawn["call"].isna()).sum()),
        "scored": len(scored),
        "failed": sum(score.error is not None for score in scored.values()),
        "restarts": sum(run.search.restarts for run in runs),
    }
    return result
