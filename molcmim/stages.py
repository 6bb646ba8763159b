"""What a pretraining run was trained by and on, from which step: a run may go on by other choices. Trains nothing."""

from __future__ import annotations

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

from molcmim.data import StoreManifest
from molcmim.files import atomic_path
from molcmim.recipe import Recipe

STAGES = "stages.json"


def begin_stage(run: Path, step: int, recipe: Recipe, store: StoreManifest) -> list[dict[str, Any]]:
    """Record that training goes on from `step` by this recipe, on this store.

    Parameters
    ----------
    run : Path
        The run's folder.
    step : int
        Steps done so far; what an earlier call meant to do from there on never happened.
    recipe : Recipe
        Every choice.
    store : StoreManifest
        What is trained on.

    Returns
    -------
    list of dict
        The stages so far, each with ``from_step``, ``recipe`` and ``store``.
    """
    path = run / STAGES
    stages = json.loads(path.read_text()) if path.exists() else []
    stages = [stage for stage in stages if stage["from_step"] < step]
    stage = {"recipe": dataclasses.asdict(recipe), "store": origin(store)}
    if stages and stages[-1]["store"] != stage["store"]:
        warnings.warn(f"{run} goes on from step {step} on another store than it was trained on so far", stacklevel=2)
    if not stages or any(stages[-1][name] != now for name, now in stage.items()):
        stages.append({"from_step": step, **stage})
    with atomic_path(path) as unfinished:
        unfinished.write_text(json.dumps(stages, indent=1) + "\n")
    return stages


def changes(stages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return of each stage ``from_step`` and the choices, and the store, that are not the same in all stages."""
    flat = [{**stage["recipe"], "store": stage["store"]} for stage in stages]
    vary = [name for name in flat[-1] if any(stage[name] != flat[-1][name] for stage in flat)]
    return [
        {"from_step": stage["from_step"]} | {name: choices[name] for name in vary}
        for stage, choices in zip(stages, flat, strict=True)
    ]


def origin(store: StoreManifest) -> dict[str, Any]:
    """Say what a store was made of."""
    kept = ("num_molecules", "spellings", "joined", "rejected", "sources", "settings")
    return {name: getattr(store, name) for name in kept}
