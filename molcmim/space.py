"""A model's latent space: molecules -> codes, codes -> frames of strings that are judged. Knows no way through it.

Shapes: n codes or molecules, z latent dimension.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float32, Int
from tqdm import tqdm

from molcmim import loaded, smiles
from molcmim.data import gather
from molcmim.decoding import beam_search, decode_batches, log_probability, parse_decoding
from molcmim.featurizer import Featurizer
from molcmim.smiles import BadMolecule, MoleculeError
from molcmim.tokenizer import SPECIAL_TOKENS, selfies_to_smiles

Checkpoint = str | os.PathLike[str] | Featurizer
"""Name or folder of a checkpoint, which is loaded once a process, or a loaded one."""
Device = str | torch.device | None
"""Where a checkpoint is loaded to; default CUDA if there is one, else CPU."""
SHOW_PROGRESS_FROM = 1_000
"""Codes from which on a progress bar is worth its lines."""


class Codes(NamedTuple):
    """Molecules in the latent space."""

    smiles: list[str]
    """Canonical SMILES, which is what was encoded; empty if it could not be."""
    reasons: list[str | None]
    """Why not; None if it was."""
    mu: Float32[np.ndarray, "n z"]
    """Means of q(z|x); rows of NaN for what could not be encoded."""


class Space:
    """The latent space of a loaded model.

    Parameters
    ----------
    checkpoint, device
        See :data:`Checkpoint` and :data:`Device`.
    """

    def __init__(self, checkpoint: Checkpoint, device: Device = None) -> None:
        if not isinstance(checkpoint, Featurizer):
            checkpoint = loaded.featurizer(checkpoint, device)
        self.featurizer = checkpoint
        self.model, self.tokenizer = self.featurizer.model, self.featurizer.tokenizer
        self.dim = self.featurizer.dim("mean")

    @functools.cached_property
    def forbidden(self) -> list[int]:
        """Ids that spell nothing. Of SELFIES single characters, too: whole symbols alone always make a molecule."""
        vocab = self.tokenizer.get_vocab()
        ids = {i for token, i in vocab.items() if token in SPECIAL_TOKENS} - {self.model.config.eos_token_id}
        ids |= set(range(len(vocab), self.model.config.vocab_size))
        if self.model.config.notation == "selfies":
            ids |= {i for token, i in vocab.items() if len(token) == 1 and token != "."}
        return sorted(ids)

    def encode(self, molecules: Sequence[object]) -> Codes:
        """Codes of molecules, whatever they are: those that cannot be encoded have a reason."""
        encoded = self.featurizer.reader().read(molecules)
        canonical, _ = smiles.canonicalize(molecules)
        encodable = ["" if reason else string or "" for string, reason in zip(canonical, encoded.reasons, strict=True)]
        return Codes(encodable, encoded.reasons, self.featurizer.embed_encoded(encoded, "mean"))

    def decode(self, z: Float32[np.ndarray, "n z"], decoding: str, rng: np.random.Generator) -> pd.DataFrame:
        """Decode and judge; :mod:`molcmim.generation` says what the columns are.

        Parameters
        ----------
        z
            (n, z) finite codes.
        decoding
            See :func:`molcmim.decoding.parse_decoding`.
        rng
            Where draws come from.
        """
        settings, beams = parse_decoding(decoding)
        frame = self._judged(z, settings, rng)
        if beams and not frame["valid"].all():
            failed = np.flatnonzero(~frame["valid"])
            tried = self._judged(z[failed], beam_search(beams, beams), rng)
            tried["row"] = failed.repeat(beams)
            best = tried.loc[tried[tried["valid"]].groupby("row")["log_prob"].idxmax()].set_index("row")
            frame = pd.concat([frame.drop(best.index), best]).sort_index()
        return frame

    def _judged(self, z: Float32[np.ndarray, "n z"], search: dict[str, Any], rng: np.random.Generator) -> pd.DataFrame:
        strings: list[str] = []
        each = search.get("num_return_sequences", 1)
        log_prob, finished = np.empty(len(z) * each, np.float32), np.empty(len(z) * each, bool)
        quiet = None if len(z) >= SHOW_PROGRESS_FROM else True  # None: hidden where there is no terminal
        with tqdm(total=len(z), desc="decoding", unit=" molecules", disable=quiet) as bar:
            for batch in decode_batches(self.model, z, search, self.forbidden, rng):
                rows = slice(len(strings), len(strings) + len(batch.ids))
                strings += self.tokenizer.batch_decode(batch.ids, skip_special_tokens=True)
                log_prob[rows], finished[rows] = batch.log_px.cpu(), batch.finished.cpu()
                bar.update(len(batch.ids) // each)
        columns: dict[str, Any] = {}
        if self.model.config.notation == "selfies":
            columns["selfies"] = strings
            strings = [selfies_to_smiles(string) for string in strings]
        canonical, reasons = smiles.canonicalize(strings)
        for row in np.flatnonzero(~finished):
            reasons[row] = f"no end within the model's {self.featurizer.max_length} tokens"
            canonical[row] = None
        columns |= {
            "smiles": strings,
            "valid": [reason is None for reason in reasons],
            "canonical": pd.Series(canonical, dtype=object),
            "log_prob": log_prob,
            "error": pd.Series(reasons, dtype=object),
        }
        return pd.DataFrame(columns)

    def log_probability(self, molecules: Sequence[str], z: Float32[np.ndarray, " z"]) -> Float32[np.ndarray, " n"]:
        """Log p(x|z) in nats of molecules that can be encoded, all at the same code."""
        encoded = self.featurizer.reader().read(molecules)
        ids, _ = gather(encoded.ids, encoded.offsets, encoded.which)
        log_p = []
        for part in torch.from_numpy(ids).to(self.model.device).split(64):
            codes = torch.from_numpy(z).to(part.device).expand(len(part), -1)
            log_p.append(log_probability(self.model, part, codes).cpu())
        return torch.cat(log_p).numpy()


def good_rows(
    rows: Sequence[object],
    reasons: Sequence[str | None],
    on_error: str,
    known: Sequence[str] = ("raise", "nan", "skip"),
) -> Int[np.ndarray, " g"]:
    """Rows without a reason against them; raises if there are others and they are not to be tolerated."""
    if on_error not in known:
        raise ValueError(f"on_error must be one of {', '.join(known)}, got {on_error!r}")
    bad = [BadMolecule(i, rows[i], reason) for i, reason in enumerate(reasons) if reason is not None]
    if bad and on_error == "raise":
        raise MoleculeError(bad)
    return np.array([i for i, reason in enumerate(reasons) if reason is None], np.int64)


def aligned(
    frame: pd.DataFrame, good: Int[np.ndarray, " g"], reasons: Sequence[str | None], on_error: str
) -> pd.DataFrame:
    """Rows of `frame` at the places they have in the input, and what has none there according to `on_error`."""
    frame = frame.set_axis(good)
    if on_error == "nan" and len(good) < len(reasons):
        flags = frame.select_dtypes(bool).columns
        frame = frame.reindex(range(len(reasons)))
        frame[flags] = frame[flags].eq(True)
        bad = [i for i, reason in enumerate(reasons) if reason is not None]
        frame.loc[bad, "error"] = [reasons[i] for i in bad]
    return frame
