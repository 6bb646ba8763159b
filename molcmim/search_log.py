"""The log of a search: what was decoded and scored, in a Parquet file that a killed run resumes from.

Knows neither codes nor how a search goes on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from molcmim.atomic import atomic_path
from molcmim.oracles import Score, Scorer

SAVE_EVERY = 30.0
"""Seconds of work that a killed run may lose."""
DRAWN = pa.schema([("generation", pa.int32()), ("row", pa.int32()), ("seed", pa.string()), ("smiles", pa.string()),
                   ("canonical", pa.string()), ("log_prob", pa.float32()), ("similarity", pa.float64()),
                   ("error", pa.string())])  # fmt: skip
Seen = Sequence[Mapping[str, Score]]
"""What counts as an oracle call of each seed, in order."""
BUDGET = {"calls", "max_draws", "target"}
"""Settings that say when a search ends: a log of another budget gives its scores, not its codes."""
MET_BEFORE = -1
"""Generation, and row, of a score that was taken from such a log and that no seed has come upon again yet."""


class SearchLog:
    """Everything that was decoded and scored, generation by generation, in memory and in a Parquet file.

    Parameters
    ----------
    path
        The file, or None; what it holds of the same run is taken in, its scores into `scorer`.
    settings
        What makes a run another one; JSON.
    scorer
        Who scores.
    restart
        Whether what the file holds is left aside.
    """

    def __init__(self, path: Path | None, settings: dict[str, Any], scorer: Scorer, restart: bool = False) -> None:
        self.path, self.saved = path, time.monotonic()
        self.settings = json.loads(json.dumps(settings, default=lambda number: number.item()))
        self.names = list(scorer.objectives)
        parts = [(f"objective {name}", pa.float64()) for name in self.names]
        scored = pa.schema([("call", pa.int32()), ("score", pa.float64()), *parts, ("score_error", pa.string())])
        self.schema = pa.schema([*DRAWN, *scored], {"molcmim": json.dumps(self.settings)})
        self.tables: list[pa.Table] = []
        self.generations: dict[int, pa.Table] = {}
        self.scorer = scorer
        if path is not None and path.exists() and not restart:
            self._load(path)

    def _load(self, path: Path) -> None:
        try:
            whole = pyarrow.parquet.read_table(path)
            held = json.loads(whole.schema.metadata[b"molcmim"])
        except (pa.ArrowException, KeyError, TypeError) as error:
            raise ValueError(f"{path}: no log of an optimisation; give another name") from error
        differ = {name for name in self.settings if held.get(name) != self.settings[name]}
        if foreign := [name for name in self.settings if name in differ - BUDGET]:
            raise ValueError(
                f"{path} is the log of another run: {', '.join(foreign)} differ; give another name, or replace it by "
                "--restart"
            )
        scored = whole.filter(pa.compute.or_(whole["score"].is_valid(), whole["score_error"].is_valid()))
        if scored["score"].null_count == len(scored):
            return  # the oracle failed for everything: it is asked again, from the first
        for row in scored.to_pylist():
            parts = tuple(row[f"objective {name}"] for name in self.names)
            self.scorer.known[row["canonical"]] = Score(parts, row["score"], row["score_error"])
        if differ:
            return
        whole = whole.filter(pa.compute.greater_equal(whole["generation"], 0))
        ends = np.flatnonzero(np.diff(whole["generation"].to_numpy(), append=-1)) + 1
        for start, end in zip([0, *ends], ends, strict=False):
            table = whole.slice(start, end - start).select(DRAWN.names)
            self.generations[table["generation"][0].as_py()] = table
        self.tables = [self.generations[0]]

    def recall(self, generation: int) -> dict[str, list[Any]] | None:
        """Say what was decoded in a generation, if it is known."""
        table = self.generations.get(generation)
        return table and table.select(["smiles", "canonical", "log_prob", "error"]).to_pydict()

    def add(self, columns: dict[str, list[Any]], seen: Seen) -> None:
        """Take in a generation."""
        self.tables.append(pa.Table.from_pydict(columns, DRAWN))
        if time.monotonic() - self.saved > SAVE_EVERY:
            self.save(seen)

    def frame(self, seen: Seen) -> pd.DataFrame:
        """Everything that was decoded, and at the first draw of each molecule what came of it."""
        calls = [
            (row, molecule, call, score.total, *score.parts, score.error)
            for row, scores in enumerate(seen)
            for call, (molecule, score) in enumerate(scores.items(), 1)
        ]
        scored = pd.DataFrame(calls, columns=["row", "canonical", *self.schema.names[len(DRAWN) :]])
        whole = pa.concat_tables(self.tables).to_pandas()
        whole["first"] = ~whole.duplicated(["row", "canonical"])
        whole = whole.merge(scored.assign(first=True), "left", ["row", "canonical", "first"]).drop(columns="first")
        whole["call"] = whole["call"].astype("Int32")
        return whole

    def save(self, seen: Seen) -> None:
        """Write the file, but not while what it holds is gone through again."""
        if self.path is not None and len(self.tables) >= len(self.generations):
            table = pa.Table.from_pandas(self.frame(seen), self.schema, preserve_index=False)
            table = pa.concat_tables([table, self._met_before(seen)])
            with atomic_path(self.path) as partial:
                pyarrow.parquet.write_table(table.replace_schema_metadata(self.schema.metadata), partial)
        self.saved = time.monotonic()

    def _met_before(self, seen: Seen) -> pa.Table:
        """Scores that would be lost if only what this run has seen were written."""
        again = set().union(*seen)
        rows = [
            {"generation": MET_BEFORE, "row": MET_BEFORE, "canonical": molecule, "score": score.total,
             **{f"objective {name}": part for name, part in zip(self.names, score.parts, strict=True)},
             "score_error": score.error}
            for molecule, score in self.scorer.known.items() if molecule not in again
        ]  # fmt: skip
        return pa.Table.from_pylist(rows, self.schema)
