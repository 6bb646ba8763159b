"""Pretraining, thin on transformers' Trainer. Ours are the loss, the batches, the metrics and what a crash leaves.

A run is a folder: ``recipe.yaml``, ``checkpoint-<step>/`` (weights, optimizer, schedule, random states), TensorBoard
files, ``log.csv``, ``curves.png`` and, at the end, ``model/``. All state is in the checkpoints: the same command goes on
from the newest whole one, and on CPU ends with bit-identical weights.
"""

from __future__ import annotations

import dataclasses
import math
import operator
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import (
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from molcmim import checkpoint
from molcmim.config import MolCMIMConfig
from molcmim.curves import write_curves
from molcmim.data import BucketedBatches, StoreManifest, TokenStore
from molcmim.latent import Posterior
from molcmim.metrics import held_out, held_out_batches, peak_flops, token_characters, training_flops
from molcmim.model import MolCMIMModel
from molcmim.objectives import OBJECTIVES, Sample, log_p_descriptors
from molcmim.optimizer import build_optimizer
from molcmim.recipe import Recipe
from molcmim.tokenizer import load_tokenizer, vocab_hash

WHOLE = "whole"
"""Empty file that is written last into a checkpoint, so that one cut short is never resumed from."""


class PretrainTrainer(Trainer):
    """Transformers' Trainer with our objectives as the loss and our batches as the data."""

    def __init__(
        self,
        model: MolCMIMModel,
        arguments: TrainingArguments,
        recipe: Recipe,
        batches: BucketedBatches,
        valid: list[dict[str, Tensor]],
        token_characters: Tensor,
    ) -> None:
        super().__init__(model=model, args=arguments, train_dataset=batches, eval_dataset=valid)
        self.recipe, self.batches, self.valid, self.token_characters = recipe, batches, valid, token_characters
        self.model_accepts_loss_kwargs = False
        self.objective = OBJECTIVES[recipe.objective]
        self._sums: dict[str, Tensor] = {}
        self._molecules = 0
        self._since = time.perf_counter()
        median = int(np.median(batches.store.lengths[:: batches.store.manifest.spellings]))
        self._flops_per_molecule = training_flops(model.config, median)
        self._peak = peak_flops(arguments.device) * arguments.world_size

    def get_train_dataloader(self) -> DataLoader:
        """All steps of the run as one epoch: batch number = step number, so resuming skips by counting."""
        workers = self.recipe.loader_workers
        return DataLoader(
            self.batches,
            batch_size=1,
            sampler=range(self.args.max_steps),
            collate_fn=operator.itemgetter(0),
            num_workers=workers,
            prefetch_factor=4 if workers else None,
            pin_memory=self.args.device.type == "cuda",
            # Its own generator: the loader would otherwise draw from the one whose state a resumed run must match.
            generator=torch.Generator(),
        )

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """Muon where the recipe says so, else Trainer's own choice: AdamW."""
        if self.recipe.optimizer == "muon" and self.optimizer is None:
            self.optimizer = build_optimizer(self.model, self.args.learning_rate, self.args.weight_decay)
        return super().create_optimizer(model)

    def compute_loss(
        self, model: torch.nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, **unused: Any
    ) -> Tensor:
        """Negative batch mean of the sum of the objective's parts."""
        out = model(inputs["input_ids"], inputs["target_ids"], inputs["attention_mask"])
        all_z, first = gather_ranks(out.z)
        sample = Sample(out.log_px, out.num_tokens, out.z, Posterior(out.mu, out.logvar), all_z, first)
        parts = self.objective(sample, self.recipe.settings)
        if out.descriptors is not None:
            log_pd = log_p_descriptors(out.descriptors, inputs["descriptors"])
            size = out.descriptors.shape[-1] if self.recipe.reduction == "mean" else 1
            parts["log_p_descriptors"] = log_pd / size
        loss = -torch.stack(list(parts.values())).sum(0).mean()
        self._tally(
            {name: part.mean() for name, part in parts.items()}
            | {"correct": out.num_correct.sum(), "tokens": out.num_tokens.sum(), "steps": loss.new_ones(())}
        )
        self._molecules += len(out.z) * self.args.world_size
        return loss

    def _tally(self, values: dict[str, Tensor]) -> None:
        # Sums stay on the device: reading them every step would make the device wait.
        for name, value in values.items():
            value = value.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add the parts of the loss, token accuracy and speed since the last line to what Trainer logs."""
        if self._sums and "loss" in logs:
            sums = {name: value.item() for name, value in self._sums.items()}
            steps, correct, tokens = sums.pop("steps"), sums.pop("correct"), sums.pop("tokens")
            now = time.perf_counter()
            speed = self._molecules / (now - self._since)
            logs |= {name: value / steps for name, value in sums.items()}
            logs |= {
                "token_accuracy": correct / tokens,
                "molecules_per_second": speed,
                "mfu": speed * self._flops_per_molecule / self._peak,
                "molecules": self.state.global_step * self.recipe.batch_size,
            }
            self._sums, self._molecules, self._since = {}, 0, now
        super().log(logs, *args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Held-out metrics of ``molcmim.metrics``; every rank computes them, the first one logs."""
        started = time.perf_counter()
        cpu_state = torch.get_rng_state()
        with self.compute_loss_context_manager():
            metrics = held_out(self.model, self.valid, self.token_characters)
        torch.set_rng_state(cpu_state)
        logs = {f"eval_{name}": value for name, value in metrics.as_dict().items()}
        self.log(logs)
        self._since += time.perf_counter() - started
        return logs

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        super()._save_checkpoint(*args, **kwargs)
        if self.args.should_save:
            folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            os.sync()
            (folder / WHOLE).touch()


class CurveCallback(TrainerCallback):
    """Keeps ``log.csv`` and ``curves.png`` up to date at every checkpoint and at the end."""

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write both from the state's history."""
        if state.is_world_process_zero:
            write_curves(state.log_history, Path(args.output_dir))

    on_train_end = on_save


def gather_ranks(z: Tensor) -> tuple[Tensor | None, int]:
    """Codes of all ranks, with gradients, and where this rank's begin; (None, 0) outside data parallelism.

    The gradient that reaches another rank's code is summed over ranks on the way back, so that with the mean over
    ranks that data parallelism takes, R ranks of B molecules train as one batch of R * B does.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return None, 0
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(z)), dist.get_rank() * len(z)


def pretrain(
    store: str | os.PathLike[str], valid: str | os.PathLike[str], output: str | os.PathLike[str], recipe: Recipe
) -> Path:
    """Train a model on a token store; go on where an earlier, interrupted call with the same `output` stopped.

    Parameters
    ----------
    store, valid : path
        Token stores that ``molcmim prepare`` wrote, for training and for held-out metrics.
    output : path
        Folder of the run.
    recipe : Recipe
        Every choice.

    Returns
    -------
    Path
        ``output/model``, the finished checkpoint: configuration, tokenizer and weights.

    Raises
    ------
    ValueError
        If stores and recipe do not fit together.
    """
    output = Path(output)
    train_store, valid_store = TokenStore(store), TokenStore(valid)
    tokenizer = load_tokenizer(train_store.manifest.tokenizer)
    manifest = train_store.manifest
    _check_stores(manifest, valid_store.manifest, vocab_hash(tokenizer), recipe)
    _remember_recipe(output, recipe)
    set_seed(recipe.seed)
    model = MolCMIMModel(
        MolCMIMConfig.named(
            recipe.size,
            **{
                "vocab_size": len(tokenizer),
                "vocab_hash": manifest.vocab_hash,
                "notation": manifest.notation,
                "max_position_embeddings": int(manifest.settings["max_length"]),
                "posterior": recipe.posterior,
                "num_descriptors": len(manifest.descriptor_names) if recipe.chemistry_factor else 0,
                **recipe.model,
            },
        )
    )
    arguments = training_arguments(recipe, output)
    batches = BucketedBatches(
        train_store,
        recipe.batch_size,
        seed=recipe.seed,
        mode=recipe.mode,
        rank=arguments.process_index,
        world=arguments.world_size,
    )
    trainer = PretrainTrainer(
        model,
        arguments,
        recipe,
        batches,
        list(held_out_batches(valid_store, recipe.evaluate_molecules, manifest)),
        token_characters(tokenizer),
    )
    trainer.add_callback(CurveCallback())
    newest = newest_whole_checkpoint(output)
    done = trainer.train(resume_from_checkpoint=str(newest) if newest else None)
    if trainer.is_world_process_zero():
        facts = {
            "recipe": dataclasses.asdict(recipe),
            "steps": done.global_step,
            "molecules": done.global_step * recipe.batch_size,
            "resumed_at_step": int(newest.name.rpartition("-")[2]) if newest else 0,
            "seconds_since_resumed": round(done.metrics["train_runtime"]),
            "world_size": arguments.world_size,
            "store": _origin(manifest),
            "valid": _origin(valid_store.manifest),
        }
        checkpoint.write(model, tokenizer, output / "model", facts)
    return output / "model"


def _origin(store: StoreManifest) -> dict[str, Any]:
    """What a store was made of, for the record."""
    kept = ("num_molecules", "spellings", "joined", "rejected", "sources", "settings")
    return {name: getattr(store, name) for name in kept}


def training_arguments(recipe: Recipe, output: Path) -> TrainingArguments:
    """Say the recipe in transformers' words."""
    cuda = torch.cuda.is_available()
    world = int(os.environ.get("WORLD_SIZE", "1"))
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(output / "tensorboard")
    return TrainingArguments(
        output_dir=str(output),
        max_steps=recipe.steps,
        per_device_train_batch_size=max(recipe.batch_size // world, 1),
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="warmup_stable_decay",
        lr_scheduler_kwargs={
            "num_decay_steps": math.ceil(recipe.decay_share * recipe.steps),
            "decay_type": "1-sqrt",
            "min_lr_ratio": 0.0,
        },
        warmup_steps=recipe.warmup_steps,
        weight_decay=recipe.weight_decay,
        adam_beta2=0.98,
        max_grad_norm=recipe.max_grad_norm,
        optim="adamw_torch_fused",
        bf16=recipe.precision == "bf16",
        use_cpu=not cuda,
        torch_compile=recipe.compile,
        seed=recipe.seed,
        logging_steps=recipe.log_every,
        logging_first_step=True,
        eval_strategy="steps",
        eval_steps=recipe.evaluate_every,
        save_steps=recipe.save_every,
        save_total_limit=2,
        report_to=["tensorboard"],
        ddp_find_unused_parameters=False,
        remove_unused_columns=False,
    )


def newest_whole_checkpoint(run: Path) -> Path | None:
    """Newest checkpoint that was written to its end; those that were not are removed."""
    checkpoints = sorted(run.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    for path in checkpoints:
        if not (path / WHOLE).exists():
            shutil.rmtree(path)
    whole = [path for path in checkpoints if path.exists()]
    return whole[-1] if whole else None


def _check_stores(train: StoreManifest, valid: StoreManifest, tokenizer_hash: str, recipe: Recipe) -> None:
    if not train.vocab_hash == valid.vocab_hash == tokenizer_hash:
        raise ValueError(
            f"the stores were prepared with another vocabulary than tokenizer {train.tokenizer!r} has now "
            f"(train {train.vocab_hash[:12]}, valid {valid.vocab_hash[:12]}, tokenizer {tokenizer_hash[:12]}); "
            "prepare them again"
        )
    if recipe.chemistry_factor and not train.descriptor_names:
        raise ValueError("chemistry_factor needs descriptors in the store; prepare it with --descriptors")
    if recipe.mode != "canonical" and train.spellings < 2:
        raise ValueError(f"mode {recipe.mode!r} needs random spellings in the store; prepare it with --spellings")


def _remember_recipe(output: Path, recipe: Recipe) -> None:
    """Write ``recipe.yaml``, or refuse to go on with a run of another model."""
    output.mkdir(parents=True, exist_ok=True)
    path = output / "recipe.yaml"
    if path.exists() and newest_whole_checkpoint(output):
        before = Recipe.load(path)
        fixed = ("size", "model", "objective", "posterior", "chemistry_factor", "mode", "batch_size", "seed")
        changed = [name for name in fixed if getattr(before, name) != getattr(recipe, name)]
        if changed:
            raise ValueError(
                f"{output} holds a run with another {', '.join(changed)}; use its recipe.yaml or another folder"
            )
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(recipe.dump())
    os.replace(temporary, path)
