"""What a pretraining run says of itself on the terminal: one bar, one line per log. Knows only the logged numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

FIELDS: dict[str, str] = {
    "loss": "loss {:.4f}",
    "log_px": "log p(x|z) {:.4f}",
    "token_accuracy": "tokens right {:.2%}",
    "molecules_per_second": "{:,.0f} molecules/s",
    "mfu": "MFU {:.1%}",
    "eval_exact_reconstruction": "held out: exact {:.2%}",
    "eval_token_accuracy": "tokens right {:.2%}",
    "eval_bits_per_character": "{:.4f} bits/character",
    "eval_active_dimensions": "{} active dimensions",
}
"""What is shown of a log, in this order, and how; all of it is in ``log.csv``."""


def line(step: int, steps: int, logs: Mapping[str, Any]) -> str:
    """Say a log in one line; empty if it holds nothing of :data:`FIELDS`."""
    known = (name for name in FIELDS if name in logs)
    # A held-out NaN is what a model without a decoder has; a NaN of training is news.
    said = [FIELDS[name].format(logs[name]) for name in known if "eval" not in name or not math.isnan(logs[name])]
    return " | ".join([f"step {step:,} of {steps:,}", *said]) if said else ""


class Progress(TrainerCallback):
    """A bar where there is a terminal, and lines in any case."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the bar at the step from which the run goes on."""
        hidden = None if state.is_world_process_zero else True  # None: hidden unless there is a terminal
        self.bar = tqdm(
            total=state.max_steps, initial=state.global_step, unit="step", dynamic_ncols=True, disable=hidden
        )

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Move the bar."""
        self.bar.update()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Print a line above the bar."""
        text = line(state.global_step, state.max_steps, logs or {})
        if text and state.is_world_process_zero:
            tqdm.write(text)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the bar."""
        self.bar.close()
