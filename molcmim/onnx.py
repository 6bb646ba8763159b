"""The encoder of a checkpoint as an ONNX graph, for programs without torch. Knows no molecules."""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from molcmim import checkpoint
from molcmim.atomic import atomic_path
from molcmim.model import MolCMIMModel

OPSET = 18

logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it names packages that this graph has no use for


class _Mean(nn.Module):
    """Token ids -> mu(x)."""

    def __init__(self, model: MolCMIMModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Int[Tensor, "b t"]) -> Float[Tensor, "b z"]:
        """Encode."""
        return self.model.encode(input_ids).mu


def export(name_or_path: str | os.PathLike[str], output: str | os.PathLike[str]) -> Path:
    """Write the graph from token ids to mean embeddings.

    The graph's input is ``input_ids``, int64 (molecules, tokens), ``<s>`` and ``</s>`` included: what the checkpoint's
    own ``tokenizer.json`` makes of canonical SMILES, padded on the right with id 0. Its output, ``mean``, is float32
    (molecules, latent dimension). Its metadata name the checkpoint's weights and vocabulary by their hashes.

    Parameters
    ----------
    name_or_path
        See :func:`molcmim.checkpoint.resolve`.
    output
        File to write.

    Raises
    ------
    ImportError
        Without the extra ``onnx``.
    """
    model, _ = checkpoint.load(name_or_path, "cpu")
    record = checkpoint.read_record(checkpoint.resolve(name_or_path))
    example = torch.full((2, 12), model.config.eos_token_id)
    sizes = {"input_ids": {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}}
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's use of itself
            program = torch.onnx.export(
                _Mean(model), (example,), dynamo=True, opset_version=OPSET, verbose=False,
                input_names=["input_ids"], output_names=["mean"], dynamic_shapes=sizes,
            )  # fmt: skip
    except ImportError as error:
        raise ImportError(f'{error.name} is missing; pip install ".[onnx]" where the source lies') from error
    assert program is not None
    program.model.metadata_props.update(weights_sha256=record["weights_sha256"], vocab_hash=model.config.vocab_hash)
    with atomic_path(Path(output)) as partial:
        program.save(partial)
    return Path(output)
