"""Checkpoint folders: find, verify, load, write, describe. Knows no molecules and no training.

A checkpoint is a folder with ``config.json``, ``model.safetensors`` (in shards, if it is large) and the tokenizer's
files, as transformers writes them, and ``checkpoint.json``: format version, hashes of weights and vocabulary, facts
about the training.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import transformers
from huggingface_hub import save_torch_state_dict
from transformers import PreTrainedTokenizerFast

import molcmim
from molcmim import folders
from molcmim.atomic import atomic_folder
from molcmim.config import MolCMIMConfig
from molcmim.data import DescriptorScale
from molcmim.model import MolCMIMModel
from molcmim.tokenizer import load_tokenizer, vocab_hash

FORMAT_VERSION = 2
RECORD, WEIGHTS, CONFIG = "checkpoint.json", "model.safetensors", "config.json"
SETTINGS = (CONFIG, "tokenizer.json", "tokenizer_config.json")
"""Files of a checkpoint, or of a fine-tuned model, that say how its weights are meant."""
OWN = (RECORD, CONFIG, "model*.safetensors*", "tokenizer*.json", "special_tokens_map.json")
"""Patterns of a checkpoint's files."""
SHARD_BYTES = 16_500_000
"""Largest file of weights: no host of repositories refuses one of this size."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""What weights may be stored as; they are always loaded as float32."""


def resolve(name_or_path: str | os.PathLike[str]) -> Path:
    """Find a checkpoint's folder by path or name; :func:`molcmim.folders.find` says where, and raises."""
    try:
        return folders.find("checkpoints", name_or_path, RECORD)
    except FileNotFoundError as error:
        if not (Path(name_or_path) / CONFIG).is_file():
            raise
        raise FileNotFoundError(
            f"{name_or_path} has no {RECORD}, by which a checkpoint is verified: molcmim.checkpoint.write writes a "
            "model and its tokenizer with it"
        ) from error


