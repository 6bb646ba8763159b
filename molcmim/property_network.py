"""What is fine-tuned: a pretrained model with a head, as one network, and how it is run on spelled molecules.

Shapes: b batch, t tokens, d dimension of the embedding, f waves, o outputs, s strings.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor, nn
from tqdm import tqdm

from molcmim.data import TOKENS_PER_BATCH, by_length, gather
from molcmim.featurizer import DECODED, embed
from molcmim.kernel_machine import CLIP
from molcmim.model import MolCMIMModel
from molcmim.spelling import Spelled


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
        self.register_buffer("center", torch.zeros(width, dtype=torch.float32))
        self.register_buffer("scale", torch.ones(width, dtype=torch.float32))
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
    embedding : {"mean", "informative", "both", "descriptors"}
        See :func:`molcmim.featurizer.embed`.
    outputs, waves, dropout
        Of the :class:`Head`.
    """

    def __init__(self, model: MolCMIMModel, embedding: str, outputs: int, waves: int, dropout: float = 0.0) -> None:
        super().__init__()
        needed = {"to_descriptors": embedding == "descriptors", "decoder": embedding in DECODED, "to_logvar": False}
        for part in (part for part, stays in needed.items() if not stays):
            setattr(model, part, None)
        if embedding in DECODED:
            setattr(model.decoder, "to_vocabulary", None)  # noqa: B010 - a module by its type
        self.model, self.embedding = model, embedding
        self.head = Head(model.config.embedding_dim(embedding), outputs, waves, dropout)

    def features(self, input_ids: Int[Tensor, "b t"], target_ids: Int[Tensor, "b s"]) -> Float[Tensor, "b d"]:
        """Embedding of a spelling; the decoder, where it takes part, is forced to say the canonical SMILES."""
        return embed(self.model, input_ids, None, target_ids, self.embedding)

    def forward(self, input_ids: Int[Tensor, "b t"], target_ids: Int[Tensor, "b s"]) -> Float[Tensor, "b o"]:
        """Standardised targets, or logits."""
        return self.head(self.features(input_ids, target_ids))


@torch.inference_mode()
def run(
    network: PropertyNetwork, spelled: Spelled, features: bool = False, progress: bool = False
) -> Float32[np.ndarray, "s _"]:
    """Compute outputs (or features) of all strings that spell a molecule, in evaluation mode; 0 for others."""
    device = next(network.parameters()).device
    was_training = network.training
    network.eval()
    encoded = spelled.encoded
    lengths = np.diff(encoded.offsets)
    used = np.unique(spelled.spellings)
    budget = TOKENS_PER_BATCH.get(device.type, TOKENS_PER_BATCH["cpu"])
    width = len(network.head.center) if features else network.head.linear.out_features
    out = np.zeros((len(lengths), width), np.float32)
    with tqdm(total=len(used), desc="predicting", unit=" spellings", disable=not progress) as bar:
        for some in by_length(lengths[used], budget):
            inputs = batch(spelled, rows := used[some], device)
            out[rows] = (network.features(*inputs) if features else network(*inputs)).cpu().numpy()
            bar.update(len(rows))
    network.train(was_training)
    return out


def batch(spelled: Spelled, rows: Int[np.ndarray, " b"], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids of strings, and of the canonical SMILES of what they spell."""
    encoded = spelled.encoded
    ids, _ = gather(encoded.ids, encoded.offsets, rows)
    target, _ = gather(encoded.ids, encoded.offsets, spelled.spellings[spelled.owner[rows], 0])
    return torch.from_numpy(ids).to(device), torch.from_numpy(target).to(device)


def gaussian_waves(head: Head, gamma: float, generator: torch.Generator) -> None:
    """Draw the head's frequencies and phases for the kernel exp(-gamma ||z - z'||^2)."""
    weight, bias = head.frequencies.weight, head.frequencies.bias
    with torch.no_grad():
        weight.copy_(torch.randn(weight.shape, generator=generator) * math.sqrt(2 * gamma))
        bias.copy_(torch.rand(bias.shape, generator=generator) * 2 * math.pi)
