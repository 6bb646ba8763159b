"""CUDA graphs of training steps: the launches of one shape's step, recorded once and replayed. Knows no objective.

A step of a small batch is over on a GPU before Python has launched it; replaying takes the host one call.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

Inputs = dict[str, Tensor]
Outputs = dict[str, Tensor]

SEEN_BEFORE = 3
"""Steps of a shape that are run as usual before one is recorded: all is compiled by then, and rare shapes never are."""


class Recorded(NamedTuple):
    """A step of one shape."""

    graph: torch.cuda.CUDAGraph
    """Its launches."""
    inputs: Inputs
    """What they read."""
    outputs: Outputs
    """What they write, beside the gradients; overwritten when it is replayed."""


class CapturedSteps:
    """Runs forward and backward passes, as CUDA graphs where their shape has been seen often enough.

    Parameters
    ----------
    parameters : iterable of Tensor
        What has gradients. Each keeps one buffer for them, which every step overwrites.
    step : Callable
        From a batch on a CUDA device to named scalars, adding to the gradients. It must not read a value on the host.
    """

    def __init__(self, parameters: Iterable[Tensor], step: Callable[[Inputs], Outputs]) -> None:
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.step = step
        self.gradients: list[Tensor] = []
        self.seen: Counter[tuple[tuple[str, torch.Size], ...]] = Counter()
        self.recorded: dict[tuple[tuple[str, torch.Size], ...], Recorded] = {}

    def __call__(self, inputs: Inputs) -> Outputs:
        """Take a step; the outputs are to be used before the next one."""
        self.gradients = self.gradients or [torch.zeros_like(parameter) for parameter in self.parameters]
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient  # which an optimizer's zero_grad has taken away
        shape = tuple((name, tensor.shape) for name, tensor in inputs.items())
        if shape not in self.recorded:
            self.seen[shape] += 1
            if self.seen[shape] <= SEEN_BEFORE:
                torch._foreach_zero_(self.gradients)
                return self.step(inputs)
            self.recorded[shape] = self._record(inputs)
        recorded = self.recorded[shape]
        torch._foreach_copy_(list(recorded.inputs.values()), list(inputs.values()))
        recorded.graph.replay()
        return recorded.outputs

    def _record(self, inputs: Inputs) -> Recorded:
        kept = {name: tensor.clone() for name, tensor in inputs.items()}
        graph = torch.cuda.CUDAGraph()
        # All graphs share one pool of memory: they run one at a time, and no output of one is freed.
        pool = next((recorded.graph.pool() for recorded in self.recorded.values()), None)
        with torch.cuda.graph(graph, pool=pool):
            torch._foreach_zero_(self.gradients)
            outputs = self.step(kept)
        return Recorded(graph, kept, outputs)
