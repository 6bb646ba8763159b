"""Muon for the matrices inside the network, AdamW for everything else, as one optimizer. Knows no schedule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon

from molcmim.model import MolCMIMModel


class MuonAdamW(torch.optim.Optimizer):
    """Torch's Muon and AdamW behind one interface, so that schedules and checkpoints see one optimizer.

    Muon (Jordan et al., 2024) orthogonalises the momentum of each weight matrix; its step is scaled to the root mean
    square that AdamW's has (Liu et al., arXiv 2502.16982), so that both share one learning rate.

    Parameters
    ----------
    matrices, others : list of Tensor
        What Muon and what AdamW update; weight decay applies to `matrices` only.
    lr, weight_decay : float
        Of both.
    betas : tuple of float
        Of AdamW.
    """

    def __init__(
        self,
        matrices: list[Tensor],
        others: list[Tensor],
        lr: float,
        weight_decay: float,
        betas: tuple[float, float],
    ) -> None:
        self._muon = Muon(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        self._adamw = AdamW(others, lr=lr, weight_decay=0.0, betas=betas, fused=True)
        super().__init__([*self._muon.param_groups, *self._adamw.param_groups], {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step with each."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        # Schedules write into our groups, and loading a checkpoint replaces groups and state: hand both on each time.
        for inner, group in zip((self._muon, self._adamw), self.param_groups, strict=True):
            inner.param_groups, inner.state = [group], self.state
            inner.step()
        return loss


def build_optimizer(
    model: MolCMIMModel, lr: float, weight_decay: float, betas: tuple[float, float] = (0.9, 0.98)
) -> MuonAdamW:
    """Give Muon every weight matrix between hidden vectors, AdamW embeddings, output heads, norms and biases."""
    outer = (model.decoder.to_vocabulary, model.to_descriptors)
    matrices: list[Tensor] = [
        module.weight for module in model.modules() if isinstance(module, nn.Linear) and module not in outer
    ]
    inner = {id(parameter) for parameter in matrices}
    others: list[Tensor] = [parameter for parameter in model.parameters() if id(parameter) not in inner]
    return MuonAdamW(matrices, others, lr, weight_decay, betas)
