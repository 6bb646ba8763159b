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
from molcmim.decoding import VALID_BEAMS, beam_search, decode_batches, log_probability, parse_decoding
from molcmim.featurizer import Featurizer
from molcmim.spelling import Spelled
from molcmim.tokenizer import SPECIAL_TOKENS, Codec, selfies_to_smiles

Checkpoint = str | os.PathLike[str] | Featurizer
"""Name or folder of a checkpoint, which is loaded once a process, or a loaded one."""
Device = str | torch.device | None
"""Where a checkpoint is loaded to; default CUDA if there is one, else CPU."""
STEP = 0.3
"""How far a code moves against what was missed. On 3,000 valid molecules 0.3 wrote back more than 0.2, 0.5 and 0.8."""
BEAM_ROUNDS = 3
"""Rounds with a beam, each of which takes longer than ten greedy ones. Of 2,000 valid molecules molcmim-small writes
back 96.1 % after ten greedy rounds, 97.7 % after one of these, 98.3 % after three, 98.6 % after six."""
SAME_CODE = 1e-3
"""Distance within which two codes are of one molecule: rounding makes 1e-5, a wrong molecule is mostly 1 away."""
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

    def encode(self, molecules: Sequence[object], spellings: int = 1) -> Codes:
        """Codes of molecules, whatever they are: those that cannot be encoded have a reason."""
        encoded = self.featurizer.read_with(spellings=spellings)(molecules)
        strings = encoded.smiles
        if isinstance(encoded, Spelled):  # which has each molecule once
            strings = [None if i < 0 else encoded.smiles[i] for i in encoded.which]
        pairs = zip(strings, encoded.reasons, strict=True)
        encodable = ["" if reason else string or "" for string, reason in pairs]
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

        Raises
        ------
        ValueError
            For another decoding, or if the model's objective trained no decoder.
        """
        settings, beams, corrections = parse_decoding(decoding)
        if not self.model.config.trained_decoder:
            raise ValueError(f"the objective of {self.featurizer.name} trained no decoder: it only embeds")
        frame = self._judged(z, settings, rng)
        if beams and not frame["valid"].all():
            failed = np.flatnonzero(~frame["valid"])
            tried = self._judged(z[failed], beam_search(beams, beams), rng)
            tried["row"] = failed.repeat(beams)
            best = tried.loc[tried[tried["valid"]].groupby("row")["log_prob"].idxmax()].set_index("row")
            frame = pd.concat([frame.drop(best.index), best]).sort_index()
        return self._corrected(z, frame, corrections, rng) if corrections else frame

    def _corrected(
        self, z: Float32[np.ndarray, "n z"], frame: pd.DataFrame, rounds: int, rng: np.random.Generator
    ) -> pd.DataFrame:
        """Look for molecules whose own codes are nearer to `z` than those of the molecules in `frame`.

        A fixed-point iteration: a code u that decodes to a molecule x with mu(x) = z is sought by
        u <- u + STEP (z - mu(x)), from u = z. Where u decodes to no molecule, it goes back towards z. What `rounds` of
        greedy decoding have not found, BEAM_ROUNDS more seek among all molecules of a beam, again from u = z.
        """
        u = z.copy()
        own = self.encode(frame["canonical"].tolist()).mu
        distance = np.linalg.norm(z - own, axis=1)
        left = np.flatnonzero(distance > SAME_CODE)  # not those without a molecule, whose distance is NaN
        for turn in range(rounds + BEAM_ROUNDS):
            if not len(left):
                break
            beams = 1 if turn < rounds else VALID_BEAMS
            step = STEP * (z[left] - np.where(np.isnan(own[left]), u[left], own[left]))
            u[left] = z[left] if turn == rounds else u[left] + step
            tried = self._judged(u[left], beam_search(beams, beams) if beams > 1 else {}, rng)
            codes = self.encode(tried["canonical"].tolist()).mu.reshape(len(left), beams, -1)
            away = np.linalg.norm(codes - z[left, None], axis=2)
            code = np.arange(len(left))
            best = np.where(np.isnan(away), np.inf, away).argmin(1)
            own[left], found = codes[code, best], away[code, best]
            tried = tried.iloc[code * beams + best].set_axis(left)
            nearer = left[found < distance[left]]
            if len(nearer):
                distance[left] = np.fmin(distance[left], found)
                tried = tried.loc[nearer]
                tried["log_prob"] = self._log_p(self._written(tried), z[nearer])
                frame = pd.concat([frame.drop(nearer), tried]).sort_index()
            left = left[distance[left] > SAME_CODE]
        return frame

    def _judged(self, z: Float32[np.ndarray, "n z"], search: dict[str, Any], rng: np.random.Generator) -> pd.DataFrame:
        strings: list[str] = []
        each = search.get("num_return_sequences", 1)
        log_prob, finished = np.empty(len(z) * each, np.float32), np.empty(len(z) * each, bool)
        quiet = None if len(z) >= SHOW_PROGRESS_FROM else True  # None: hidden where there is no terminal
        bar = tqdm(total=len(z), desc="decoding", unit=" molecules", disable=quiet)
        with bar, torch.autocast(self.model.device.type, enabled=False):  # whatever the caller computes in
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
            "valid": np.array([reason is None for reason in reasons], bool),
            "canonical": pd.Series(canonical, dtype=object),
            "log_prob": log_prob,
            "error": pd.Series(reasons, dtype=object),
        }
        return pd.DataFrame(columns)

    def log_probability(self, molecules: Sequence[str], z: Float32[np.ndarray, " z"]) -> Float32[np.ndarray, " n"]:
        """Log p(x|z) in nats of molecules, all at the same code; NaN for one that cannot be encoded.

        All are NaN if the model's objective trained no decoder.
        """
        encoded = self.featurizer.reader().read(molecules)
        found, good = np.full(len(molecules), np.nan, np.float32), encoded.which >= 0
        if good.any() and self.model.config.trained_decoder:
            ids, _ = gather(encoded.ids, encoded.offsets, encoded.which[good])
            found[good] = self._log_p(ids, np.broadcast_to(z, (len(ids), len(z))))
        return found

    def _log_p(self, ids: Int[np.ndarray, "n t"], z: Float32[np.ndarray, "n z"]) -> Float32[np.ndarray, " n"]:
        parts = zip(torch.from_numpy(ids).split(64), torch.tensor(z).split(64), strict=True)
        device = self.model.device
        with torch.autocast(device.type, enabled=False):
            return torch.cat([log_probability(self.model, i.to(device), c.to(device)).cpu() for i, c in parts]).numpy()

    def _written(self, frame: pd.DataFrame) -> Int[np.ndarray, "n t"]:
        """Token ids of what was decoded, as it was decoded."""
        column = "selfies" if self.model.config.notation == "selfies" else "smiles"
        ids, offsets = Codec.of(self.tokenizer).encode(frame[column].tolist())
        return gather(ids, offsets, np.arange(len(frame))).ids


def good_rows(
    rows: Sequence[object],
    reasons: Sequence[str | None],
    on_error: str,
    known: Sequence[str] = ("raise", "nan", "skip"),
) -> Int[np.ndarray, " g"]:
    """Rows without a reason against them; raises if there are others and they are not to be tolerated."""
    if on_error not in known:
        raise ValueError(f"on_error must be one of {', '.join(known)}, got {on_error!r}")
    if on_error == "raise":
        smiles.refuse(rows, reasons)
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
