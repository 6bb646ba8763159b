"""What is refused before training starts: stores, machine or earlier run that do not fit the recipe. Trains nothing."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
from pathlib import Path

import torch

from molcmim.config import MolCMIMConfig
from molcmim.data import StoreManifest
from molcmim.objectives import OBJECTIVES
from molcmim.recipe import Recipe


def check_compiler() -> None:
    """Refuse to compile for a CPU without the compiler that it takes, which torch would name only at the first step."""
    cxx = os.environ.get("CXX", "g++")
    if sys.platform == "linux" and not torch.cuda.is_available() and shutil.which(cxx) is None:
        raise ValueError(
            f"compile: true needs a C++ compiler, and there is no {cxx}; install one or --set compile=false"
        )


def check_stores(train: StoreManifest, valid: StoreManifest, tokenizer_hash: str, recipe: Recipe) -> None:
    """Refuse stores of another vocabulary, or without what the recipe asks of them."""
    if not train.vocab_hash == valid.vocab_hash == tokenizer_hash:
        raise ValueError(
            "the stores were prepared with different vocabularies, or their tokenizer was changed "
            f"(train {train.vocab_hash[:12]}, valid {valid.vocab_hash[:12]}, tokenizer {tokenizer_hash[:12]}); "
            "prepare them again"
        )
    if recipe.chemistry_factor and not train.descriptor_names:
        raise ValueError("chemistry_factor needs descriptors in the store; prepare it with --descriptors")
    if OBJECTIVES[recipe.objective].views == 2 and train.spellings < 2:
        raise ValueError(
            f"objective {recipe.objective!r} compares two spellings of a molecule, the store has one; "
            "prepare it with --spellings"
        )
    if recipe.mode != "canonical" and train.spellings < 2:
        raise ValueError(f"mode {recipe.mode!r} needs random spellings in the store; prepare it with --spellings")


def check_continues(output: Path, newest: Path | None, recipe: Recipe, config: MolCMIMConfig) -> None:
    """Refuse to go on with a run of another model, on another vocabulary, or by another objective.

    Nor is a finished one, whose checkpoints were removed, begun anew.
    """
    path = output / "recipe.yaml"
    if newest is None:
        if (output / "model").exists():
            raise FileExistsError(
                f"{output} holds a finished model, and no checkpoint to go on from; name another folder"
            )
        return
    if not path.is_file():
        raise FileNotFoundError(
            f"{output} has checkpoints, and no {path.name}, which says how they were trained; put it back, or name "
            "another folder"
        )
    may_change = {"canonical_share", "steps", "warmup_steps", "decay_share", "max_grad_norm", "precision", "compile",
                  "log_every", "evaluate_every", "evaluate_molecules", "save_every", "loader_workers"}  # fmt: skip
    before, now = dataclasses.asdict(Recipe.load(path)), dataclasses.asdict(recipe)
    changed = [name for name in now if name not in may_change and before[name] != now[name]]
    trained = MolCMIMConfig.from_pretrained(newest)
    changed += [name for name in ("vocab_hash", "max_position_embeddings", "num_descriptors")
                if getattr(trained, name) != getattr(config, name)]  # fmt: skip
    if changed:
        raise ValueError(
            f"{output} holds a run with another {', '.join(changed)}; use its recipe.yaml and store, or another folder"
        )
