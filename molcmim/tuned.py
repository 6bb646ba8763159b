"""A fine-tuned model: networks, kernel machine, predictions, folder. Knows nothing of how it was trained.

Its folder holds ``config.json``, ``model.safetensors`` (all members of the ensemble, the kernel machine, molecules of
the train part and their fingerprints, errors of the valid part) and the tokenizer's files, and ``finetuned.json``: what
is predicted and how, hashes of the other files, versions, facts about the training.

Shapes: o outputs, v voices, n molecules, u different ones, y targets.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.torch
import torch
from jaxtyping import Float, Float64, Shaped, UInt8
from transformers import PreTrainedTokenizerFast

import molcmim
from molcmim import calibration, checkpoint, folders, similarity, smiles, spelling
from molcmim.atomic import atomic_folder
from molcmim.checkpoint import SETTINGS, WEIGHTS
from molcmim.config import MolCMIMConfig
from molcmim.featurizer import SHOW_PROGRESS_FROM, as_rows
from molcmim.kernel_machine import KernelMachine
from molcmim.model import MolCMIMModel
from molcmim.property_network import PropertyNetwork, run
from molcmim.reading import Reader
from molcmim.spelling import Spelled, Speller
from molcmim.tokenizer import Codec, load_tokenizer, vocab_hash

FORMAT_VERSION = 5
RECORD = "finetuned.json"
REPORT = ("predictions.csv", "metrics.csv", "learning.png", "parity.png", "calibration.png", "confusion.png")
"""Files that :mod:`molcmim.tuning_report` puts beside a model, and that are not those of the next."""
TASKS = ("regression", "binary", "multiclass")
NO_YES: tuple[list[int], ...] = ([], [0, 1])
"""Classes of "binary" whose one probability is that of yes; of any other two classes each has its own."""
STRINGS, BITS, ERRORS = "train_smiles", "train_bits", "valid_errors"
"""Names of the train part's SMILES and fingerprints, and of the valid part's errors, among the weights."""
USUAL = 0.9
"""Share of the truth that the intervals of reports are to hold."""
SIMILARITY, NEAREST = "train_similarity", "nearest_train"
"""Columns of :meth:`PropertyModel.nearest_train` in tables."""


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
    """Labels in the order of their numbers; of several targets 0 and 1, or none."""
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
    """(a, b) of each target: the predicted variance is a times the voices' variance, plus b."""
    descriptors: list[str] = field(default_factory=list)
    """RDKit's names of what the kernel machine reads; none if there is none."""

    @property
    def outputs(self) -> int:
        """Numbers that the network puts out."""
        return len(self.classes) if self.kind == "multiclass" else len(self.targets)

    def labels(self, outputs: Float[np.ndarray, "n _"]) -> Shaped[np.ndarray, "n t"]:
        """Most probable label of each target, by :meth:`PropertyModel.outputs`; None in rows of NaN. Numbers have none.

        Returns
        -------
        ndarray of object, shape (n, t)
            Their names are :func:`label_columns`.
        """
        if self.kind == "regression":
            return np.empty((len(outputs), 0), object)
        if self.kind == "binary" and self.classes in NO_YES:
            found = np.array(self.classes or [0, 1], object)[(outputs > 0.5).astype(int)]  # True, 1.0 are 1 in NO_YES
        else:
            found = np.array(self.classes, object)[outputs.argmax(1)[:, None]]
        found[np.isnan(outputs).any(1)] = None
        return found


def output_columns(kind: str, targets: Sequence[str], classes: Sequence[Any], spread: bool) -> list[str]:
    """Names of predictions: of targets, or classes, and with `spread` of the uncertainties of an ensemble."""
    if kind == "regression":
        return [f"{target}_predicted" for target in targets] + [f"{target}_std" for target in targets if spread]
    if kind == "binary" and list(classes) in NO_YES:
        return [f"{target}_probability" for target in targets]
    return [f"{targets[0]}_probability_{label}" for label in classes]


def refuse_taken(targets: Sequence[str]) -> None:
    """Refuse a column of measured values whose name is that of the reasons of bad rows in what is written."""
    if "error" in targets:
        raise ValueError("the column 'error' will hold the reasons of bad rows; rename that of the measured values")


def interval_columns(targets: Sequence[str]) -> list[str]:
    """Names of the ends of intervals."""
    return [f"{target}_{end}" for end in ("low", "high") for target in targets]


def label_columns(kind: str, targets: Sequence[str]) -> list[str]:
    """Names of the most probable labels; numbers have none."""
    return [] if kind == "regression" else [f"{target}_predicted" for target in targets]


class Learned(NamedTuple):
    """Molecules that a model learned from."""

    smiles: list[str]
    """Canonical."""
    bits: UInt8[np.ndarray, "m 256"]
    """Their :func:`molcmim.smiles.packed_bits`."""


class PropertyModel:
    """A fine-tuned model: molecules -> properties.

    Its voices are the networks and, if it has one, the kernel machine, which has half of the weight.

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
    kernel : KernelMachine, optional
        On the task's descriptors.
    learned : Learned, optional
        Molecules that it learned from.
    valid_errors : ndarray, optional
        Absolute errors of the valid part, NaN where unknown; of an ensemble divided by its standard deviations.
    """

    def __init__(
        self,
        networks: Sequence[PropertyNetwork],
        tokenizer: PreTrainedTokenizerFast,
        task: Task,
        training: Mapping[str, Any],
        kernel: KernelMachine | None = None,
        learned: Learned | None = None,
        valid_errors: Float64[np.ndarray, "v t"] | None = None,
    ) -> None:
        self.valid_errors = np.zeros((0, len(task.targets))) if valid_errors is None else valid_errors
        self.learned = Learned([], np.zeros((0, 256), np.uint8)) if learned is None else learned
        self.networks = [network.eval() for network in networks]
        self.tokenizer, self.task, self.training, self.kernel = tokenizer, task, dict(training), kernel

    def __repr__(self) -> str:
        what = f"{self.task.kind} of {', '.join(self.task.targets)}"
        return f"PropertyModel({what}; {len(self.networks)} member(s), {self.task.spellings} spellings)"

    @property
    def columns(self) -> list[str]:
        """Names of what :meth:`outputs` returns."""
        return output_columns(self.task.kind, self.task.targets, self.task.classes, bool(self.task.spread))

    def speller(self) -> Speller:
        """How molecules are read for this model; picklable."""
        config = self.networks[0].model.config
        reader = Reader(
            Codec.of(self.tokenizer), config.notation, config.max_position_embeddings, True, self.task.standardize
        )
        return Speller(reader, self.task.spellings, self.task.seed, self.task.descriptors)

    def predict(
        self, molecules: Any, on_error: str = "raise", progress: bool | None = None
    ) -> Float64[np.ndarray, "n _"]:
        """Predict :attr:`columns` of molecules, averaged over spellings and voices.

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
            smiles.refuse(rows, spelled.reasons)
        return self.outputs(spelled, progress)

    def outputs(self, spelled: Spelled, progress: bool = False) -> Float64[np.ndarray, "n _"]:
        """Predict :attr:`columns` of what the :meth:`speller` has read; rows of NaN for bad molecules."""
        means, variance = self.mean_and_variance(spelled, progress)
        if self.task.spread:
            a, b = np.array(self.task.spread).T
            means = np.concatenate([means, np.sqrt(a * variance + b)], axis=1)
        aligned = np.full((len(spelled.which), means.shape[1]), np.nan)
        good = spelled.which >= 0
        aligned[good] = means[spelled.which[good]]
        return aligned

    def interval(self, outputs: Float[np.ndarray, "n _"], share: float) -> Float64[np.ndarray, "2 n t"]:
        """Lower and upper ends of intervals that hold a share of the truth, by :func:`calibration.conformal_reach`.

        Those of an ensemble are as wide as its standard deviations say, others of one width for each target.

        Parameters
        ----------
        outputs
            What :meth:`outputs` returned.
        share
            Above 0 and below 1.

        Raises
        ------
        ValueError
            If the model is one of classes, or its valid part is too small for this share.
        """
        if self.task.kind != "regression":
            raise ValueError(f"an interval is of numbers, and {', '.join(self.task.targets)} has classes")
        if not 0 < share < 1:
            raise ValueError(f"the share of an interval must be above 0 and below 1, got {share}")
        reach = np.array([calibration.conformal_reach(errors, share) for errors in self.valid_errors.T])
        for target, far, errors in zip(self.task.targets, reach, self.valid_errors.T, strict=True):
            if far == np.inf:
                raise ValueError(
                    f"the valid part has {np.count_nonzero(~np.isnan(errors))} values of {target}, too few for an "
                    f"interval that holds {share:.0%}; ask for less, or give more"
                )
        t = len(self.task.targets)
        half = reach * (outputs[:, t:] if self.task.spread else np.ones((len(outputs), t)))
        return np.stack([outputs[:, :t] - half, outputs[:, :t] + half]).astype(np.float64)

    def usual_interval(self, outputs: Float[np.ndarray, "n _"]) -> Float64[np.ndarray, "2 n t"] | None:
        """Return the :meth:`interval` that reports tell of, :data:`USUAL`, if the model has one."""
        try:
            return self.interval(outputs, USUAL)
        except ValueError:  # of classes, or too few errors to tell
            return None

    def nearest_train(self, spelled: Spelled) -> tuple[Float64[np.ndarray, " n"], Shaped[np.ndarray, " n"]]:
        """Find the most similar molecule of the train part, by :func:`molcmim.similarity.nearest`.

        How far a prediction is an extrapolation: errors grow as the similarity falls (Sheridan et al., J. Chem. Inf.
        Comput. Sci. 2004, 44, 1912).

        Returns
        -------
        similarity : ndarray of float64, shape (n,)
            Tanimoto, between 0 and 1; NaN for a bad molecule.
        smiles : ndarray of object, shape (n,)
            Canonical; None for a bad molecule, or if there is no train part.
        """
        near, molecules = np.full(len(spelled.which), np.nan), np.full(len(spelled.which), None, object)
        good = spelled.which >= 0
        found = similarity.nearest(spelled.bits, self.learned.bits)
        near[good] = found.similarity[spelled.which[good]]
        if self.learned.smiles:
            molecules[good] = np.array(self.learned.smiles, object)[found.which[spelled.which[good]]]
        return near, molecules

    def mean_and_variance(
        self, spelled: Spelled, progress: bool = False
    ) -> tuple[Float64[np.ndarray, "u o"], Float64[np.ndarray, "u o"]]:
        """Weigh the voices: their mean, which is what is predicted, and their variance about it."""
        voices, m = self.voices(spelled, progress), len(self.networks)
        shares = np.array([1 / m] * m if self.kernel is None else [0.5 / m] * m + [0.5])[:, None, None]
        mean = (shares * voices).sum(0)
        return mean, (shares * (voices - mean) ** 2).sum(0)

    def voices(self, spelled: Spelled, progress: bool = False) -> Float64[np.ndarray, "v u o"]:
        """Predict each different molecule with each network, averaged over spellings, and with the kernel machine."""
        found = [
            self._finished(run(network, spelled, progress=progress).astype(np.float64))[spelled.spellings].mean(1)
            for network in self.networks
        ]
        if self.kernel is not None:
            found.append(self._finished(self.kernel.predict(spelled.descriptors)))
        return np.stack(found)

    def _finished(self, values: Float64[np.ndarray, "n o"]) -> Float64[np.ndarray, "n _"]:
        """In the targets' units, or as probabilities."""
        if self.task.kind == "regression":
            return np.array(self.task.center) + np.array(self.task.scale) * values
        if self.task.kind == "binary":
            yes = 1 / (1 + np.exp(-values))
            return yes if self.task.classes in NO_YES else np.concatenate([1 - yes, yes], axis=1)
        values = np.exp(values - values.max(1, keepdims=True))
        return values / values.sum(1, keepdims=True)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the model's folder; it appears at once, and takes the place of a fine-tuned model that is there.

        Raises
        ------
        FileExistsError
            If `folder` exists and is something else.
        """
        with unfinished_folder(folder) as unfinished:
            self.write(unfinished)
        return Path(folder)

    def write(self, folder: Path) -> None:
        """Write the model's files into a folder that is there."""
        model = self.networks[0].model
        model.config.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        weights = {
            f"{i}.{name}": weight.detach().cpu().contiguous()
            for i, network in enumerate(self.networks)
            for name, weight in network.state_dict().items()
        }
        if self.kernel is not None:
            kernel = dataclasses.asdict(self.kernel)
            weights |= {f"kernel.{name}": torch.from_numpy(np.ascontiguousarray(kernel[name])) for name in kernel}
        weights |= {BITS: torch.from_numpy(self.learned.bits), ERRORS: torch.from_numpy(self.valid_errors)}
        weights[STRINGS] = torch.tensor(list("\n".join(self.learned.smiles).encode()), dtype=torch.uint8)
        safetensors.torch.save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
        record = {
            "format_version": FORMAT_VERSION,
            "versions": checkpoint.versions(),
            "weights_sha256": folders.sha256(folder / WEIGHTS),
            "files": {name: folders.sha256(folder / name) for name in SETTINGS},
            "vocab_hash": vocab_hash(self.tokenizer),
            "members": len(self.networks),
            "task": dataclasses.asdict(self.task),
            "training": self.training,
        }
        (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")

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
            If the format is newer than this version, a file is damaged or does not belong to the others, or this RDKit
            lacks a descriptor.
        """
        folder = Path(folder)
        record = read_record(folder)
        config = MolCMIMConfig.from_pretrained(folder)
        tokenizer = load_tokenizer(folder)
        if vocab_hash(tokenizer) != record["vocab_hash"]:
            raise ValueError(f"the tokenizer in {folder} is not the one the model was trained with; copy it again")
        weights = safetensors.torch.load_file(folder / WEIGHTS)
        task = Task(**record["task"])
        spelling.columns(task.descriptors)
        bits, errors, strings = (weights.pop(name).numpy() for name in (BITS, ERRORS, STRINGS))
        learned = Learned(strings.tobytes().decode().split("\n") if len(bits) else [], bits)
        machine = {n.partition(".")[2]: w.numpy() for n, w in weights.items() if n.startswith("kernel.")}
        networks = []
        for i in range(record["members"]):
            with torch.device("meta"):
                network = PropertyNetwork(MolCMIMModel(config), task.embedding, task.outputs, task.waves)
            own = {name.partition(".")[2]: weight for name, weight in weights.items() if name.startswith(f"{i}.")}
            network.load_state_dict(own, assign=True)
            networks.append(network.to(checkpoint.device_of(device)))
        kernel = KernelMachine(**machine) if machine else None
        return cls(networks, tokenizer, task, record["training"], kernel, learned, errors)


def unfinished_folder(folder: str | os.PathLike[str]) -> contextlib.AbstractContextManager[Path]:
    """Lend a folder that becomes `folder` at the end, where a fine-tuned model may be; see :mod:`molcmim.atomic`."""
    return atomic_folder(folder, RECORD, "fine-tuned model", (RECORD, *checkpoint.OWN, *REPORT))


def read_record(folder: Path) -> dict[str, Any]:
    """Read ``finetuned.json`` and check that all files are there, undamaged, and that this version can read them."""
    for name in (RECORD, WEIGHTS, *SETTINGS):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder / name} is missing; {folder} is no fine-tuned model, or an incomplete copy of one"
            )
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        found = int(record["format_version"])
        names = ("weights_sha256", "files", "vocab_hash", "members", "task", "training")
        known = {name: record[name] for name in names} if found == FORMAT_VERSION else {}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / RECORD} is damaged ({error!r}); copy the folder again") from None
    if found > FORMAT_VERSION:
        raise ValueError(
            f"{folder} has format {found}, molcmim {molcmim.__version__} reads up to {FORMAT_VERSION}; upgrade molcmim"
        )
    if found < FORMAT_VERSION:
        raise ValueError(f"{folder} has format {found}, now {FORMAT_VERSION}; fine-tune it again")
    folders.verify(folder, {WEIGHTS: known["weights_sha256"], **known["files"]}, RECORD, "copy the folder again")
    return known


def describe(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Say what a fine-tuned model is: what it predicts, its hash, how it was trained; JSON-ready."""
    record = read_record(Path(folder))
    training = {name: value for name, value in record["training"].items() if name != "history"}
    return {"path": os.fspath(folder), **record, "training": training}
