"""Fine-tuning: a pretrained encoder (and decoder) trained end to end with a head. Knows no files.

The head is first fitted in closed form on frozen features, as a kernel machine; that is what training has to beat: the
weights kept are those with the lowest valid loss, the frozen model's among them. Training starts from a linear head and
moves everything, with learning rates that fall from the head downwards (Howard & Ruder, arXiv 1801.06146), on a
spelling of each molecule drawn anew every epoch, and with the moving average of the weights as the model that counts.
Its matrix products are in bfloat16 where the hardware has it; predictions are in float32.

Half of each prediction is a kernel machine's on RDKit's 2D descriptors, which learns from the train part alone: two
learners that read different things, and whose errors partly cancel.

A plain loop, not transformers' Trainer: a run is minutes long and needs no checkpoints to resume from, loads no data
from disk, and its evaluations are of averaged weights, which would have to be swapped into Trainer's model and back.

Shapes: n molecules, y targets, v valid molecules.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor, nn
from tqdm import tqdm

from molcmim import checkpoint, smiles
from molcmim.calibration import fit_spread, scaled_errors
from molcmim.config import MolCMIMConfig
from molcmim.featurizer import DECODED, EMBEDDINGS, as_rows
from molcmim.kernel_machine import KernelMachine
from molcmim.property_network import PropertyNetwork, batch, run
from molcmim.reading import Reader
from molcmim.recipe import typed
from molcmim.spelling import Speller
from molcmim.tokenizer import Codec, load_tokenizer
from molcmim.tuned import NO_YES, TASKS, Learned, PropertyModel, Task
from molcmim.warm_start import Labelled, Problem, closed_form, linear_start, loss_of, masked_loss, regressed, tensors

LARGEST = 1e100
"""Value of a target whose squares can be summed without overflow."""
POOL = 8
"""Batches that are cut together, of molecules sorted by length."""


@dataclass(frozen=True)
class Choices:
    """How to fine-tune. One set of defaults for every data set, chosen on valid parts.

    Raises
    ------
    ValueError
        If a choice is out of its range.
    """

    embedding: str = "mean"
    """What the head reads: "mean" and "descriptors" train the encoder; "informative" and "both" the decoder too, far
    slower."""
    epochs: int = 24
    """Passes over the train part; the learning rate is 0 after the last, and the weights of the best are kept. 0 leaves
    the pretrained model frozen."""
    batch_size: int = 32
    """Molecules."""
    learning_rate: float = 5e-4
    """Of the head, after a warm-up over a tenth of the steps; falls to 0 linearly."""
    layer_decay: float = 0.8
    """Factor on the learning rate from each layer to the one below it."""
    weight_decay: float = 0.01
    """Of weight matrices (AdamW, arXiv 1711.05101)."""
    dropout: float = 0.1
    """Of the features that the head reads."""
    averaging: float = 0.98
    """Decay of the moving average of the weights, a step."""
    waves: int = 1024
    """Width of the head's hidden layer."""
    spellings: int = 8
    """Spellings of each molecule that training draws from, the canonical SMILES among them."""
    predict_spellings: int = 5
    """Spellings over which predictions are averaged."""
    ensemble: int = 1
    """Members, which differ in all that is drawn; from 2 on there are uncertainties."""
    descriptors: bool = True
    """Whether a kernel machine on RDKit's 2D descriptors takes half of each prediction."""
    standardize: bool = False
    """Whether molecules are first brought into the pretraining corpus's form."""
    seed: int = 0
    """Of all that is drawn."""

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Choices:
        """Make choices of settings by name, as a command line or a search gives them; ValueError for others."""
        types = {field.name: str(field.type) for field in fields(cls)}
        if unknown := sorted(settings.keys() - types.keys()):
            raise ValueError(f"unknown choice {', '.join(unknown)}; known are {', '.join(types)}")
        plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in settings.items()}
        return cls(**{name: typed(name, value, types[name]) for name, value in plain.items()})

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if self.embedding not in EMBEDDINGS:
            raise ValueError(f"embedding must be one of {', '.join(EMBEDDINGS)}, got {self.embedding!r}")
        least_of = {"epochs": 0, "learning_rate": 0, "weight_decay": 0}
        least_of |= dict.fromkeys(("batch_size", "waves", "spellings", "predict_spellings", "ensemble"), 1)
        for name, least in least_of.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        for name, low, high in (("layer_decay", 0, 1), ("dropout", 0, 0.95), ("averaging", 0, 0.9999)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} must be between {low} and {high}, got {getattr(self, name)}")


