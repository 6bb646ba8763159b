"""Molecules a second, in pretraining and in embedding prepared tokens. Knows recipes, their logs and the model only."""

from __future__ import annotations

import contextlib
import io
import math
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from molcmim.config import MolCMIMConfig
from molcmim.data import TOKENS_PER_BATCH, BucketedBatches, TokenStore, by_length
from molcmim.metrics import bfloat16_pays
from molcmim.model import MolCMIMModel
from molcmim.pretrain import pretrain
from molcmim.recipe import Recipe

VARIANTS: dict[str, dict[str, object]] = {
    "compiled layers": {"compile": True},
    "eager": {"compile": False},
    "eager, float32": {"compile": False, "precision": "fp32"},
    "eager, AdamW": {"compile": False, "optimizer": "adamw"},
    "eager, 2 loader processes": {"compile": False, "loader_workers": 2},
}
"""What of the recipe is changed."""
PADDED = 64
"""Batches whose padding is counted."""
EMBEDDED = {"cpu": 2_000, "cuda": 200_000}
"""Molecules that are embedded to measure."""


def measure(store: str | os.PathLike[str], recipe: Recipe, steps: int = 60, rounds: int = 2) -> pd.DataFrame:
    """Pretrain for a few steps with each variant of a recipe, taking turns, and read their logs.

    It is the whole command that is timed, batches and optimizer included, not a step by itself. The first third of the
    steps, in which layers are compiled, does not count.

    Parameters
    ----------
    store
        Token store to train on.
    recipe
        What the variants start from.
    steps
        A turn's; a multiple of 3.
    rounds
        Turns of each variant; the fastest counts, since what else the machine does only ever costs.

    Returns
    -------
    DataFrame
        A row for each variant: ``variant``, ``molecules_per_second``, ``mfu`` (share of the FLOP/s that matrix products
        reach), ``busy`` (share of the time in which a GPU worked; NaN on a CPU), ``relative`` (to the first row).
    """
    if steps < 3 or steps % 3:
        raise ValueError(f"steps must be a multiple of 3, got {steps}")
    fixed = {"steps": steps, "warmup_steps": 1, "log_every": steps // 3, "evaluate_every": steps + 1,
             "save_every": steps + 1, "evaluate_molecules": 1}  # fmt: skip
    best: dict[str, pd.Series] = {}
    for _ in range(rounds):
        for name, changed in VARIANTS.items():
            busy = Busy(steps - steps // 3 + 1, steps)
            with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
                pretrain(store, store, folder, Recipe(**{**recipe.__dict__, **fixed, **changed}), [busy])
                log = pd.read_csv(Path(folder) / "log.csv").dropna(subset="molecules_per_second")
            fastest = log[log["step"] > steps // 3].nlargest(1, "molecules_per_second").iloc[0].copy()
            fastest["busy"] = busy.share
            if name not in best or fastest["molecules_per_second"] > best[name]["molecules_per_second"]:
                best[name] = fastest
    table = pd.DataFrame(best).T[["molecules_per_second", "mfu", "busy"]].rename_axis("variant").reset_index()
    return table.assign(relative=table["molecules_per_second"] / table["molecules_per_second"].iloc[0])


class Busy(TrainerCallback):
    """Measures in which share of the time from one step to another a GPU has something to do.

    Parameters
    ----------
    first, last : int
        Steps, both included, counted from 1.

    Attributes
    ----------
    share : float
        NaN without a GPU, and until the last step.
    """

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last, self.share = first, last, math.nan

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start to look on before the first step."""
        if args.device.type == "cuda" and state.global_step == self.first - 1:
            torch.cuda.synchronize()
            self._profiler = profile(activities=[ProfilerActivity.CUDA])
            self._profiler.start()
            self._started = time.perf_counter()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Add up after the last."""
        if args.device.type == "cuda" and state.global_step == self.last:
            torch.cuda.synchronize()
            wall = time.perf_counter() - self._started
            self._profiler.stop()
            spans = [(event.time_range.start, event.time_range.end) for event in self._profiler.events() or ()]
            self.share = covered(spans) * 1e-6 / wall


def covered(spans: list[tuple[float, float]]) -> float:
    """Length of the union of intervals."""
    total, reached = 0.0, -math.inf
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def embedding(store: str | os.PathLike[str], recipe: Recipe) -> float:
    """Measure the mean embeddings a second that a fresh model of the recipe makes of a store's tokens.

    Padded on the host, in bfloat16 where it is fast, and brought back to it; similar lengths together, as ``molcmim
    featurize`` does it once SMILES are read. All of them twice; the first time does not count.
    """
    tokens = TokenStore(store)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    half = bfloat16_pays(device)
    longest = {"max_position_embeddings": tokens.manifest.settings["max_length"]}
    model = MolCMIMModel(MolCMIMConfig.named(recipe.size, **{**longest, **recipe.model})).eval()
    torch.nn.Module.to(model, device)
    rows = np.arange(min(EMBEDDED[device.type], len(tokens))) * tokens.manifest.spellings
    batches = [rows[some] for some in by_length(tokens.lengths[rows], TOKENS_PER_BATCH[device.type])]
    started = 0.0
    for _ in range(2):
        started = time.perf_counter()
        for batch in batches:
            ids = torch.from_numpy(tokens.gather(batch).ids).to(device)
            with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=half):
                model.encode(ids).mu.cpu()
    return len(rows) / (time.perf_counter() - started)


def padding(store: str | os.PathLike[str], batch_size: int) -> dict[str, float]:
    """Share of a batch's positions that are padding, with batches of similar length and with batches at random."""
    tokens = TokenStore(store)
    shares = {}
    for name, cut in (("bucketed", BucketedBatches(tokens, batch_size)),
                      ("random", BucketedBatches(tokens, batch_size, window=1))):  # fmt: skip
        masks = [cut[i]["attention_mask"] for i in range(min(PADDED, len(cut)))]
        shares[name] = 1 - sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)
    return shares
