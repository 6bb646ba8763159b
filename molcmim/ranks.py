"""Tensors of all processes of a data-parallel run, with gradients. Knows nothing of what they mean.

Shapes: b batch, n batch over all ranks, z features.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor


def gather_ranks(z: Float[Tensor, "b z"]) -> tuple[Float[Tensor, "n z"] | None, int]:
    """Codes of all ranks, with gradients, and where this rank's begin; (None, 0) outside data parallelism.

    The gradient that reaches another rank's code is summed over ranks on the way back, so that with the mean over
    ranks that data parallelism takes, R ranks of B molecules train as one batch of R * B does.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return None, 0
    return _Gather.apply(z), dist.get_rank() * len(z)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ranks = [torch.empty_like(z) for _ in range(dist.get_world_size())]
        dist.all_gather(ranks, z.contiguous())
        return torch.cat(ranks)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].contiguous()
        dist.all_reduce(gradient)
        return gradient.chunk(dist.get_world_size())[dist.get_rank()]