def device_of(wanted: str | torch.device | None) -> torch.device:
    """Find the device asked for, by default CUDA if there is one, else the CPU; ValueError if it is not here."""
    try:
        device = torch.device(wanted or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError:
        raise ValueError(f"device must be one that torch knows, such as cpu or cuda:0, got {wanted!r}") from None
    if device.type == "cuda" and (device.index or 0) >= (found := torch.cuda.device_count()):
        raise ValueError(f"no device {wanted}: torch finds {found} CUDA device(s) here; use cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"no device {wanted} here ({error}); use cpu") from None
    return device


def load(
    name_or_path: str | os.PathLike[str], device: str | torch.device | None = None
) -> tuple[MolCMIMModel, PreTrainedTokenizerFast]:
    """Load a checkpoint, verified.

    Parameters
    ----------
    name_or_path
        See :func:`resolve`.
    device
        Where the model goes; default CPU.

    Returns
    -------
    model : MolCMIMModel
        In evaluation mode, float32.
    tokenizer : PreTrainedTokenizerFast
        Its own.

    Raises
    ------
    FileNotFoundError
        If there is no such checkpoint, or a file is missing.
    ValueError
        If the format is newer than this version, a file is damaged, or weights, configuration and tokenizer
        do not belong together.
    """
    folder = resolve(name_or_path)
    record = read_record(folder)
    advice = "copy or download the checkpoint again"
    folders.verify(folder, {CONFIG: record["files"][CONFIG], **_weights(record)}, RECORD, advice)
    config = MolCMIMConfig.from_pretrained(folder)
    tokenizer = load_tokenizer(folder)
    if vocab_hash(tokenizer) != config.vocab_hash:
        raise ValueError(
            f"the tokenizer in {folder} has another vocabulary ({vocab_hash(tokenizer)[:12]}...) than the "
            f"model was trained with ({config.vocab_hash[:12]}...); {advice}"
        )
    folders.verify(folder, record["files"], RECORD, advice)
    with torch.device("meta"):  # no time for initial weights that are overwritten
        model = MolCMIMModel(config)
    weights = {
        name: weight.float()
        for file in _weights(record)
        for name, weight in safetensors.torch.load_file(folder / file).items()
    }
    model.load_state_dict(weights, assign=True)
    return torch.nn.Module.to(model, device or "cpu").eval(), tokenizer


def write(
    model: MolCMIMModel,
    tokenizer: PreTrainedTokenizerFast,
    folder: str | os.PathLike[str],
    facts: Mapping[str, Any],
    dtype: str = "float32",
) -> Path:
    """Write a complete checkpoint; the folder appears at once, and takes the place of one that is there.

    Parameters
    ----------
    model, tokenizer
        They must belong together.
    folder
        Where to.
    facts
        What is to be known about the training; kept as JSON.
    dtype : {"float32", "bfloat16"}
        Type of the stored weights; bfloat16 halves the file and rounds them to 8 bits.

    Raises
    ------
    ValueError
        If the model was built for another vocabulary, or for an unknown `dtype`.
    FileExistsError
        If `folder` exists and is something else.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    if vocab_hash(tokenizer) != model.config.vocab_hash:
        raise ValueError("the tokenizer has another vocabulary than the model was built for")
    folder = Path(folder)
    with atomic_folder(folder, CONFIG, "checkpoint", OWN) as unfinished:
        model.config.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
        weights = {
            name: weight.detach().to("cpu", DTYPES[dtype]).contiguous() for name, weight in model.state_dict().items()
        }
        save_torch_state_dict(weights, unfinished, max_shard_size=SHARD_BYTES)
        files_of_weights = sorted(unfinished.glob("model*.safetensors"))
        shards = {path.name: folders.sha256(path) for path in files_of_weights} if files_of_weights[1:] else {}
        record = {
            "format_version": FORMAT_VERSION,
            "versions": versions(),
            "weights_sha256": folders.sha256(*files_of_weights),
            **({"shards": shards} if shards else {}),
            "vocab_hash": model.config.vocab_hash,
            "files": {name: folders.sha256(unfinished / name) for name in SETTINGS},
            "dtype": dtype,
            "training": dict(facts),
        }
        (unfinished / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return folder


def read_record(folder: Path) -> dict[str, Any]:
    """Read ``checkpoint.json`` and check that all files are there and that this version can read them."""
    _require(folder, RECORD)
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        found = int(record["format_version"])
        needed = [*_weights(record), *record["files"]] if found == FORMAT_VERSION else []
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / RECORD} is damaged ({error!r}); copy or download the checkpoint again") from None
    if found > FORMAT_VERSION:
        raise ValueError(
            f"{folder} has checkpoint format {found}, molcmim {molcmim.__version__} reads up to {FORMAT_VERSION}; "
            "upgrade molcmim"
        )
    if found < FORMAT_VERSION:
        raise ValueError(f"{folder} has checkpoint format {found}, now {FORMAT_VERSION}; write it again")
    _require(folder, *needed)
    return record


def descriptor_scale(name_or_path: str | os.PathLike[str]) -> DescriptorScale | None:
    """Say which descriptors a checkpoint tells from a code, in order, and in what units; None if it tells none."""
    described = read_record(resolve(name_or_path))["training"].get("descriptors")
    return DescriptorScale(**described) if described else None


def descriptor_columns(name_or_path: str | os.PathLike[str]) -> list[str]:
    """Names of the columns of a checkpoint's descriptors embedding."""
    scale = descriptor_scale(name_or_path)
    return [f"molcmim_{name}" for name in scale.names] if scale else []


def _require(folder: Path, *names: str) -> None:
    for name in names:
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} is missing; copy or download the checkpoint again")


def _weights(record: Mapping[str, Any]) -> dict[str, str]:
    """Files of a checkpoint's weights, and the SHA-256 of each."""
    return record.get("shards") or {WEIGHTS: record["weights_sha256"]}


def describe(name_or_path: str | os.PathLike[str]) -> dict[str, Any]:
    """Say what a checkpoint is: path, size, dimensions, hashes, training facts; JSON-ready."""
    folder = resolve(name_or_path)
    record = read_record(folder)
    config = MolCMIMConfig.from_pretrained(folder)
    parameters = 0
    for file in _weights(record):
        try:
            with safetensors.safe_open(folder / file, "pt") as weights:
                sizes = [weights.get_slice(name).get_shape() for name in weights.keys()]  # noqa: SIM118 - no mapping
        except safetensors.SafetensorError as error:
            raise ValueError(f"{folder / file} is damaged ({error}); copy or download the checkpoint again") from None
        parameters += sum(int(torch.Size(size).numel()) for size in sizes)
    return {
        "path": str(folder),
        "parameters": parameters,
        "bytes": sum((folder / file).stat().st_size for file in _weights(record)),
        "embedding_dims": config.embedding_dims,
        "max_length": config.max_position_embeddings,
        "architecture": {
            name: getattr(config, name)
            for name in ("notation", "vocab_size", "width", "heads", "latent_dim", "num_latents",
                         "memory_tokens", "encoder_layers", "decoder_layers", "stem_kernel", "posterior",
                         "num_descriptors")
        },
        **record,
    }  # fmt: skip


def as_table(description: Mapping[str, Any], indent: str = "") -> str:
    """Lay out what :func:`describe` returns for reading: a line a fact, groups indented."""
    lines = []
    for name, value in description.items():
        label = f"{indent}{name.replace('_', ' ')}"
        if isinstance(value, Mapping) and value:
            lines += [label, as_table(value, indent + "  ")]
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            facts = ("  ".join(f"{name.replace('_', ' ')} {fact}" for name, fact in entry.items()) for entry in value)
            lines += [label, *(f"{indent}  {line}" for line in facts)]
        elif isinstance(value, list) and len(value) > 8:
            lines.append(f"{label:<26}{value[0]}, {value[1]}, ... ({len(value)}; all with --json)")
        else:
            shown = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value
            lines.append(f"{label:<26}{shown}")
    return "\n".join(lines)


def versions() -> dict[str, str]:
    """Versions of what shapes the weights and what is computed with them."""
    return {
        "molcmim": molcmim.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }
