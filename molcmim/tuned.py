"""A fine-tuned model: network, predictions, folder. Knows nothing of how it was trained.

Its folder holds ``config.json``, ``model.safetensors`` (all members of the ensemble) and the tokenizer's files, and
``finetuned.json``: what is predicted and how, hashes of weights and vocabulary, versions, facts about the training.

Shapes: b batch, t tokens, d dimension of the embedding, f waves, o outputs, m members, n molecules, y targets.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from jaxtyping import Float, Float32, Float64, Int
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast

import molcmim
from molcmim import checkpoint, files, folders
from molcmim.checkpoint import CONFIG, WEIGHTS
from molcmim.config import MolCMIMConfig
from molcmim.data import gather
from molcmim.featurizer import SHOW_PROGRESS_FROM, TOKENS_PER_BATCH, as_rows, embed
from molcmim.model import MolCMIMModel
from molcmim.reading import Reader
from molcmim.spelling import Spelled, Speller
from molcmim.tokenizer import Codec, load_tokenizer, vocab_hash

FORMAT_VERSION = 1
RECORD = "finetuned.json"
TASKS = ("regression", "binary", "multiclass")
CLIP = 10.0
"""Largest absolute value of a standardised feature that the head sees."""


class Head(nn.Module):
    r"""Linear in the features and in waves of them, W z / sqrt(d) + V sqrt(2 / f) cos(Omega z + phase).

    With frequencies drawn from N(0, 2 gamma) and random phases the waves are random Fourier features of the Gaussian
    kernel exp(-gamma ||z - z'||^2) (Rahimi & Recht, NeurIPS 2007): a head that can be fitted in closed form as a
    kernel machine, and trained as a network of one hidden layer. The factors keep a step of training of one size,
    whatever the widths.

    Parameters
    ----------
    width, outputs, waves : int
        d, o and f.
    dropout : float
        Of the standardised features, while training.
    """

    center: Tensor
    scale: Tensor

    def __init__(self, width: int, outputs: int, waves: int, dropout: float) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.linear = nn.Linear(width, outputs)
        self.frequencies = nn.Linear(width, waves)
        self.waves = nn.Linear(waves, outputs, bias=False)
        self.dropout = nn.Dropout(dropout)

    def standardized(self, x: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        """Features on the scale of the train part, clipped."""
        return ((x - self.center) / self.scale).clamp(-CLIP, CLIP)

    def forward(self, x: Float[Tensor, "b d"]) -> Float[Tensor, "b o"]:
        """Standardised targets, or logits."""
        z = self.dropout(self.standardized(x))
        return self.linear(z / math.sqrt(z.shape[1])) + self.waves(self.wave(z))

    def wave(self, z: Float[Tensor, "b d"]) -> Float[Tensor, "b f"]:
        """Hidden layer; its inner product with another molecule's is near the kernel of the two."""
        return torch.cos(self.frequencies(z)) * math.sqrt(2 / self.frequencies.out_features)


class PropertyNetwork(nn.Module):
    """A pretrained model, down to what an embedding needs, with a head on top.

    Parameters
    ----------
    model : MolCMIMModel
        Its unneeded parts are taken off.
    embedding : {"mean", "informative", "both"}
        See :func:`molcmim.featurizer.embed`.
    outputs, waves, dropout
        Of the :class:`Head`.
    """

    def __init__(self, model: MolCMIMModel, embedding: str, outputs: int, waves: int, dropout: float = 0.0) -> None:
        super().__init__()
        for part in ("to_logvar", "to_descriptors", *(("decoder",) if embedding == "mean" else ())):
            setattr(model, part, None)
        if embedding != "mean":
            setattr(model.decoder, "to_vocabulary", None)  # noqa: B010 - a module by its type
        self.model, self.embedding = model, embedding
        config = model.config
        width = (embedding != "informative") * config.latent_dim + (embedding != "mean") * config.width
        self.head = Head(width, outputs, waves, dropout)

    def features(self, input_ids: Int[Tensor, "b t"], target_ids: Int[Tensor, "b s"]) -> Float[Tensor, "b d"]:
        """Embedding of a spelling; the decoder, where it takes part, is forced to say the canonical SMILES."""
        return embed(self.model, input_ids, None, target_ids, self.embedding)

    def forward(self, input_ids: Int[Tensor, "b t"], target_ids: Int[Tensor, "b s"]) -> Float[Tensor, "b o"]:
        """Standardised targets, or logits."""
        return self.head(self.features(input_ids, target_ids))


@dataclass(frozen=True)
class Task:
    """What a model predicts, and how; all of it is kept as JSON."""

    kind: str
    """One of :data:`TASKS`; "binary" is one question or several, "multiclass" one."""
    targets: list[str]
    """Names."""
    center: list[float]
    """Mean of each target over the train part; 0 for classes."""
    scale: list[float]
    """Standard deviation of each target over the train part; 1 for classes."""
    classes: list[Any] = field(default_factory=list)
    """Labels in the order of their numbers; of "binary" with several targets: of all of them."""
    embedding: str = "mean"
    """What the head reads."""
    waves: int = 1
    """f of the :class:`Head`."""
    spellings: int = 1
    """k, over which predictions are averaged."""
    seed: int = 0
    """Of the random spellings."""
    standardize: bool = False
    """Whether molecules are first brought into the corpus's form."""
    spread: list[list[float]] = field(default_factory=list)
    """(a, b) of each target: the predicted variance is a times the members' variance, plus b."""

    @property
    def outputs(self) -> int:
        """Numbers that the network puts out."""
        return len(self.classes) if self.kind == "multiclass" else len(self.targets)


class PropertyModel:
    """A fine-tuned model: molecules -> properties.

    Parameters
    ----------
    networks : sequence of PropertyNetwork
        Members of the ensemble, on one device.
    tokenizer : PreTrainedTokenizerFast
        Theirs.
    task : Task
        What they predict.
    training : mapping
        What is to be known about the training; JSON.
    """

    def __init__(
        self,
        networks: Sequence[PropertyNetwork],
        tokenizer: PreTrainedTokenizerFast,
        task: Task,
        training: Mapping[str, Any],
    ) -> None:
        self.networks = [network.eval() for network in networks]
        self.tokenizer, self.task, self.training = tokenizer, task, dict(training)

    def __repr__(self) -> str:
        what = f"{self.task.kind} of {', '.join(self.task.targets)}"
        return f"PropertyModel({what}; {len(self.networks)} member(s), {self.task.spellings} spellings)"

    @property
    def columns(self) -> list[str]:
        """Names of what :meth:`outputs` returns: targets, or classes, and of an ensemble the uncertainties."""
        task = self.task
        if task.kind == "regression":
            spread = [f"{target}_std" for target in task.targets] if task.spread else []
            return [f"{target}_predicted" for target in task.targets] + spread
        if task.kind == "binary":
            return [f"{target}_probability" for target in task.targets]
        return [f"{task.targets[0]}_probability_{label}" for label in task.classes]

    def speller(self) -> Speller:
        """How molecules are read for this model; picklable."""
        config = self.networks[0].model.config
        reader = Reader(
            Codec.of(self.tokenizer), config.notation, config.max_position_embeddings, True, self.task.standardize
        )
        return Speller(reader, self.task.spellings, self.task.seed)

    def predict(
        self, molecules: Any, on_error: str = "raise", progress: bool | None = None
    ) -> Float64[np.ndarray, "n _"]:
        """Predict :attr:`columns` of molecules, averaged over spellings and members.

        A molecule's prediction depends on nothing else in the call, nor on how it was written.

        Parameters
        ----------
        molecules : str, Mol, or any iterable of them
            As for :meth:`molcmim.Featurizer.featurize`.
        on_error : {"raise", "nan"}
            What to do about molecules that cannot be read.
        progress
            Show a bar; default: for many molecules, on a terminal.

        Returns
        -------
        ndarray of float64
            Regression: in the targets' units. Classes: probabilities. Rows of NaN for bad molecules.

        Raises
        ------
        MoleculeError
            Under ``on_error="raise"``, if any molecule is bad.
        """
        if on_error not in ("raise", "nan"):
            raise ValueError(f"on_error must be 'raise' or 'nan' here, got {on_error!r}")
        rows = as_rows(molecules)
        if progress is None:
            progress = len(rows) >= SHOW_PROGRESS_FROM and sys.stderr.isatty()
        spelled = self.speller().read(rows)
        if on_error == "raise":
            refuse_bad(rows, spelled)
        return self.outputs(spelled, progress)

    def outputs(self, spelled: Spelled, progress: bool = False) -> Float64[np.ndarray, "n _"]:
        """Predict :attr:`columns` of what the :meth:`speller` has read; rows of NaN for bad molecules."""
        values = self.members(spelled, progress)
        means = values.mean(0)
        if self.task.spread:
            a, b = np.array(self.task.spread).T
            means = np.concatenate([means, np.sqrt(a * values.var(0, ddof=1) + b)], axis=1)
        aligned = np.full((len(spelled.which), means.shape[1]), np.nan)
        good = spelled.which >= 0
        aligned[good] = means[spelled.which[good]]
        return aligned

    def members(self, spelled: Spelled, progress: bool = False) -> Float64[np.ndarray, "m u o"]:
        """Predict each different molecule with each member, averaged over spellings."""
        found = []
        for network in self.networks:
            values = run(network, spelled, progress=progress).astype(np.float64)
            if self.task.kind == "regression":
                values = np.array(self.task.center) + np.array(self.task.scale) * values
            elif self.task.kind == "binary":
                values = 1 / (1 + np.exp(-values))
            else:
                values = np.exp(values - values.max(1, keepdims=True))
                values /= values.sum(1, keepdims=True)
            found.append(values[spelled.spellings].mean(1))
        return np.stack(found)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the model's folder; it appears at once, and takes the place of a fine-tuned model that is there.

        Raises
        ------
        FileExistsError
            If `folder` exists and is something else.
        """
        with files.atomic_folder(folder, RECORD, "fine-tuned model") as unfinished:
            model = self.networks[0].model
            model.config.save_pretrained(unfinished)
            self.tokenizer.save_pretrained(unfinished)
            weights = {
                f"{i}.{name}": weight.detach().cpu().contiguous()
                for i, network in enumerate(self.networks)
                for name, weight in network.state_dict().items()
            }
            safetensors.torch.save_file(weights, unfinished / WEIGHTS, metadata={"format": "pt"})
            record = {
                "format_version": FORMAT_VERSION,
                "versions": checkpoint.versions(),
                "weights_sha256": folders.sha256(unfinished / WEIGHTS),
                "vocab_hash": vocab_hash(self.tokenizer),
                "members": len(self.networks),
                "task": dataclasses.asdict(self.task),
                "training": self.training,
            }
            (unfinished / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        return Path(folder)

    @classmethod
    def load(cls, folder: str | os.PathLike[str], device: str | torch.device | None = None) -> PropertyModel:
        """Load a folder that :meth:`save` wrote, verified.

        Parameters
        ----------
        folder
            Its path.
        device
            Default: CUDA if there is one, else CPU.

        Raises
        ------
        FileNotFoundError
            If it is no such folder, or a file is missing.
        ValueError
            If the format is newer than this version, or a file is damaged or does not belong to the others.
        """
        folder = Path(folder)
        record = read_record(folder)
        config = MolCMIMConfig.from_pretrained(folder)
        tokenizer = load_tokenizer(folder)
        if vocab_hash(tokenizer) != record["vocab_hash"]:
            raise ValueError(f"the tokenizer in {folder} is not the one the model was trained with; copy it again")
        weights = safetensors.torch.load_file(folder / WEIGHTS)
        task = Task(**record["task"])
        networks = []
        for i in range(record["members"]):
            with torch.device("meta"):
                network = PropertyNetwork(MolCMIMModel(config), task.embedding, task.outputs, task.waves)
            own = {name.partition(".")[2]: weight for name, weight in weights.items() if name.startswith(f"{i}.")}
            try:
                network.load_state_dict(own, assign=True)
            except RuntimeError as error:
                raise ValueError(f"{folder / CONFIG} describes another model than {WEIGHTS} holds: {error}") from None
            networks.append(network.to(device or ("cuda" if torch.cuda.is_available() else "cpu")))
        return cls(networks, tokenizer, task, record["training"])


def refuse_bad(rows: Sequence[object], spelled: Spelled) -> None:
    """Raise one MoleculeError that names every bad row, if there is any."""
    bad = np.flatnonzero(spelled.which < 0)
    if len(bad):
        from molcmim.smiles import BadMolecule, MoleculeError

        raise MoleculeError([BadMolecule(i, rows[i], spelled.reasons[i] or "") for i in bad.tolist()])


@torch.inference_mode()
def run(
    network: PropertyNetwork, spelled: Spelled, features: bool = False, progress: bool = False
) -> Float32[np.ndarray, "s _"]:
    """Compute outputs (or features) of every different string, similar lengths together, in evaluation mode."""
    device = next(network.parameters()).device
    was_training = network.training
    network.eval()
    encoded = spelled.encoded
    lengths = np.diff(encoded.offsets)
    order = np.argsort(-lengths, kind="stable")
    budget = TOKENS_PER_BATCH.get(device.type, TOKENS_PER_BATCH["cpu"])
    width = len(network.head.center) if features else network.head.linear.out_features
    out = np.zeros((len(lengths), width), np.float32)
    done = 0
    with tqdm(total=len(order), desc="predicting", unit=" spellings", disable=not progress) as bar:
        while done < len(order):
            rows = order[done : done + max(1, budget // int(lengths[order[done]]))]
            inputs = batch(spelled, rows, device)
            out[rows] = (network.features(*inputs) if features else network(*inputs)).cpu().numpy()
            done += len(rows)
            bar.update(len(rows))
    network.train(was_training)
    return out


def batch(spelled: Spelled, rows: Int[np.ndarray, " b"], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids of strings, and of the canonical SMILES of what they spell."""
    encoded = spelled.encoded
    ids, _ = gather(encoded.ids, encoded.offsets, rows)
    target, _ = gather(encoded.ids, encoded.offsets, spelled.canonical[rows])
    return torch.from_numpy(ids).to(device), torch.from_numpy(target).to(device)


def read_record(folder: Path) -> dict[str, Any]:
    """Read ``finetuned.json`` and check that all files are there, undamaged, and that this version can read them."""
    for name in (RECORD, CONFIG, WEIGHTS, "tokenizer.json", "tokenizer_config.json"):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder / name} is missing; {folder} is no fine-tuned model, or an incomplete copy of one"
            )
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        known = {name: record[name] for name in ("weights_sha256", "vocab_hash", "members", "task", "training")}
        newer = record["format_version"] > FORMAT_VERSION
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / RECORD} is damaged ({error!r}); copy the folder again") from None
    if newer:
        raise ValueError(
            f"{folder} has format {record['format_version']}, molcmim {molcmim.__version__} reads up to "
            f"{FORMAT_VERSION}; upgrade molcmim"
        )
    if (found := folders.sha256(folder / WEIGHTS)) != known["weights_sha256"]:
        raise ValueError(
            f"{folder / WEIGHTS} is damaged: SHA-256 {found[:12]}..., {RECORD} says "
            f"{known['weights_sha256'][:12]}...; copy the folder again"
        )
    return known


def gaussian_waves(head: Head, gamma: float, generator: torch.Generator) -> None:
    """Draw the head's frequencies and phases for the kernel exp(-gamma ||z - z'||^2)."""
    weight, bias = head.frequencies.weight, head.frequencies.bias
    with torch.no_grad():
        weight.copy_(torch.randn(weight.shape, generator=generator) * math.sqrt(2 * gamma))
        bias.copy_(torch.rand(bias.shape, generator=generator) * 2 * math.pi)
