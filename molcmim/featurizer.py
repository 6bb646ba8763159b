"""Molecules -> embeddings: float32 (n, d), rows aligned with the input. Knows no files and no training.

Shapes: b batch, t tokens, d width or latent dimension, n molecules, u different ones.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast

from molcmim import checkpoint
from molcmim.data import TOKENS_PER_BATCH, gather
from molcmim.model import MolCMIMModel
from molcmim.reading import Encoded, Reader
from molcmim.smiles import refuse
from molcmim.spelling import Spelled, Speller
from molcmim.tokenizer import Codec

EMBEDDINGS = ("mean", "informative", "both", "descriptors")
DECODED = ("informative", "both")
"""Those that the decoder takes part in."""
ON_ERROR = ("raise", "nan", "skip")
PRECISIONS = ("float32", "bfloat16")
SHOW_PROGRESS_FROM = 10_000
"""Molecules from which on a progress bar is worth its lines."""


def embed(
    model: MolCMIMModel,
    input_ids: Int[Tensor, "b t"],
    attention_mask: Int[Tensor, "b t"] | Bool[Tensor, "b t"] | None,
    target_ids: Int[Tensor, "b s"],
    embedding: str = "mean",
) -> Float[Tensor, "b d"]:
    """Embed encoded molecules; differentiable, and in the model's own mode.

    ``mean`` is mu(x), the mean of q(z|x). ``informative`` (cMIM, arXiv 2509.21511) is the average of the
    decoder's last hidden states, right before the vocabulary projection, over the predicted positions, under
    teacher forcing with z = mu(x). ``both`` is the two side by side. ``descriptors`` is the mean of p(d|z) at z =
    mu(x): the RDKit descriptors that the chemistry factor (after arXiv 2606.11508) tells from mu, linearly, in units of
    their standard deviations over the training molecules.

    Parameters
    ----------
    model
        The model.
    input_ids, attention_mask
        What the encoder reads, padded on the right.
    target_ids
        What the decoder is forced to say; not looked at where it takes no part (:data:`DECODED`).
    embedding : {"mean", "informative", "both", "descriptors"}
        Which.

    Raises
    ------
    ValueError
        For an embedding that the model has not, as ``descriptors`` without the chemistry factor in training.
    """
    model.config.embedding_dim(embedding)  # refuses one that the model has not
    return embed_code(model, model.encode(input_ids, attention_mask).mu, target_ids, embedding)


def embed_code(
    model: MolCMIMModel, mu: Float[Tensor, "b z"], target_ids: Int[Tensor, "b s"], embedding: str
) -> Float[Tensor, "b d"]:
    """Embed molecules whose mu is known; otherwise as :func:`embed`."""
    if embedding == "mean":
        return mu
    if embedding == "descriptors":
        assert model.to_descriptors is not None
        return model.to_descriptors(mu.to(model.to_descriptors.weight.dtype)).float()
    hidden = model.decode_hidden(target_ids, mu).float()
    predicted = (target_ids[:, 1:] != model.config.pad_token_id).float()
    informative = torch.einsum("btd,bt->bd", hidden, predicted / predicted.sum(1, keepdim=True))
    return informative if embedding == "informative" else torch.cat([mu, informative], dim=1)


class Featurizer:
    """Pretrained embeddings of molecules.

    Parameters
    ----------
    model : MolCMIMModel
        Used as it is, in evaluation mode.
    tokenizer : PreTrainedTokenizerFast
        The model's own.
    precision : {"float32", "bfloat16"}
        What matrix products are computed in; vectors are float32 in any case. "bfloat16" is faster where the hardware
        has it (GPUs, CPUs with AVX-512 BF16 or AMX); a vector's cosine with the float32 one is then above 0.999, and
        its last bits depend on what else is in its batch.

    Attributes
    ----------
    model, tokenizer, precision
        As given.

    Examples
    --------
    >>> featurizer = Featurizer.from_pretrained()  # doctest: +SKIP
    >>> featurizer.featurize(["CCO", "c1ccccc1"]).shape  # doctest: +SKIP
    (2, 512)
    """

    def __init__(self, model: MolCMIMModel, tokenizer: PreTrainedTokenizerFast, precision: str = "float32") -> None:
        _check(precision=precision)
        self.model = model.eval()
        self.tokenizer, self.precision = tokenizer, precision
        self.name = "a model in memory"

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str] = "molcmim-small",
        device: str | torch.device | None = None,
        precision: str = "float32",
    ) -> Featurizer:
        """Load a checkpoint.

        Parameters
        ----------
        name_or_path
            See :func:`molcmim.checkpoint.resolve`.
        device
            Default: CUDA if there is one, else CPU.
        precision
            As for the class.

        Raises
        ------
        FileNotFoundError, ValueError
            As :func:`molcmim.checkpoint.load`.
        """
        _check(precision=precision)
        featurizer = cls(*checkpoint.load(name_or_path, checkpoint.device_of(device)), precision)
        featurizer.name = str(name_or_path)
        return featurizer

    @property
    def max_length(self) -> int:
        """Longest molecule in tokens, ``<s>`` and ``</s>`` included."""
        return self.model.config.max_position_embeddings

    def dim(self, embedding: str = "mean") -> int:
        """Columns of an embedding, one of :data:`EMBEDDINGS`; ValueError if the model has it not."""
        return self.model.config.embedding_dim(embedding)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{embedding} {dim}" for embedding, dim in self.model.config.embedding_dims.items())
        how = f"up to {self.max_length} tokens; {self.precision} on {self.model.device}"
        return f"Featurizer({self.name!r}: {sizes}; {how})"

    def featurize(
        self,
        molecules: Any,
        embedding: str = "mean",
        on_error: str = "raise",
        canonicalize: bool = True,
        standardize: bool = False,
        batch_size: int | None = None,
        progress: bool | None = None,
        spellings: int = 1,
    ) -> Any:
        """Embed molecules.

        A molecule's embedding depends on nothing else in the call; each different one is computed once.

        Parameters
        ----------
        molecules : str, Mol, or any iterable of them
            SMILES and RDKit molecules: list, tuple, array, Series, generator. One alone is a list of one.
        embedding : {"mean", "informative", "both", "descriptors"}
            See :func:`embed`.
        on_error : {"raise", "nan", "skip"}
            What to do about molecules that cannot be embedded: not a string, unparsable, too long. None is
            ever truncated.
        canonicalize : bool
            Embed the canonical SMILES, so that the way it was written does not matter. False: as written.
        standardize : bool
            Apply the pretraining corpus's own standardisation first (largest fragment, neutralised).
        batch_size : int, optional
            Molecules a batch; default: as many as a budget of tokens allows. Halved when memory runs out.
        progress : bool, optional
            Show a progress bar; default: for many molecules, if standard error is a terminal.
        spellings : int
            Average mu over so many SMILES of each molecule, the canonical one and random ones, which depend on the
            molecule alone; the other embeddings are then of that mu, and the decoder is told the canonical SMILES.
            It takes so many times as long, and takes out what mu says of the spelling, not of the molecule.

        Returns
        -------
        X : ndarray of float32, shape (n, d)
            One row a molecule, in input order; rows of NaN for bad ones under ``on_error="nan"``.
        kept : ndarray of int64
            Only with ``on_error="skip"``: which rows of the input X has.

        Raises
        ------
        MoleculeError
            Under ``on_error="raise"``, if any molecule is bad: names all of them with their reasons.
        ValueError
            If an argument is not one of those allowed, or the model has no such embedding.
        TypeError
            If `molecules` is a table.
        """
        self.dim(embedding)
        _check(on_error=on_error)
        rows = as_rows(molecules)
        if progress is None:
            progress = len(rows) >= SHOW_PROGRESS_FROM and sys.stderr.isatty()
        with tqdm(rows, "reading", unit=" molecules", disable=not progress) as bar:
            encoded = self.read_with(canonicalize, standardize, spellings)(bar)
        if on_error == "raise":
            refuse(rows, encoded.reasons)
        X = self.embed_encoded(encoded, embedding, batch_size, progress)
        if on_error == "skip":
            kept = np.flatnonzero(encoded.which >= 0)
            return X[kept], kept
        return X

    def reader(self, canonicalize: bool = True, standardize: bool = False) -> Reader:
        """How molecules are read for this model; ValueError for a standardised SMILES as it was written."""
        if standardize and not canonicalize:
            raise ValueError("standardize=True writes another SMILES than the one given: it needs canonicalize=True")
        config = self.model.config
        return Reader(Codec.of(self.tokenizer), config.notation, self.max_length, canonicalize, standardize)

    def read_with(
        self, canonicalize: bool = True, standardize: bool = False, spellings: int = 1
    ) -> Callable[[Iterable[object]], Encoded | Spelled]:
        """Molecules -> what :meth:`embed_encoded` wants of them; picklable, for worker processes.

        Raises
        ------
        ValueError
            For a standardised SMILES, or several, as it was written.
        """
        reader = self.reader(canonicalize, standardize)
        if spellings < 1:
            raise ValueError(f"spellings must be at least 1, got {spellings}")
        if spellings > 1 and not canonicalize:
            raise ValueError("of several spellings all but one are drawn: they need canonicalize=True")
        return reader.read if spellings == 1 else Speller(reader, spellings).read

    def embed_encoded(
        self, encoded: Encoded | Spelled, embedding: str, batch_size: int | None = None, progress: bool = False
    ) -> Float32[np.ndarray, "n d"]:
        """Embed what :meth:`read_with` has read, similar lengths together; rows of NaN for bad molecules."""
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, or None, got {batch_size}")

        def run(strings: Encoded, rows: Int[np.ndarray, " r"], what: str, compute: Any) -> Float32[np.ndarray, "r _"]:
            return self._run(strings, rows, self.dim(what), compute, batch_size, progress)

        model = self.model
        if isinstance(encoded, Spelled):
            strings, every = encoded.encoded, np.arange(len(encoded.encoded.offsets) - 1)
            mu = run(strings, every, "mean", lambda ids, _: model.encode(ids).mu)[encoded.spellings].mean(1)
            X = mu
            if embedding != "mean":
                codes = torch.from_numpy(mu).to(model.device)
                X = run(
                    strings, encoded.spellings[:, 0], embedding,
                    lambda ids, rows: embed_code(model, codes[rows], ids, embedding),
                )  # fmt: skip
        else:
            every = np.arange(len(encoded.offsets) - 1)
            X = run(encoded, every, embedding, lambda ids, _: embed(model, ids, None, ids, embedding))
        aligned = np.full((len(encoded.which), X.shape[1]), np.nan, np.float32)
        good = encoded.which >= 0
        aligned[good] = X[encoded.which[good]]
        return aligned

    @torch.inference_mode()
    def _run(
        self,
        encoded: Encoded,
        rows: Int[np.ndarray, " r"],
        width: int,
        compute: Callable[[Tensor, Int[np.ndarray, " b"]], Tensor],
        batch_size: int | None,
        progress: bool,
    ) -> Float32[np.ndarray, "r d"]:
        """Compute something of strings, told their token ids and which of `rows` they are."""
        device = self.model.device
        budget = TOKENS_PER_BATCH.get(device.type, TOKENS_PER_BATCH["cpu"])
        lengths = np.diff(encoded.offsets)[rows]
        order = np.argsort(-lengths, kind="stable")  # longest first: what is too much shows at once
        X = np.empty((len(rows), width), np.float32)
        done, shrunk = 0, 1
        with tqdm(total=len(order), desc="embedding", unit=" molecules", disable=not progress) as bar:
            while done < len(order):
                size = (batch_size or budget // int(lengths[order[done]])) // shrunk
                some = order[done : done + max(size, 1)]
                ids = torch.from_numpy(gather(encoded.ids, encoded.offsets, rows[some])[0])
                try:
                    with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
                        X[some] = compute(ids.to(device), some).float().cpu().numpy()
                except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
                    if len(some) == 1 or not _is_out_of_memory(error):
                        raise
                    shrunk *= 2
                    continue
                done += len(some)
                bar.update(len(some))
        return X


def as_rows(molecules: Any) -> list[Any]:
    """Any accepted input as a list."""
    if hasattr(molecules, "columns"):
        raise TypeError(f"molecules is a {type(molecules).__name__}; give one column, such as df['smiles']")
    if hasattr(molecules, "to_pylist"):  # pyarrow's
        molecules = molecules.to_pylist()
    if hasattr(molecules, "tolist"):  # arrays and Series, at once; a 0-d array becomes what it holds
        molecules = molecules.tolist()
    text = isinstance(molecules, str | bytes | bytearray)
    one = text or not isinstance(molecules, Iterable)  # as is RDKit's Mol
    return [molecules] if one else list(molecules)


def _check(**choices: str) -> None:
    known = {"on_error": ON_ERROR, "precision": PRECISIONS}
    for name, choice in choices.items():
        if choice not in known[name]:
            raise ValueError(f"{name} must be one of {', '.join(known[name])}, got {choice!r}")


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return any(said in str(error) for said in words)
