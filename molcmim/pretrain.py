"""Pretraining: a token store and a recipe -> a run and its finished checkpoint.

A run is a folder: ``recipe.yaml``, ``stages.json``, ``checkpoint-<step>/`` (weights, optimizer, schedule, random
states), TensorBoard files, ``log.csv``, ``curves.png`` and, at the end, ``model/``. All state is in the checkpoints:
the same command goes on from the newest whole one, and on CPU ends with bit-identical weights.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from transformers import TrainerCallback, set_seed

from molcmim import checkpoint
from molcmim.atomic import alone, atomic_path
from molcmim.config import MolCMIMConfig
from molcmim.data import PAD_MULTIPLE, TOKENIZER, BucketedBatches, TokenStore
from molcmim.metrics import held_out_batches, token_characters
from molcmim.model import MolCMIMModel
from molcmim.objectives import OBJECTIVES
from molcmim.preflight import check_compiler, check_continues, check_stores
from molcmim.ranks import leave_at_exit
from molcmim.recipe import Recipe
from molcmim.stages import begin_stage, changes, descriptor_scale, load_start, origin
from molcmim.tokenizer import load_tokenizer, vocab_hash
from molcmim.trainer import MOVING_AVERAGE, WHOLE, PretrainTrainer, training_arguments


def pretrain(
    store: str | os.PathLike[str],
    valid: str | os.PathLike[str],
    output: str | os.PathLike[str],
    recipe: Recipe,
    callbacks: Sequence[TrainerCallback] = (),
) -> Path:
    """Train a model on a token store; go on where an earlier, interrupted call with the same `output` stopped.

    It sets the seeds of Python, NumPy and torch.

    Parameters
    ----------
    store, valid : path
        Token stores that ``molcmim prepare`` wrote, for training and for held-out metrics.
    output : path
        Folder of the run.
    recipe : Recipe
        Every choice.
    callbacks : sequence of TrainerCallback
        Transformers' callbacks, which are told of every step.

    Returns
    -------
    Path
        ``output/model``, the finished checkpoint: configuration, tokenizer and weights.

    Raises
    ------
    ValueError
        If stores, recipe and the checkpoint to start from do not fit together, or `output` holds a run that this
        one does not continue.
    FileExistsError, FileNotFoundError
        If another process trains in `output`, or it holds a finished model whose checkpoints, or a run whose record,
        are gone.
    """
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    first = os.environ.get("RANK", "0") == "0"  # of the processes of one run, which train in it together
    with alone(output) if first else contextlib.nullcontext():
        return _pretrain(Path(store), Path(valid), Path(output), recipe, callbacks)


def _pretrain(store: Path, valid: Path, output: Path, recipe: Recipe, callbacks: Sequence[TrainerCallback]) -> Path:
    train_store, valid_store = TokenStore(store), TokenStore(valid)
    tokenizer = load_tokenizer(train_store.path / TOKENIZER)
    manifest = train_store.manifest
    check_stores(manifest, valid_store.manifest, vocab_hash(tokenizer), recipe)
    newest = newest_whole_checkpoint(output)
    scale = descriptor_scale(output, recipe, manifest, resumed=newest is not None)
    config = MolCMIMConfig.named(
        recipe.size,
        **{
            "vocab_size": len(tokenizer),
            "vocab_hash": manifest.vocab_hash,
            "notation": manifest.notation,
            "max_position_embeddings": _padded(manifest.settings["max_length"]),
            "posterior": recipe.posterior,
            "trained_decoder": OBJECTIVES[recipe.objective].decoder,
            "num_descriptors": len(scale.names) if recipe.chemistry_factor else 0,
            **recipe.model,
        },
    )
    longest = _padded(max(manifest.max_tokens, valid_store.manifest.max_tokens))
    if longest > config.max_position_embeddings:
        raise ValueError(
            f"the stores hold up to {longest} tokens (padded), the model reads {config.max_position_embeddings}; "
            "raise max_position_embeddings or prepare with a smaller --max-length"
        )
    check_continues(output, newest, recipe, config)
    started_at = int(newest.name.rpartition("-")[2]) if newest else 0
    if started_at > recipe.steps:
        raise ValueError(
            f"{output} is at step {started_at}, beyond the {recipe.steps} of the recipe; raise steps, or name another "
            "folder"
        )
    set_seed(recipe.seed)
    model = MolCMIMModel(config)
    start = load_start(model, recipe.start) if recipe.start and newest is None else None
    if recipe.compile:
        check_compiler()
    needs = OBJECTIVES[recipe.objective]
    if not needs.decoder:
        model.decoder.requires_grad_(False)  # never run, so that no process may wait for its gradients
    arguments = training_arguments(recipe, output)
    batches = BucketedBatches(
        train_store,
        recipe.batch_size,
        seed=recipe.seed,
        mode=recipe.mode,
        canonical_share=recipe.canonical_share,
        views=needs.views,
        rank=arguments.process_index,
        world=arguments.world_size,
        scale=scale,
    )
    trainer = PretrainTrainer(
        model,
        arguments,
        recipe,
        batches,
        list(held_out_batches(valid_store, recipe.evaluate_molecules, scale)),
        token_characters(tokenizer),
    )
    for callback in callbacks:
        trainer.add_callback(callback)
    if recipe.compile:
        model.compile_layers()  # now that it is where it will be trained
    set_seed(recipe.seed + arguments.process_index)  # one start for all ranks, but noise of its own for each
    if trainer.is_world_process_zero():
        _remember_recipe(output, recipe)
        stages = begin_stage(output, started_at, recipe, manifest, start, scale)
        _remove_unfinished(output)
    if newest and trainer.moving is not None:
        trainer.moving.load(newest / MOVING_AVERAGE)
    done = trainer.train(resume_from_checkpoint=str(newest) if newest else None)
    if trainer.is_world_process_zero():
        facts = {
            "recipe": dataclasses.asdict(recipe),
            "steps": done.global_step,
            "molecules": done.global_step * recipe.batch_size,
            "resumed_at_step": started_at,
            "seconds_since_resumed": round(done.metrics["train_runtime"]),
            "world_size": arguments.world_size,
            "computed_in": "bfloat16" if arguments.bf16 else "float32",  # which the recipe leaves to the hardware
            "start": stages[0]["start"],
            "stages": changes(stages),
            "store": origin(manifest),
            "valid": origin(valid_store.manifest),
            "descriptors": scale._asdict() if recipe.chemistry_factor else None,
        }
        dtype = "bfloat16" if recipe.precision == "bf16" else "float32"  # what it was trained in is what is kept
        checkpoint.write(model, tokenizer, output / "model", facts, dtype)
    trainer.accelerator.wait_for_everyone()
    leave_at_exit()
    return output / "model"


def newest_whole_checkpoint(run: Path) -> Path | None:
    """Newest checkpoint of a run that was written to its end."""
    whole = [path.parent for path in run.glob(f"checkpoint-*/{WHOLE}")]
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def _remove_unfinished(run: Path) -> None:
    for path in run.glob("checkpoint-*"):
        if not (path / WHOLE).exists():
            shutil.rmtree(path)


def _padded(tokens: int) -> int:
    """Length of a sequence of `tokens` tokens in a batch."""
    return -(-tokens // PAD_MULTIPLE) * PAD_MULTIPLE


def _remember_recipe(output: Path, recipe: Recipe) -> None:
    output.mkdir(parents=True, exist_ok=True)
    with atomic_path(output / "recipe.yaml") as path:
        path.write_text(recipe.dump())
