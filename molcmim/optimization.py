"""Better molecules near seeds: a search in the latent space, a budget of oracle calls, a log that a run resumes from.

Knows neither how a search goes on nor what a score means. A run is a pure function of its arguments, so its log of
what was decoded and scored is all its state: to resume is to run again and to look up instead of decode and ask.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
from tqdm import tqdm

from molcmim import smiles
from molcmim.featurizer import as_rows
from molcmim.files import atomic_path
from molcmim.oracles import Oracle, Score, Scorer
from molcmim.search import METHODS, Key, Search
from molcmim.space import Checkpoint, Device, Space, good_rows

DRAWS_PER_CALL = 5
"""Default of the codes that may be decoded for each oracle call."""
SAVE_EVERY = 30.0
"""Seconds of work that a killed run may lose."""
NOT_DRAWN = pa.schema([("generation", pa.int32()), ("row", pa.int32()), ("call", pa.int32())])
DRAWN = pa.schema([("seed", pa.string()), ("smiles", pa.string()), ("canonical", pa.string()),
                   ("log_prob", pa.float32()), ("similarity", pa.float64()), ("error", pa.string())])  # fmt: skip


@dataclass
class _Run:
    """The search around one seed."""

    row: int
    seed: str
    search: Search
    best: float
    seen: dict[str, Score] = field(default_factory=dict)
    """What counts as an oracle call of this seed."""
    draws: int = 0


def optimize(
    seeds: Any,
    oracle: Oracle | str | Mapping[str, Oracle | str] = "qed",
    *,
    calls: int = 1000,
    min_similarity: float = 0.0,
    target: float = math.inf,
    weights: Mapping[str, float] | None = None,
    method: str = "cma",
    radius: float = 0.5,
    codes: int = 24,
    max_draws: int | None = None,
    log: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
    decoding: str = "greedy",
    random_state: int = 0,
    checkpoint: Checkpoint = "molcmim-small",
    device: Device = None,
) -> pd.DataFrame:
    """Search for molecules near seeds that an oracle likes better, all seeds side by side.

    A code is decoded; what is valid, new, and as similar to the seed as it must be, is scored. As MolMIM does it
    (arXiv 2208.09016), but that molecules below `min_similarity` rank behind all others, by similarity, and cost no
    oracle call.

    Parameters
    ----------
    seeds : str, Mol, or any iterable of them
        Different molecules to begin at.
    oracle : callable, str, or mapping of names to these
        Function of a list of canonical SMILES that returns as many numbers, more being better; a built-in one (see
        :func:`molcmim.oracles.named`); or several objectives. ``MolCMIMRegressor.load(folder).predict`` is an oracle.
    calls : int
        How many different molecules each seed may have scored, the seed's own score included. A molecule met
        around several seeds is scored once, and counts for each of them.
    min_similarity : float
        Least Tanimoto similarity to the seed.
    target : float
        Score at which a seed's search ends.
    weights : mapping of str to float, optional
        Factor of each objective in the score; default 1.
    method : {"cma", "perturbation", "best-of-n"}
        A key of :data:`molcmim.search.METHODS`.
    radius : float
        Standard deviation of the noise in each latent dimension, for ``cma`` at the start.
    codes : int
        Codes that are decoded for each seed at a time; at least 2.
    max_draws : int, optional
        Codes to decode at most for each seed; default 5 `calls`.
    log : path, optional
        Parquet file of every code that was decoded. If there is one of the same call, it is gone on with.
    progress : bool, optional
        Show a bar with the best score so far; default: if standard error is a terminal.

    Returns
    -------
    DataFrame
        A row per scored molecule, seed by seed, in the order of their `call`, which counts from 1, the seed itself:
        ``seed``, ``call``, ``smiles``, ``valid``, ``canonical``, ``log_prob`` (of the seed itself NaN), ``similarity``,
        ``score``, the objectives if there are several, ``best`` (score so far of this seed), and ``error``: why there
        is no score. ``attrs`` says what it cost: ``draws``, ``invalid``, ``dissimilar`` and ``repeated`` ones among
        these, ``scored`` (different molecules handed to the oracle), ``restarts``. :func:`best` picks the winners.

    Raises
    ------
    MoleculeError
        If a seed cannot be encoded.
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
    if not 0 < radius < math.inf:
        raise ValueError(f"radius must be above 0 and finite, got {radius}")
    scorer = Scorer(oracle, weights)
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
        "method": method, "radius": radius, "codes": codes, "max_draws": max_draws, "decoding": decoding,
        "random_state": random_state, "model": _digest(space),
    }  # fmt: skip
    record = _Log(None if log is None else Path(log), settings, scorer)
    rngs = np.random.default_rng(random_state).spawn(len(origins))
    firsts = scorer.score(origins)
    runs = [
        _Run(row, seed, METHODS[method](z, radius, codes, rng), _score(first), {seed: first})
        for row, (seed, z, rng, first) in enumerate(zip(origins, mu, rngs, firsts, strict=True))
    ]
    if not record.generations:
        n = len(runs)
        record.add({"generation": [0] * n, "row": list(range(n)), "call": [1] * n, "seed": origins, "smiles": origins,
                    "canonical": origins, "log_prob": [math.nan] * n, "similarity": [1.0] * n,
                    "error": [None] * n}, scorer)  # fmt: skip
    hidden = None if progress is None else not progress
    with contextlib.closing(record), tqdm(total=calls * len(runs), desc=method, unit=" calls", disable=hidden) as bar:
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
            told = _project(space, asked, drawn["canonical"]) if METHODS[method].projects else asked
            table = _judge(live, told, drawn, scorer, calls, min_similarity)
            record.add({"generation": [generation] * len(drawn["smiles"]), **drawn, **table}, scorer)
            failed = [score.error for score in scorer.known.values() if score.error]
            if len(scorer.known) == len(failed) > len(runs):
                raise ValueError(f"the oracle failed for each of {len(failed)} molecules; the first: {failed[0]}")
            bar.update(sum(len(run.seen) for run in runs) - bar.n)
            best = [run.best for run in runs if run.best > -math.inf]
            if best:
                bar.set_postfix_str(f"best {max(best):.4g}, mean of {len(runs)} seeds {np.mean(best):.4g}")
    return _evaluations(record, scorer, runs, settings, space.featurizer.name)


