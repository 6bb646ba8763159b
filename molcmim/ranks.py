"""Tensors of all processes of a data-parallel run, with gradients, and its end. Knows nothing of what they mean.

Shapes: b batch, n batch over all ranks, z features.
"""

from __future__ import annotations

import atexit
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


def leave_at_exit() -> None:
    """Have this process leave its group before Python ends: one that does not is aborted by its threads now and then.

    To be called when training has succeeded: a rank that left while others still gather would make them wait. What
    aborts without it is told in https://github.com/pytorch/pytorch/issues/190489.
    """
    atexit.register(_leave)  # several times do no harm


def _leave() -> None:
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


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
