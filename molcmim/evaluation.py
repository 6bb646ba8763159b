"""A checkpoint against a token store: the held-out figures of its model card. Knows no training.

The store must have been prepared with the checkpoint's vocabulary; its molecules are written canonically, and
read so unless random spellings are asked for.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from molcmim import checkpoint
from molcmim.atomic import atomic_path
from molcmim.data import TokenStore
from molcmim.metrics import held_out, held_out_batches, token_characters


def evaluate(
    name_or_path: str | os.PathLike[str],
    store: str | os.PathLike[str],
    molecules: int | None = None,
    device: str | torch.device | None = None,
    progress: bool = True,
    random_spellings: bool = False,
) -> dict[str, Any]:
    """Measure a checkpoint on held-out molecules.

    Parameters
    ----------
    name_or_path
        Checkpoint, see :func:`molcmim.checkpoint.resolve`.
    store
        Token store of molecules that were not trained on.
    molecules
        How many, at random; default all.
    device
        Default: CUDA if there is one, else CPU.
    progress
        Whether to show a progress bar.
    random_spellings
        Whether a random spelling of each molecule is read, instead of the canonical one; what is to be written is
        canonical in any case.

    Returns
    -------
    dict
        The fields of :class:`molcmim.metrics.HeldOut`, with the number of molecules and hashes of both sides.
        Descriptors are standardised as they were in training. None stands for what the checkpoint or the store has
        not: descriptors, or a decoder that its objective trained.

    Raises
    ------
    ValueError
        If the store was prepared with another vocabulary, for longer molecules, or without the random spellings that
        are asked for.
    """
    model, tokenizer = checkpoint.load(name_or_path, checkpoint.device_of(device))
    held = TokenStore(store)
    if held.manifest.vocab_hash != model.config.vocab_hash:
        raise ValueError(
            f"{store} was prepared with tokenizer {held.manifest.tokenizer!r}, whose vocabulary is not that of "
            f"{name_or_path}; prepare it again with the checkpoint's folder as --notation"
        )
    if held.manifest.max_tokens > (longest := model.config.max_position_embeddings):
        raise ValueError(
            f"{store} has molecules of up to {held.manifest.max_tokens} tokens, {name_or_path} reads {longest}; "
            f"prepare it again with --max-length {longest}"
        )
    record = checkpoint.read_record(checkpoint.resolve(name_or_path))
    batches = list(held_out_batches(held, molecules, checkpoint.descriptor_scale(name_or_path), random_spellings))
    bar = tqdm(batches, disable=None if progress else True)
    metrics = held_out(model, bar, token_characters(tokenizer), model.config.trained_decoder).as_dict()
    return {
        "checkpoint": Path(name_or_path).name,
        "weights_sha256": record["weights_sha256"],
        "store_sources": held.manifest.sources,
        "molecules": sum(len(batch["target_ids"]) for batch in batches),
        "spellings_read": "random" if random_spellings else "canonical",
        **{name: value if math.isfinite(value) else None for name, value in metrics.items()},
    }


def write_report(report: dict[str, Any], path: Path) -> None:
    """Write a report as JSON, by way of a temporary file."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
