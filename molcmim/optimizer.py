"""Muon for the matrices inside the network, AdamW for everything else, as one optimizer. Knows no schedule.

Shapes: n matrices, r rows, c columns.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import AdamW

from molcmim.model import MolCMIMModel

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of Jordan et al.'s quintic iteration: steepest at 0, and leaving singular values near 1, not at it."""
BETAS = (0.9, 0.98)
"""Of AdamW."""
ITERATIONS = 5
MOMENTUM = 0.95
RMS = 0.2
"""Root mean square of an AdamW step, in units of its learning rate, that Muon's is scaled to (arXiv 2502.16982)."""


class MuonAdamW(torch.optim.Optimizer):
    """Muon and torch's AdamW behind one interface, so that schedules and checkpoints see one optimizer.

    Muon (Jordan et al., 2024) orthogonalises the momentum of each weight matrix; its step is scaled to the root mean
    square that AdamW's has (Liu et al., arXiv 2502.16982), so that both share one learning rate. It does what
    ``torch.optim.Muon(adjust_lr_fn="match_rms_adamw")`` does, for all matrices of one shape together: one by one, the
    launches of a few thousand small products take a GPU longer than a third of the whole step.

    Parameters
    ----------
    matrices, others : list of Tensor
        What Muon and what AdamW update; weight decay applies to `matrices` only.
    lr, weight_decay : float
        Of both.
    """

    def __init__(
        self,
        matrices: list[Tensor],
        others: list[Tensor],
        lr: float,
        weight_decay: float,
    ) -> None:
        self._adamw = AdamW(others, lr=lr, weight_decay=0.0, betas=BETAS, fused=True)
        muon = {"params": matrices, "weight_decay": weight_decay}
        super().__init__([muon, *self._adamw.param_groups], {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step with each."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        muon, adamw = self.param_groups
        self._step_matrices(muon)
        # Schedules write into our groups, and loading a checkpoint replaces groups and state: hand both on each time.
        self._adamw.param_groups, self._adamw.state = [adamw], self.state
        self._adamw.step()
        return loss

    def _step_matrices(self, group: dict[str, Any]) -> None:
        matrices = [matrix for matrix in group["params"] if matrix.grad is not None]
        if not matrices:
            return
        for matrix in matrices:
            if not self.state[matrix]:
                self.state[matrix]["momentum_buffer"] = torch.zeros_like(matrix)
        gradients = [matrix.grad for matrix in matrices]
        momenta = [self.state[matrix]["momentum_buffer"] for matrix in matrices]
        torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
        updates = torch._foreach_lerp(gradients, momenta, MOMENTUM)  # Nesterov's
        torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
        alike: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for matrix, update in zip(matrices, updates, strict=True):
            wide = matrix.shape[0] <= matrix.shape[1]
            pair = (matrix, update) if wide else (matrix.T, update.T)
            alike[tuple(pair[0].shape)].append(pair)
        for (_, columns), pairs in alike.items():
            steps = orthogonalize(torch.stack([update for _, update in pairs])).to(pairs[0][0].dtype)
            size = -group["lr"] * RMS * math.sqrt(columns)
            torch._foreach_add_([matrix for matrix, _ in pairs], list(steps.unbind()), alpha=size)


def orthogonalize(x: Float[Tensor, "n r c"]) -> Float[Tensor, "n r c"]:
    """Bring the singular values of wide matrices near 1 (0.7 to 1.2) by Jordan et al.'s Newton-Schulz iteration.

    In bfloat16 on a GPU, whose matrix units want it, and in float32 on a CPU, where it is faster.
    """
    a, b, c = NEWTON_SCHULZ
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=1e-7)
    x = x.bfloat16() if x.is_cuda else x.float()
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def build_optimizer(model: MolCMIMModel, lr: float, weight_decay: float) -> MuonAdamW:
    """Give Muon every weight matrix between hidden vectors, AdamW embeddings, output heads, norms and biases."""
    outer = (model.decoder.to_vocabulary, model.to_descriptors)
    matrices: list[Tensor] = [
        module.weight for module in model.modules() if isinstance(module, nn.Linear) and module not in outer
    ]
    inner = {id(parameter) for parameter in matrices}
    others: list[Tensor] = [parameter for parameter in model.parameters() if id(parameter) not in inner]
    return MuonAdamW(matrices, others, lr, weight_decay)
