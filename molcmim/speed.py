"""Embeddings a second, from SMILES to vectors, beside classical descriptors and transformers of known shapes.

Everybody gets the same molecules as SMILES strings and returns one vector for each. All models read them with
the same reader (parse, canonicalise, encode) and in batches of one token budget, similar lengths together; the
fresh encoders' tokens are those of the checkpoint's own tokenizer, a character or a bracket atom each.

Shapes: b batch, t tokens, d width, n molecules.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed
from threadpoolctl import threadpool_limits
from tqdm import tqdm
from transformers import RobertaConfig, RobertaModel

from molcmim import smiles
from molcmim.data import PAD_ID, TOKENS_PER_BATCH, by_length, gather
from molcmim.featurizer import Featurizer

SHAPES: dict[str, dict[str, Any]] = {
    "ChemBERTa-77M's shape": {
        "num_hidden_layers": 3, "hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 464},
    "MoLFormer-XL's shape": {
        "num_hidden_layers": 12, "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 768},
}  # fmt: skip
"""RoBERTa encoders with fresh weights; 3 layers of width 384, and 12 of width 768, as the two models have."""

Contender = Callable[[list[str]], Any]


def measure(
    featurizer: Featurizer,
    molecules: Sequence[str],
    threads: Sequence[int] = (1, 2),
    repeats: int = 3,
    progress: bool | None = None,
) -> pd.DataFrame:
    """Time everybody on the same molecules, taking turns, so that what else the machine does hits all alike.

    Parameters
    ----------
    featurizer
        Whose "mean" (in bfloat16 as well) and "informative" are timed; on CPU and in float32, or it is no comparison.
    molecules
        SMILES.
    threads
        CPU threads; for RDKit, which knows none, processes.
    repeats
        Turns; the median counts.
    progress
        Show a bar; default: if standard error is a terminal.

    Returns
    -------
    DataFrame
        A row for each number of threads and contender: ``threads``, ``contender``, ``molecules``, ``seconds``
        (median), ``molecules_per_second``, ``mean_is_faster_by`` (the factor).
    """
    given = list(molecules)
    fast = Featurizer(featurizer.model, featurizer.tokenizer, "bfloat16")
    fresh = {name: _fresh(shape, featurizer) for name, shape in SHAPES.items()}
    before, rows = torch.get_num_threads(), []
    bar = tqdm(total=len(threads) * repeats, unit=" turns", disable=None if progress is None else not progress)
    try:
        for count in threads:
            torch.set_num_threads(count)
            contenders: dict[str, Contender] = {
                "mean": lambda s: featurizer.featurize(s, "mean", progress=False),
                "mean, bfloat16": lambda s: fast.featurize(s, "mean", progress=False),
                "informative": lambda s: featurizer.featurize(s, "informative", progress=False),
                "RDKit 2D descriptors": _descriptors(count),
                **fresh,
            }
            seconds: dict[str, list[float]] = {name: [] for name in contenders}
            with threadpool_limits(count):
                for contender in contenders.values():
                    contender(given[:32])  # what is loaded and compiled at first use
                for _ in range(repeats):
                    for name, contender in contenders.items():
                        start = time.perf_counter()
                        contender(given)
                        seconds[name].append(time.perf_counter() - start)
                    bar.update()
            median = {name: statistics.median(taken) for name, taken in seconds.items()}
            rows += [
                {
                    "threads": count,
                    "contender": name,
                    "molecules": len(given),
                    "seconds": taken,
                    "molecules_per_second": len(given) / taken,
                    "mean_is_faster_by": taken / median["mean"],
                }
                for name, taken in median.items()
            ]
    finally:
        torch.set_num_threads(before)
        bar.close()
    return pd.DataFrame(rows)


def markdown(measured: pd.DataFrame) -> str:
    """Set what :func:`measure` returns as a Markdown table, a row for each contender."""
    counts = measured["threads"].unique().tolist()
    head = ["molecules/s (mean is faster by)", *(f"{count} CPU thread{'s' * (count > 1)}" for count in counts)]
    lines = [head, ["---"] * len(head)]
    for name in measured["contender"].unique():
        rows = measured[measured["contender"] == name].set_index("threads").loc[counts]
        cells = zip(rows["molecules_per_second"], rows["mean_is_faster_by"], strict=True)
        lines.append([name, *(f"{rate:,.0f} ({factor:.1f}x)" for rate, factor in cells)])
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _descriptors(processes: int) -> Contender:
    """RDKit's descriptors; the processes stay, and are warm after the first call."""

    def compute(molecules: list[str]) -> Any:
        if processes == 1:
            return smiles.fingerprints(molecules, "rdkit2d")
        chunks = [molecules[i :: 4 * processes] for i in range(4 * processes)]
        return Parallel(processes)(delayed(smiles.fingerprints)(chunk, "rdkit2d") for chunk in chunks if chunk)

    return compute


def _fresh(shape: dict[str, Any], featurizer: Featurizer) -> Contender:
    """Build an encoder that averages its last hidden states over the tokens."""
    reader, vocabulary = featurizer.reader(), featurizer.model.config.vocab_size
    longest = reader.max_length + 1  # RoBERTa counts positions from the padding's id on
    config = RobertaConfig(vocab_size=vocabulary, max_position_embeddings=longest, pad_token_id=PAD_ID, **shape)
    model = RobertaModel(config, add_pooling_layer=False).eval()

    @torch.inference_mode()
    def embed(molecules: list[str]) -> Any:
        encoded = reader.read(molecules)
        lengths = np.diff(encoded.offsets)
        X = np.empty((len(lengths), config.hidden_size), np.float32)
        for rows in by_length(lengths, TOKENS_PER_BATCH["cpu"]):
            ids, _ = gather(encoded.ids, encoded.offsets, rows)
            mask = torch.from_numpy(ids != PAD_ID)
            hidden = model(torch.from_numpy(ids), mask).last_hidden_state
            X[rows] = (torch.einsum("btd,bt->bd", hidden, mask.float()) / mask.sum(1, keepdim=True)).numpy()
        return X[encoded.which]

    return embed
