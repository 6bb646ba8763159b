"""What a pretraining run began with, and was trained by and on from which step: it may go on by other choices.

Trains nothing.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import warnings
from pathlib import Path
from typing import Any

from molcmim import checkpoint
from molcmim.atomic import atomic_path
from molcmim.config import MolCMIMConfig
from molcmim.data import DescriptorScale, StoreManifest
from molcmim.model import MolCMIMModel
from molcmim.recipe import Recipe

STAGES = "stages.json"
FREE = ("dropout", "trained_decoder", "kwargs")
"""What a model's configuration may have other than that of the checkpoint whose weights it starts with."""


def load_start(model: MolCMIMModel, start: str) -> dict[str, Any]:
    """Give a model the weights of a checkpoint.

    Parameters
    ----------
    model : MolCMIMModel
        Of the checkpoint's configuration; those of :data:`FREE` may differ, as no weight depends on them.
    start : str
        Name or folder of the checkpoint.

    Returns
    -------
    dict
        What the checkpoint is: hash of its weights, molecules and steps it was trained for, its store, its own start.

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`molcmim.checkpoint.load`, and if the configurations differ: each setting is named.
    """
    loaded, _ = checkpoint.load(start)
    settings = [name for name in inspect.signature(MolCMIMConfig).parameters if name not in FREE]
    pairs = [(name, getattr(loaded.config, name), getattr(model.config, name)) for name in settings]
    if differ := [f"{name} {theirs!r}, the run {ours!r}" for name, theirs, ours in pairs if theirs != ours]:
        raise ValueError(
            f"training cannot start from {start}: it has {'; '.join(differ)}. Size and settings must be the "
            "checkpoint's, and so must the store's tokenizer, length and, with chemistry_factor, descriptors"
        )
    model.load_state_dict(loaded.state_dict())
    record = checkpoint.read_record(checkpoint.resolve(start))
    kept = ("steps", "molecules", "store", "start")
    return {"weights_sha256": record["weights_sha256"]} | {name: record["training"].get(name) for name in kept}


def descriptor_scale(run: Path, recipe: Recipe, store: StoreManifest, resumed: bool) -> DescriptorScale:
    """Say which descriptors are told from a code, and by what they are standardised, in all stages of a run.

    Parameters
    ----------
    run : Path
        The run's folder.
    recipe : Recipe
        Every choice.
    store : StoreManifest
        What is trained on.
    resumed : bool
        Whether the run goes on, on the scale that it began with. Else it begins: on that of the checkpoint whose
        weights it starts with, which has learned it, or on the store's.
    """
    scale: DescriptorScale | None = None
    if resumed:
        if not (run / STAGES).is_file():
            raise FileNotFoundError(
                f"{run} has checkpoints, and no {STAGES}, which says what they are; put it back, or name another folder"
            )
        described = json.loads((run / STAGES).read_text())[0]["descriptors"]
        scale = DescriptorScale(**described) if described else None
    elif recipe.start:
        scale = checkpoint.descriptor_scale(recipe.start)
    return scale or store.descriptor_scale


def begin_stage(
    run: Path,
    step: int,
    recipe: Recipe,
    store: StoreManifest,
    start: dict[str, Any] | None = None,
    scale: DescriptorScale | None = None,
) -> list[dict[str, Any]]:
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
    start : dict, optional
        What :func:`load_start` returned, where weights were loaded: at step 0.
    scale : DescriptorScale, optional
        What :func:`descriptor_scale` returned.

    Returns
    -------
    list of dict
        The stages so far, each with ``from_step``, ``recipe`` and ``store``, the first one with ``start`` and
        ``descriptors``, the scale.
    """
    path = run / STAGES
    stages = json.loads(path.read_text()) if path.exists() else []
    stages = [stage for stage in stages if stage["from_step"] < step]
    stage = {"recipe": dataclasses.asdict(recipe), "store": origin(store)}
    if stages and stages[-1]["store"] != stage["store"]:
        warnings.warn(f"{run} goes on from step {step} on another store than it was trained on so far", stacklevel=2)
    if not stages or any(stages[-1][name] != now for name, now in stage.items()):
        first = {"start": start, "descriptors": scale._asdict() if scale else None}
        stages.append({"from_step": step, **({} if stages else first), **stage})
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
