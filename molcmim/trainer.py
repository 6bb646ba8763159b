"""Transformers' Trainer with what is ours: the loss, the batches, the metrics and what a crash leaves."""

from __future__ import annotations

import contextlib
import operator
import os
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.integrations.integration_utils import TensorBoardCallback
from transformers.utils import logging as transformers_logging

from molcmim.captured import CapturedSteps
from molcmim.contrastive import Views
from molcmim.curves import write_curves, write_log
from molcmim.data import BucketedBatches
from molcmim.latent import Posterior
from molcmim.metrics import bfloat16_pays, held_out, peak_flops, training_flops
from molcmim.model import MolCMIMModel, MolCMIMOutput
from molcmim.moving_average import MovingAverage
from molcmim.objectives import OBJECTIVES, Sample, log_p_descriptors
from molcmim.optimizer import build_optimizer
from molcmim.progress import Progress
from molcmim.ranks import gather_ranks
from molcmim.recipe import Recipe
from molcmim.resident import ResidentBatches

WHOLE = "whole"
"""Empty file that is written last into a checkpoint, so that one cut short is never resumed from."""
MOVING_AVERAGE = "moving_average.safetensors"
REDRAWN_AFTER = 60.0
"""Seconds between two pictures of a run."""


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
        self.pretrained = model
        super().__init__(model=model, args=arguments, train_dataset=batches, eval_dataset=valid)
        self.remove_callback(PrinterCallback)
        self.add_callback(Progress())
        self.add_callback(CurveCallback())
        board = TensorBoardCallback()
        board.logging_dir = os.path.join(str(arguments.output_dir), "tensorboard")
        self.add_callback(board)
        self.recipe, self.batches, self.valid, self.token_characters = recipe, batches, valid, token_characters
        self.model_accepts_loss_kwargs = False
        self.criterion = OBJECTIVES[recipe.objective]
        self.moving: MovingAverage | None = None
        if self.criterion.moving_average:
            self.moving = MovingAverage(model, recipe.encoder_decay, recipe.moment_decay)
            self.add_callback(MovingAverageCallback(self.moving, model))
        one_gpu = arguments.device.type == "cuda" and arguments.world_size == 1
        self.captured: CapturedSteps | None = None
        if one_gpu and recipe.compile and self.moving is None:
            self.captured = CapturedSteps(model.parameters(), self._step)
        self._parts: dict[str, Tensor] = {}
        self._sums: dict[str, Tensor] = {}
        self._molecules = 0
        self._since = time.perf_counter()
        median = int(np.median(batches.store.lengths[:: batches.store.manifest.spellings]))
        self._flops_per_molecule = training_flops(model.config, median, self.criterion)
        self._peak = peak_flops(arguments.device) * arguments.world_size

    def get_train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """All steps of the run as one epoch: batch number = step number, so resuming skips by counting."""
        workers, device = self.recipe.loader_workers, self.args.device
        resident = device.type == "cuda" and not workers
        return DataLoader(
            # Both map-style, though no Dataset: molcmim.data imports no torch.
            ResidentBatches(self.batches, device) if resident else self.batches,  # type: ignore[arg-type]
            batch_size=1,
            sampler=range(self.args.max_steps),
            collate_fn=operator.itemgetter(0),
            num_workers=workers,
            prefetch_factor=4 if workers else None,
            pin_memory=device.type == "cuda" and not resident,
            # Its own generator: the loader would otherwise draw from the one whose state a resumed run must match.
            generator=torch.Generator(),
        )

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """Muon where the recipe says so, else Trainer's own choice: AdamW."""
        if self.recipe.optimizer == "muon" and self.optimizer is None:
            self.optimizer = build_optimizer(self.pretrained, self.args.learning_rate, self.args.weight_decay)
        return super().create_optimizer(model)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Negative batch mean of the sum of the objective's parts; these are left in ``_parts``."""
        ids, mask = both_views(inputs) if self.criterion.views == 2 else (inputs["input_ids"], inputs["attention_mask"])
        out = model(ids, inputs["target_ids"] if self.criterion.decoder else None, mask)
        molecules = len(inputs["input_ids"])
        parts = self.criterion(self._sample(out, molecules, ids, mask), self.recipe.settings)
        if out.descriptors is not None:
            log_pd = log_p_descriptors(out.descriptors[:molecules], inputs["descriptors"])
            size = out.descriptors.shape[-1] if self.recipe.reduction == "mean" else 1
            parts["log_p_descriptors"] = log_pd / size
        loss = -torch.stack(list(parts.values())).sum(0).mean()
        self._parts = {name: part.detach().mean() for name, part in parts.items()} | {"steps": loss.new_ones(())}
        if out.num_correct is not None and out.num_tokens is not None:
            self._parts |= {"correct": out.num_correct.sum(), "tokens": out.num_tokens.sum()}
        return loss

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Tensor], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Forward and backward pass, replayed where one was captured, and the parts of its loss counted."""
        self._molecules += len(inputs["input_ids"]) * self.args.world_size
        if self.captured is None:
            loss = super().training_step(model, inputs, num_items_in_batch)
            self._tally(self._parts)
        else:
            parts = dict(self.captured(inputs))
            loss = parts.pop("loss")
            self._tally(parts)
        return loss

    def _step(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        loss = super().training_step(self.model_wrapped, inputs)
        return {"loss": loss, **self._parts}

    def _sample(self, out: MolCMIMOutput, molecules: int, ids: Tensor, mask: Tensor) -> Sample:
        """Collect what the objective sees; with two views, the second ones are the rows from `molecules` on."""
        z, posterior = out.z[:molecules], Posterior(out.mu[:molecules], out.logvar[:molecules])
        if self.criterion.views == 1:
            return Sample(out.log_px, out.num_tokens, z, posterior, *gather_ranks(z))
        first, second = out.mu.chunk(2)
        (all_first, start), (all_second, _) = gather_ranks(first), gather_ranks(second)
        views = Views(first, second, all_first, all_second, start)
        if self.moving is not None:
            target, target_second = self.moving.features(ids, mask).chunk(2)
            moment = self.moving.second_moment(out.mu)
            views = Views(first, second, all_first, all_second, start, target, target_second, moment)
        return Sample(out.log_px, out.num_tokens, z, posterior, views=views)

    def _tally(self, values: dict[str, Tensor]) -> None:
        # Sums stay on the device: reading them every step would make the device wait. And they are copies: a replayed
        # step writes where it wrote before.
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.detach().float()

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add the parts of the loss, token accuracy and speed since the last line to what Trainer logs.

        Its totals at the end are left out: they count from the last resume on, and call that the run.
        """
        if "train_runtime" in logs:
            return
        self.state.epoch = self.state.global_step / len(self.batches)  # Trainer takes the whole run for one
        if self._sums and "loss" in logs:
            over_ranks = self.accelerator.reduce(torch.stack(list(self._sums.values())), reduction="mean")
            sums = dict(zip(self._sums, over_ranks.tolist(), strict=True))
            steps, correct, tokens = sums.pop("steps"), sums.pop("correct", 0.0), sums.pop("tokens", 0.0)
            now = time.perf_counter()
            speed = self._molecules / (now - self._since)
            logs |= {name: value / steps for name, value in sums.items()}
            logs |= {"token_accuracy": correct / tokens} if tokens else {}
            logs |= {
                "molecules_per_second": speed,
                "mfu": speed * self._flops_per_molecule / self._peak,
                "molecules": self.state.global_step * self.recipe.batch_size,
            }
            self._sums, self._molecules, self._since = {}, 0, now
        super().log(logs, *args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Held-out metrics of ``molcmim.metrics``; every rank computes them, the first one logs."""
        started = time.perf_counter()
        self._refuse_divergence()
        # Decoding token by token has a shape of its own at every step: not worth compiling for.
        with self.compute_loss_context_manager(), torch.compiler.set_stance("force_eager"):
            metrics = held_out(self.pretrained, self.valid, self.token_characters, self.criterion.decoder)
        logs = {f"eval_{name}": value for name, value in metrics.as_dict().items()}
        self.log(logs)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, logs)
        self._since += time.perf_counter() - started
        return logs

    def _refuse_divergence(self) -> None:
        """Keep weights that are not finite from being saved, which would in time remove the last good checkpoint."""
        weights = [weight.detach() for weight in self.pretrained.parameters()]
        if not torch.stack([weight.isfinite().all() for weight in weights]).all():
            raise ValueError(
                f"training has diverged: at step {self.state.global_step} weights are not finite. What checkpoints "
                f"{self.args.output_dir} has are from before; lower learning_rate or max_grad_norm"
            )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, *args: Any, **kwargs: Any) -> None:
        with _readable(resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, *args, **kwargs)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with _readable(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        self._refuse_divergence()
        transformers_logging.disable_progress_bar()  # one per checkpoint, for its one file
        try:
            super()._save_checkpoint(*args, **kwargs)
        finally:
            transformers_logging.enable_progress_bar()
        self.accelerator.wait_for_everyone()  # each rank writes its own random state
        if self.args.should_save:
            folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
            if self.moving is not None:
                self.moving.save(folder / MOVING_AVERAGE)
            os.sync()
            (folder / WHOLE).touch()


@contextlib.contextmanager
def _readable(folder: str | None) -> Iterator[None]:
    """Say of a checkpoint that cannot be loaded which it is, and what to do; a run keeps two."""
    try:
        yield
    except Exception as error:  # of safetensors, of pickle, or of torch's zip
        raise ValueError(
            f"{folder} is damaged ({error}); remove it, and the same command goes on from the one before"
        ) from error


class CurveCallback(TrainerCallback):
    """Keeps ``log.csv`` up to date at every checkpoint and evaluation, ``curves.png`` at evaluations and at the end.

    A picture takes a second or two: none is drawn within :data:`REDRAWN_AFTER` of the last, or of the start.
    """

    def __init__(self) -> None:
        self.drawn = time.monotonic()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write the state's history."""
        if state.is_world_process_zero:
            write_log(state.log_history, Path(str(args.output_dir)))

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write it, and draw it if it is time."""
        due = time.monotonic() - self.drawn > REDRAWN_AFTER
        (self.on_train_end if due else self.on_save)(args, state, control)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write and draw it."""
        self.on_save(args, state, control)
        if state.is_world_process_zero:
            write_curves(state.log_history, Path(str(args.output_dir)))
            self.drawn = time.monotonic()


class MovingAverageCallback(TrainerCallback):
    """Moves the average after each step of the optimizer, before that step's checkpoint."""

    def __init__(self, moving: MovingAverage, model: MolCMIMModel) -> None:
        self.moving, self.model = moving, model

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Move."""
        self.moving.step(self.model)


def both_views(inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Token ids and mask of all first views and then all second ones, padded on the right to one length."""
    width = max(inputs["input_ids"].shape[1], inputs["input_ids_2"].shape[1])
    ids, mask = (
        torch.cat([F.pad(inputs[view], (0, width - inputs[view].shape[1])) for view in (name, f"{name}_2")])
        for name in ("input_ids", "attention_mask")
    )
    return ids, mask


def training_arguments(recipe: Recipe, output: Path) -> TrainingArguments:
    """Say the recipe in transformers' words."""
    cuda = torch.cuda.is_available()
    bf16 = recipe.precision == "bf16" and bfloat16_pays(torch.device("cuda" if cuda else "cpu"))
    if recipe.precision == "bf16" and not bf16:
        warnings.warn("this CPU has no fast bfloat16: training computes in float32", stacklevel=2)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    return TrainingArguments(
        output_dir=str(output),
        max_steps=recipe.steps,
        per_device_train_batch_size=max(recipe.batch_size // world, 1),
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="warmup_stable_decay",
        lr_scheduler_kwargs={"num_decay_steps": recipe.decay_steps, "decay_type": "1-sqrt", "min_lr_ratio": 0.0},
        warmup_steps=recipe.warmup_steps,
        weight_decay=recipe.weight_decay,
        adam_beta2=0.98,
        max_grad_norm=recipe.max_grad_norm,
        optim="adamw_torch_fused",
        bf16=bf16,
        use_cpu=not cuda,
        seed=recipe.seed,
        logging_steps=recipe.log_every,
        logging_first_step=True,
        logging_nan_inf_filter=False,  # it would hide a NaN, and make the device wait at every step
        disable_tqdm=True,  # molcmim.progress
        eval_strategy="steps",
        eval_steps=recipe.evaluate_every,
        save_steps=recipe.save_every,
        save_total_limit=2,
        report_to=[],  # but for TensorBoard, whose folder is ours to say
        ddp_find_unused_parameters=False,
        remove_unused_columns=False,
    )
