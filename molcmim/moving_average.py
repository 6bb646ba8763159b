"""What MINC averages over training: an encoder, and Lambda = E[f f']. Knows no objective and no trainer.

Shapes: b batch, t tokens, n batch over all ranks, z latent dimension.
"""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from molcmim.model import MolCMIMModel


class MovingAverage(nn.Module):
    """A moving-average encoder and a moving second moment of features; neither has a gradient.

    Parameters
    ----------
    model : MolCMIMModel
        Whose encoder is averaged; it is copied, on the device that it is on.
    encoder_decay, moment_decay : float
        What one step leaves of the average before it, in [0, 1). 0: the average is the newest value.
    """

    moment: Tensor
    weight: Tensor

    def __init__(self, model: MolCMIMModel, encoder_decay: float, moment_decay: float) -> None:
        super().__init__()
        online = nn.ModuleList([model.encoder, model.to_mu])
        self.average = AveragedModel(online, multi_avg_fn=get_ema_multi_avg_fn(encoder_decay)).eval()
        self.average.requires_grad_(False)
        self.moment_decay = moment_decay
        dim = model.config.latent_dim
        self.register_buffer("moment", torch.zeros(dim, dim, device=model.device))
        self.register_buffer("weight", torch.zeros((), device=model.device))

    @torch.no_grad()
    def features(
        self, input_ids: Int[Tensor, "b t"], attention_mask: Int[Tensor, "b t"] | Bool[Tensor, "b t"]
    ) -> Float[Tensor, "b z"]:
        """Posterior means by the averaged encoder."""
        encoder, to_mu = self.average.module.children()
        return to_mu(encoder(input_ids, attention_mask).flatten(1)).float()

    @torch.no_grad()
    def second_moment(self, features: Float[Tensor, "n z"]) -> Float[Tensor, "z z"]:
        """Take a batch's features, those of all ranks, into Lambda and return it.

        Until the past fills the average, it is the weighted mean of what there has been (as in Adam).
        """
        with torch.autocast(features.device.type, enabled=False):
            features = features.detach().float()
            moment = features.T @ features / len(features)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(moment)
            moment /= dist.get_world_size()
        self.moment.lerp_(moment, 1 - self.moment_decay)
        self.weight.lerp_(torch.ones_like(self.weight), 1 - self.moment_decay)
        return self.moment / self.weight

    def step(self, model: MolCMIMModel) -> None:
        """Move the average towards the encoder as it is now; the first step takes it whole."""
        self.average.update_parameters(nn.ModuleList([model.encoder, model.to_mu]))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all state as safetensors."""
        save_file({name: value.contiguous() for name, value in self.state_dict().items()}, path)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Read what :meth:`save` wrote."""
        self.load_state_dict(load_file(path))