def best(evaluations: pd.DataFrame, k: int = 1) -> pd.DataFrame:
    """Pick the `k` best molecules of each seed.

    Returns
    -------
    DataFrame
        Rows of what :func:`optimize` returned, seed by seed, the best first; after ``score`` stands ``gain``, by how
        much it is above the seed's.
    """
    scored = evaluations[evaluations["score"].notna()]
    first = evaluations[evaluations["call"] == 1].set_index("seed")["score"]
    order = scored.sort_values("score", ascending=False, kind="stable").groupby("seed", sort=False).head(k)
    rank = {seed: i for i, seed in enumerate(first.index)}
    frame = order.sort_values("seed", key=lambda names: names.map(rank), kind="stable").reset_index(drop=True)
    frame = frame.drop(columns=["best", "error"])
    frame.insert(list(frame).index("score") + 1, "gain", frame["score"] - frame["seed"].map(first))
    frame.attrs = evaluations.attrs
    return frame


def _project(space: Space, asked: list[Any], molecules: list[str | None]) -> list[Any]:
    """Replace codes by those of the molecules that they were decoded to, where there is one."""
    different = [molecule for molecule in dict.fromkeys(molecules) if molecule is not None]
    mu = dict(zip(different, space.encode(different).mu, strict=True)) if different else {}
    codes = np.concatenate(asked)
    told = np.array([mu.get(molecule or "", z) for molecule, z in zip(molecules, codes, strict=True)], np.float32)
    told = np.where(np.isfinite(told).all(1, keepdims=True), told, codes)  # longer than the model reads
    return np.split(told, np.cumsum([len(part) for part in asked])[:-1])


def _score(score: Score) -> float:
    return -math.inf if score.error else score.total


def _judge(
    live: list[_Run], told: list[Any], drawn: Mapping[str, list[Any]], scorer: Scorer, calls: int, floor: float
) -> dict[str, list[Any]]:
    """Score what is worth a call, in one go for all seeds, and tell every search; the log's other columns."""
    canonical = drawn["canonical"]
    table: dict[str, list[Any]] = {"row": [], "seed": [], "similarity": []}
    ends = np.cumsum([0, *map(len, told)])
    places = [slice(int(a), int(b)) for a, b in itertools.pairwise(ends)]
    wanted: list[list[str]] = []
    for run, place in zip(live, places, strict=True):
        molecules = canonical[place]
        similarity = smiles.similarities(run.seed, molecules)
        table["row"] += [run.row] * len(molecules)
        table["seed"] += [run.seed] * len(molecules)
        table["similarity"] += similarity.tolist()
        near = [m for m, s in zip(molecules, similarity, strict=True) if s >= floor and m not in run.seen]
        wanted.append(list(dict.fromkeys(near))[: calls - len(run.seen)])
        run.draws += len(molecules)
    scorer.score([molecule for molecules in wanted for molecule in molecules])
    call: list[int | None] = [None] * len(canonical)
    for run, place, z, molecules in zip(live, places, told, wanted, strict=True):
        for molecule in molecules:
            run.seen[molecule] = scorer.known[molecule]
            call[canonical.index(molecule, place.start)] = len(run.seen)
        keys = _keys(canonical[place], table["similarity"][place], run.seen, floor)
        top = max((_score(run.seen[molecule]) for molecule in molecules), default=-math.inf)
        run.search.tell(z, keys, top > run.best)
        run.best = max(run.best, top)
    return {**table, "call": call}


