"""Short pretraining runs of the tiny model and their probes: what the experiments on molecules share."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from molcmim.objectives import OBJECTIVES
from molcmim.prepare import StoreRecipe, prepare
from molcmim.recipe import Recipe
from molcmim.trainer import pretrain


class Stores(NamedTuple):
    """Token stores to train on and to evaluate on."""

    train: Path
    valid: Path


def stores(train: Path | None, valid: Path | None, output: Path) -> Stores:
    """The stores given, or a little one made of molecules.csv; they need random spellings."""
    if train is not None and valid is not None:
        return Stores(train, valid)
    if (train is None) != (valid is None):
        raise SystemExit("give both --store and --valid, or neither (then molecules.csv is used)")
    store = output / "store"
    if not store.exists():
        prepare([Path(__file__).with_name("molecules.csv")], store, recipe=StoreRecipe(spellings=4), workers=1)
    return Stores(store, store)


def posterior_for(objective: str) -> str:
    """The first posterior under which an objective means something: as MolMIM's for the MIM family."""
    return OBJECTIVES[objective].posteriors[0]


def trained(data: Stores, folder: Path, **choices: Any) -> Path:
    """A checkpoint trained by the tiny recipe with `choices`; what is there already is not done again."""
    if not (folder / "model").exists():
        steps = choices["steps"]
        defaults = {
            "posterior": posterior_for(choices["objective"]),
            "warmup_steps": min(20, steps // 10),
            "log_every": max(steps // 10, 1),
            "evaluate_every": steps,
            "save_every": steps,
        }
        pretrain(*data, folder, Recipe.load("tiny", **{**defaults, **choices}))
    return folder / "model"
