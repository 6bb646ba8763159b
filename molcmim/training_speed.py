"""Molecules a second in pretraining, and what each choice of the recipe brings. Knows recipes and their logs only."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from pathlib import Path

import pandas as pd

from molcmim.data import BucketedBatches, TokenStore
from molcmim.recipe import Recipe
from molcmim.trainer import pretrain

VARIANTS: dict[str, dict[str, object]] = {
    "compiled layers": {"compile": True},
    "eager": {"compile": False},
    "eager, float32": {"compile": False, "precision": "fp32"},
    "eager, AdamW": {"compile": False, "optimizer": "adamw"},
}
"""What of the recipe is changed."""


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
        reach), ``relative`` (to the first row).
    """
    if steps < 3 or steps % 3:
        raise ValueError(f"steps must be a multiple of 3, got {steps}")
    fixed = {"steps": steps, "warmup_steps": 1, "log_every": steps // 3, "evaluate_every": steps + 1,
             "save_every": steps + 1, "evaluate_molecules": 1}  # fmt: skip
    best: dict[str, pd.Series] = {}
    for _ in range(rounds):
        for name, changed in VARIANTS.items():
            with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
                pretrain(store, store, folder, Recipe(**{**recipe.__dict__, **fixed, **changed}))
                log = pd.read_csv(Path(folder) / "log.csv").dropna(subset="molecules_per_second")
            fastest = log[log["step"] > steps // 3].nlargest(1, "molecules_per_second").iloc[0]
            if name not in best or fastest["molecules_per_second"] > best[name]["molecules_per_second"]:
                best[name] = fastest
    table = pd.DataFrame(best).T[["molecules_per_second", "mfu"]].rename_axis("variant").reset_index()
    return table.assign(relative=table["molecules_per_second"] / table["molecules_per_second"].iloc[0])


def padding(store: str | os.PathLike[str], batch_size: int, batches: int = 64) -> dict[str, float]:
    """Share of a batch's positions that are padding, with batches of similar length and with batches at random."""
    tokens = TokenStore(store)
    shares = {}
    for name, cut in (("bucketed", BucketedBatches(tokens, batch_size)),
                      ("random", BucketedBatches(tokens, batch_size, window=1))):  # fmt: skip
        masks = [cut[i]["attention_mask"] for i in range(min(batches, len(cut)))]
        shares[name] = 1 - sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)
    return shares