def _keys(molecules: list[str | None], similarity: list[float], seen: Mapping[str, Score], floor: float) -> list[Key]:
    """Order draws: scored ones by score, too dissimilar ones by similarity, those without a score, invalid ones."""
    keys = []
    for molecule, near in zip(molecules, similarity, strict=True):
        if molecule is None:
            keys.append((3, 0.0))
        elif near < floor:
            keys.append((1, -near))
        elif molecule not in seen or seen[molecule].error:
            keys.append((2, 0.0))
        else:
            keys.append((0, -seen[molecule].total))
    return keys


def _digest(space: Space) -> str:
    """Hash of a model's weights."""
    digest = hashlib.sha256()
    for name, weight in space.model.state_dict().items():
        digest.update(name.encode() + weight.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()


class _Log:
    """Everything that was decoded and scored, generation by generation, in memory and in a Parquet file."""

    def __init__(self, path: Path | None, settings: dict[str, Any], scorer: Scorer) -> None:
        self.path, self.saved = path, time.monotonic()
        self.settings = json.loads(json.dumps(settings))
        self.names = list(scorer.objectives)
        parts = pa.schema([(f"objective {name}", pa.float64()) for name in self.names])
        fields = [*NOT_DRAWN, *DRAWN, pa.field("score", pa.float64()), *parts, pa.field("score_error", pa.string())]
        self.schema = pa.schema(fields, {"molcmim": json.dumps(self.settings)})
        self.tables: list[pa.Table] = []
        self.generations: dict[int, pa.Table] = {}
        if path is not None and not path.parent.is_dir():
            raise FileNotFoundError(f"no folder {path.parent} to write {path.name} in")
        if path is not None and path.exists():
            self._load(path, scorer)

    def _load(self, path: Path, scorer: Scorer) -> None:
        try:
            whole = pyarrow.parquet.read_table(path)
            held = json.loads(whole.schema.metadata[b"molcmim"])
        except (pa.ArrowException, KeyError, TypeError) as error:
            raise ValueError(f"{path}: no log of an optimisation; give another name") from error
        differ = [name for name in self.settings if held.get(name) != self.settings[name]]
        if differ:
            raise ValueError(
                f"{path} is the log of another run: {', '.join(differ)} differ; give another name, or remove it"
            )
        for row in whole.filter(pa.compute.is_valid(whole["call"])).to_pylist():
            parts = tuple(row[f"objective {name}"] for name in self.names)
            scorer.known[row["canonical"]] = Score(parts, row["score"], row["score_error"])
        ends = np.flatnonzero(np.diff(whole["generation"].to_numpy(), append=-1)) + 1
        for start, end in zip([0, *ends], ends, strict=False):
            table = whole.slice(start, end - start)
            self.generations[table["generation"][0].as_py()] = table
        self.tables = [self.generations[0]]

    def recall(self, generation: int) -> dict[str, list[Any]] | None:
        """Say what was decoded in a generation, if it is known."""
        table = self.generations.get(generation)
        return table and table.select(["smiles", "canonical", "log_prob", "error"]).to_pydict()

    def add(self, columns: dict[str, list[Any]], scorer: Scorer) -> None:
        """Take in a generation."""
        scores = [scorer.known.get(molecule) for molecule in columns["canonical"]]
        scores = [score if call else None for score, call in zip(scores, columns["call"], strict=True)]
        columns = {**columns, "score": [s and s.total for s in scores], "score_error": [s and s.error for s in scores]}
        for i, name in enumerate(self.names):
            columns[f"objective {name}"] = [s and s.parts[i] for s in scores]
        self.tables.append(pa.Table.from_pydict(columns, self.schema))
        if time.monotonic() - self.saved > SAVE_EVERY:
            self.close()

    def close(self) -> None:
        """Write the file."""
        if self.path is not None:
            with atomic_path(self.path) as partial:
                pyarrow.parquet.write_table(pa.concat_tables(self.tables), partial)
        self.saved = time.monotonic()


def _evaluations(
    record: _Log, scorer: Scorer, runs: list[_Run], settings: dict[str, Any], checkpoint: str
) -> pd.DataFrame:
    whole = pa.concat_tables(record.tables).to_pandas()
    drawn = whole[whole["generation"] > 0]
    frame = whole[whole["call"].notna()].sort_values(["row", "call"], ignore_index=True)
    if len(record.names) == 1:
        frame = frame.drop(columns=f"objective {record.names[0]}")
    frame = frame.rename(columns={f"objective {name}": name for name in record.names})
    invalid, near = drawn["canonical"].isna(), drawn["similarity"] >= settings["min_similarity"]
    parts = record.names if len(record.names) > 1 else []
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
        **{name: settings[name] for name in settings if name not in ("seeds", "model")},
        "draws": len(drawn),
        "invalid": int(invalid.sum()),
        "dissimilar": int((~invalid & ~near).sum()),
        "repeated": int((near & drawn["call"].isna()).sum()),
        "scored": len(scorer.known),
        "restarts": sum(run.search.restarts for run in runs),
    }
    return result