def layer_depths(network: PropertyNetwork) -> dict[str, int]:
    """How many layers lie between a parameter and the input: embeddings 0, each block one more, the head the most.

    The encoder's key and value maps, one matrix for all layers, count as its lowest.
    """
    config = network.model.config
    top = config.encoder_layers + 1

    def depth(name: str) -> int:
        part, block = re.match(r"(?:model\.)?(\w+)", name), re.search(r"\.(?:reads|blocks)\.(\d+)\.", name)
        here = int(block[1]) + 1 if block else 0
        if name.startswith("model.encoder."):
            return config.encoder_layers if name.startswith("model.encoder.final_norm.") else here
        if name.startswith("model.decoder."):
            return top + 1 + (config.decoder_layers if name.startswith("model.decoder.norm.") else here)
        assert part is not None
        return top if part[1] != "head" else top + 1 + (network.embedding in DECODED) * (config.decoder_layers + 1)

    return {name: depth(name) for name, _ in network.named_parameters()}


def parameter_groups(network: PropertyNetwork, choices: Choices) -> list[dict[str, Any]]:
    """Parameters by learning rate and weight decay, for torch's optimizers; norms, biases, embeddings decay not."""
    depths = layer_depths(network)
    top = max(depths.values())
    groups: dict[tuple[int, bool], list[Tensor]] = {}
    for name, parameter in network.named_parameters():
        table = re.search(r"\.(tokens|positions|latents)\b", name)
        groups.setdefault((depths[name], parameter.ndim > 1 and not table), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": choices.learning_rate * choices.layer_decay ** (top - depth),
            "weight_decay": choices.weight_decay if decays else 0.0,
        }
        for (depth, decays), parameters in groups.items()
    ]


def train(
    network: PropertyNetwork, data: Labelled, valid: Labelled, kind: str, choices: Choices, progress: bool = False
) -> list[dict[str, float]]:
    """Train end to end, and leave the network with the averaged weights of the lowest valid loss.

    Returns
    -------
    list of dict
        ``epoch``, ``train_loss`` (with dropout, of the weights as they were) and ``valid_loss`` (of the averaged
        weights, on canonical SMILES) of every epoch; the first, 0, is the frozen model with the kernel head.
    """
    device = next(network.parameters()).device
    half = torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.cpu._is_avx512_bf16_supported()
    valid = replace(valid, spelled=valid.spelled.first(1))
    problem = Problem.of(network, data, kind)
    network.head.cpu()  # where closed forms are fitted
    start = closed_form(network, problem, valid, kind, choices.seed)
    history = [{"epoch": 0.0, "train_loss": float("nan"), "valid_loss": start}]
    best, kept = start, copy.deepcopy(network.state_dict())
    linear_start(network.head, problem, choices.dropout)
    network.head.to(device)
    rows = np.flatnonzero(~np.isnan(data.values).all(1) & (data.weights > 0))
    values, weights = tensors(data, device)
    lengths = np.diff(data.spelled.encoded.offsets)
    steps = choices.epochs * -(-len(rows) // choices.batch_size)
    warm = max(1, steps // 10)
    parameters: list[Tensor] = list(network.parameters())
    averaged = [parameter.detach().clone() for parameter in parameters]
    optimizer = torch.optim.AdamW(parameter_groups(network, choices), fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, (steps - step) / max(1, steps - warm))
    )
    draw = np.random.default_rng(choices.seed)
    step = 0
    with tqdm(total=steps, desc="fine-tuning", unit="step", disable=not progress) as bar:
        for epoch in range(1, choices.epochs + 1):
            network.train()
            order = draw.permutation(rows)
            k = data.spelled.spellings.shape[1]
            drawn = data.spelled.spellings[data.spelled.which[order], draw.integers(0, k, len(order))]
            total = 0.0
            for own in cut(lengths[drawn], choices.batch_size, draw):
                some = torch.from_numpy(order[own]).to(device)
                with torch.autocast(device.type, torch.bfloat16, enabled=half):  # the head's waves need float32
                    features = network.features(*batch(data.spelled, drawn[own], device))
                loss = masked_loss(network.head(features), values[some], weights[some], kind)
                loss.backward()
                nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
                step += 1
                keep = min(choices.averaging, step / (step + 10))
                with torch.no_grad():
                    torch._foreach_lerp_(averaged, parameters, 1 - keep)
                total += loss.item() * len(some)
                bar.update()
            _swap(parameters, averaged)
            valid_loss = loss_of(torch.from_numpy(run(network, valid.spelled)), valid, kind)
            history.append({"epoch": float(epoch), "train_loss": total / len(order), "valid_loss": valid_loss})
            if valid_loss < best:
                best, kept = valid_loss, copy.deepcopy(network.state_dict())
            _swap(parameters, averaged)
            bar.set_postfix(valid=f"{valid_loss:.4f}", best=f"{best:.4f}")
    network.load_state_dict(kept)
    network.eval()
    return history


def cut(lengths: Int[np.ndarray, " n"], size: int, draw: np.random.Generator) -> list[Int[np.ndarray, " b"]]:
    """Cut n molecules, which are in an order that was drawn, into batches of similar lengths, in an order drawn too.

    Molecules are sorted within :data:`POOL` batches, so that what meets in a batch is still largely drawn.
    """
    pools = np.split(np.arange(len(lengths)), range(POOL * size, len(lengths), POOL * size))
    batches = [
        part
        for pool in pools
        for by_length in [pool[np.argsort(lengths[pool], kind="stable")]]
        for part in np.split(by_length, range(size, len(pool), size))
    ]
    return [batches[i] for i in draw.permutation(len(batches))]


@torch.no_grad()
def _swap(a: Sequence[Tensor], b: Sequence[Tensor]) -> None:
    for x, y in zip(a, b, strict=True):
        held = x.clone()
        x.copy_(y)
        y.copy_(held)


@torch.inference_mode(False)
@torch.enable_grad()
def finetune(
    name_or_path: str | os.PathLike[str],
    molecules: Any,
    values: Float[np.ndarray, "n y"],
    valid: tuple[Any, Float[np.ndarray, "v y"]],
    *,
    kind: str = "regression",
    targets: Sequence[str] = ("y",),
    classes: Sequence[Any] = (),
    weights: Float[np.ndarray, " n"] | None = None,
    valid_weights: Float[np.ndarray, " v"] | None = None,
    choices: Choices | None = None,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> PropertyModel:
    """Fine-tune a checkpoint on measured values.

    Parameters
    ----------
    name_or_path
        See :func:`molcmim.checkpoint.resolve`.
    molecules
        SMILES or RDKit molecules.
    values
        (n, y), one column a target; NaN where unknown. For classes their numbers: 0 or 1, or an index of `classes`.
    valid
        Molecules and values that choose when to stop.
    kind : {"regression", "binary", "multiclass"}
        "multiclass" has one target.
    targets, classes
        Names of the targets, and labels of the classes in the order of their numbers (of several targets: 0 and 1).
    weights, valid_weights
        Of the rows, and of those of the valid part.
    choices : Choices
        Everything else.
    device
        Default: CUDA if there is one, else CPU.
    progress
        Show a bar.

    Raises
    ------
    MoleculeError
        If molecules cannot be read; names all of them, of one part.
    ValueError
        If shapes do not match, a target is nowhere known, has one value or class, or is infinite, or if the valid
        part knows no value.
    """
    choices = choices or Choices()
    if kind not in TASKS:
        raise ValueError(f"kind must be one of {', '.join(TASKS)}, got {kind!r}")
    if len(targets) > 1 and kind == "binary" and list(classes) not in NO_YES:
        raise ValueError(f"the classes of several targets are 0 and 1, got {', '.join(map(str, classes))}")
    device = checkpoint.device_of(device)
    y, held_out = _checked(values, len(targets), "values"), _checked(valid[1], len(targets), "valid")
    if np.isnan(held_out).all():
        raise ValueError(f"none of the {len(held_out)} row(s) of the valid part has a value; it chooses when to stop")
    task = Task(
        kind, list(targets), *_scaling(y, weights, kind, targets), list(classes), choices.embedding, choices.waves,
        choices.predict_spellings, choices.seed, choices.standardize,
        descriptors=smiles.rdkit2d_names() if choices.descriptors else [],
    )  # fmt: skip
    networks: list[PropertyNetwork] = []
    histories = []
    for member in range(choices.ensemble):
        model, tokenizer = checkpoint.load(name_or_path, device)
        own = replace(choices, seed=choices.seed + member)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(own.seed)
            network = PropertyNetwork(model, task.embedding, task.outputs, task.waves, choices.dropout)
            network = network.to(device, torch.float32)  # whatever the caller's default is
            if member == 0:
                speller = PropertyModel([network], tokenizer, task, {}).speller()
                parts = (
                    _labelled(speller._replace(spellings=choices.spellings), molecules, y, weights, task),
                    _labelled(speller, valid[0], held_out, valid_weights, task),
                )
            histories.append(train(network, *parts, kind, own, progress))
        networks.append(network)
    kernel = None
    if choices.descriptors:
        described = parts[0].spelled.descriptors[parts[0].spelled.which]
        kernel = KernelMachine.fit(
            described, regressed(parts[0].values, kind, task.outputs), parts[0].weights, choices.seed
        )
    facts = {
        "checkpoint": os.fspath(name_or_path),
        "weights_sha256": checkpoint.read_record(checkpoint.resolve(name_or_path))["weights_sha256"],
        "choices": asdict(choices),
        "rows": {"train": len(y), "valid": len(parts[1].values)},
        "history": histories,
    }
    counted = ~np.isnan(parts[0].values).all(1) & (parts[0].weights > 0)
    learned = np.unique(parts[0].spelled.which[counted])
    known = Learned([parts[0].spelled.smiles[i] for i in learned], parts[0].spelled.bits[learned])
    tuned = PropertyModel(networks, tokenizer, task, facts, kernel, known)
    if kind == "regression":
        which = parts[1].spelled.which
        mean, variance = (found[which] for found in tuned.mean_and_variance(parts[1].spelled))
        held_out = np.where(parts[1].weights[:, None] > 0, held_out, np.nan)
        tuned.valid_errors = np.abs(held_out - mean)
        if choices.ensemble > 1:
            spread = np.array([fit_spread(*columns) for columns in zip(held_out.T, mean.T, variance.T, strict=True)])
            tuned.task = replace(task, spread=spread.tolist())
            tuned.valid_errors = np.stack(
                [scaled_errors(*columns) for columns in zip(held_out.T, mean.T, variance.T, strict=True)], axis=1
            )
    return tuned


def judge(
    name_or_path: str | os.PathLike[str], molecules: Sequence[object], standardize: bool = False
) -> list[str | None]:
    """Say why the model of a checkpoint cannot read a molecule, None where it can; it need not be loaded for that."""
    folder = checkpoint.resolve(name_or_path)
    config = MolCMIMConfig.from_pretrained(folder)
    codec = Codec.of(load_tokenizer(folder))
    reader = Reader(codec, config.notation, config.max_position_embeddings, standardize=standardize)
    return reader.read(molecules).reasons


def _checked(values: Any, targets: int, what: str) -> Float64[np.ndarray, "n y"]:
    y = np.asarray(values, np.float64)
    y = y[:, None] if y.ndim == 1 else y
    if y.ndim != 2 or y.shape[1] != targets:
        raise ValueError(f"{what} has shape {y.shape}; expected a column for each of the {targets} target(s)")
    if bad := np.flatnonzero(np.isinf(y).any(1)).tolist():
        raise ValueError(f"{what} is infinite in row(s) {', '.join(map(str, bad[:20]))}; correct it, or leave it out")
    return y


def _scaling(
    y: Float64[np.ndarray, "n y"], weights: Any, kind: str, targets: Sequence[str]
) -> tuple[list[float], list[float]]:
    w = np.ones(len(y)) if weights is None else np.asarray(weights, np.float64)
    center, scale = [], []
    for column, target in zip(y.T, targets, strict=True):
        rows = ~np.isnan(column) & (w > 0)
        known, shares = column[rows], w[rows]
        if np.abs(known).max(initial=0) > LARGEST:
            raise ValueError(f"target {target!r} reaches {np.abs(known).max():.3g}; give it in another unit")
        if not len(known) or np.ptp(known) == 0:  # std of equal values need not be 0
            found = f"is {known[0]} in every row" if len(known) else "has no known value"
            raise ValueError(f"target {target!r} {found} of the train part; there is nothing to learn")
        mean = np.average(known, weights=shares)
        center.append(float(mean) if kind == "regression" else 0.0)
        std = float(np.sqrt(np.average((known - mean) ** 2, weights=shares)))
        scale.append(std if kind == "regression" else 1.0)
    return center, scale


def _labelled(speller: Speller, molecules: Any, y: Float64[np.ndarray, "n y"], weights: Any, task: Task) -> Labelled:
    rows = as_rows(molecules)
    if len(rows) != len(y):
        raise ValueError(f"{len(rows)} molecules, {len(y)} rows of values")
    w = np.ones(len(y)) if weights is None else np.asarray(weights, np.float64)
    if w.shape != (len(y),):
        raise ValueError(f"weights must be one number a row, {len(y)}, got shape {w.shape}")
    if len(bad := np.flatnonzero(~(np.isfinite(w) & (w >= 0)))) or not w.any():
        said = f"row {bad[0]} has {w[bad[0]]}" if len(bad) else "all are 0"
        raise ValueError(f"weights must be finite and at least 0, not all 0; {said}")
    spelled = speller.read(rows)
    smiles.refuse(rows, spelled.reasons)
    return Labelled(spelled, (y - np.array(task.center)) / np.array(task.scale), w / w.mean())
