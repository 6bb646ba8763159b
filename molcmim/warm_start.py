"""Where fine-tuning starts: the head fitted in closed form on frozen features, and the loss. Knows no training loop.

Shapes: n molecules, r rows, y targets, b batch, o outputs, d features, e columns of a design, s strings.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Tensor

from molcmim.property_network import Head, PropertyNetwork, gaussian_waves, run
from molcmim.spelling import Spelled

GAMMAS = (0.25, 1.0, 4.0)
"""Kernel widths tried, in units of 1 / d."""
PENALTIES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Ridge penalties tried."""
SPELLINGS = 3
"""Of each molecule that closed forms see, at most."""


@dataclass(frozen=True)
class Labelled:
    """Molecules with what was measured.

    Attributes
    ----------
    spelled : Spelled
        The molecules, all readable.
    values : ndarray
        (n, y) standardised targets, 0 or 1, or numbers of classes; NaN where unknown.
    weights : ndarray
        (n,) of the rows, at least 0.
    """

    spelled: Spelled
    values: Float64[np.ndarray, "n y"]
    weights: Float64[np.ndarray, " n"]


def masked_loss(
    outputs: Float[Tensor, "b o"], values: Float[Tensor, "b y"], weights: Float[Tensor, " b"], kind: str
) -> Float[Tensor, ""]:
    """Weighted mean of the loss over known values; a NaN takes no part and sends no gradient.

    Squared error for regression, cross entropy in nats for classes; 0 where nothing is known.
    """
    known = ~values.isnan()
    target = torch.where(known, values, 0.0)
    if kind == "regression":
        losses = (outputs - target) ** 2
    elif kind == "binary":
        losses = F.binary_cross_entropy_with_logits(outputs, target, reduction="none")
    else:
        losses = F.cross_entropy(outputs, target[:, 0].long(), reduction="none")[:, None]
    share = weights[:, None] * known
    return (losses * share).sum() / share.sum().clamp_min(1e-12)


def loss_of(outputs: Float[Tensor, "s o"], data: Labelled, kind: str) -> float:
    """Loss of the outputs of strings, averaged over each molecule's spellings."""
    averaged = outputs[torch.from_numpy(data.spelled.spellings[data.spelled.which])].mean(1)
    return masked_loss(averaged, *tensors(data, averaged.device), kind).item()


def tensors(data: Labelled, device: torch.device) -> tuple[Tensor, Tensor]:
    """Values and weights as float32."""
    return torch.from_numpy(data.values).float().to(device), torch.from_numpy(data.weights).float().to(device)


class Problem(NamedTuple):
    """A weighted least-squares problem on frozen features, on the CPU; r rows, one a spelling."""

    features: Float[Tensor, "r d"]
    """Embeddings."""
    targets: Float[Tensor, "r o"]
    """What is regressed on; 0 where unknown."""
    weights: Float[Tensor, "r o"]
    """Those of a molecule's spellings share its weight; 0 where the target is unknown."""
    molecules: int
    """n."""

    @classmethod
    def of(cls, network: PropertyNetwork, data: Labelled, kind: str) -> Problem:
        """Embed the first :data:`SPELLINGS` of each molecule."""
        spelled = data.spelled.first(SPELLINGS)
        k = spelled.spellings.shape[1]
        features = torch.from_numpy(run(network, spelled, features=True)[spelled.spellings[spelled.which].reshape(-1)])
        targets = torch.from_numpy(regressed(data.values, kind, network.head.linear.out_features)).float()
        weights = torch.from_numpy(data.weights).float()[:, None] * ~targets.isnan() / k
        return cls(
            features, targets.nan_to_num().repeat_interleave(k, 0), weights.repeat_interleave(k, 0), len(targets)
        )  # fmt: skip


def regressed(values: Float64[np.ndarray, "n y"], kind: str, outputs: int) -> Float64[np.ndarray, "n o"]:
    """Give what a least-squares fit aims at: standardised targets as they are, classes as +-2 (logits)."""
    if kind == "binary":
        return 4 * values - 2
    if kind == "multiclass":
        return np.where(np.isnan(values), np.nan, 4.0 * (values == np.arange(outputs)) - 2)
    return values


@torch.no_grad()
def closed_form(network: PropertyNetwork, problem: Problem, valid: Labelled, kind: str, seed: int) -> float:
    """Fit the head on frozen features: a kernel ridge regression, gamma and penalty chosen by valid loss.

    Returns
    -------
    float
        The valid loss.
    """
    head, X = network.eval().head, problem.features  # what `run` finds so, it leaves so
    head.center.copy_(X.mean(0))
    head.scale.copy_(X.std(0, correction=0).clamp_min(1e-6))
    valid_X = torch.from_numpy(run(network, valid.spelled, features=True))
    best: tuple[float, dict[str, Tensor]] | None = None
    for number, gamma in enumerate(GAMMAS):
        gaussian_waves(head, gamma / X.shape[1], torch.Generator().manual_seed(seed * len(GAMMAS) + number))
        for solution in _ridge(head, problem, PENALTIES):
            _install(head, solution)
            loss = loss_of(head(valid_X), valid, kind)
            if best is None or loss < best[0]:
                best = loss, copy.deepcopy(head.state_dict())
    assert best is not None
    head.load_state_dict(best[1])
    return best[0]


@torch.no_grad()
def linear_start(head: Head, problem: Problem, dropout: float) -> None:
    """Give the head what training starts from: its linear part fitted in closed form, its waves silent.

    The penalty is the one that dropout p of standardised features amounts to, n p / (1 - p) (Wager et al., NeurIPS
    2013): so the linear part starts at the optimum of the loss that training sees. A kernel machine, which fits the
    train part nearly perfectly, would leave training nothing to learn from.
    """
    d = problem.features.shape[1]
    penalty = problem.molecules * max(dropout / (1 - dropout), 1e-4) / d  # a weight is sqrt(d) times larger
    [solution] = _ridge(head.eval(), problem, (penalty,), waves=False)
    _install(head, solution)


def _design(head: Head, X: Float[Tensor, "b d"], waves: bool) -> Float[Tensor, "b e"]:
    """Columns whose inner product is z . z' / d + k(z, z') + 1."""
    z = head.standardized(X)
    columns = [z / math.sqrt(z.shape[1]), torch.ones_like(z[:, :1])]
    return torch.cat([*columns, head.wave(z)] if waves else columns, 1)


def _install(head: Head, solution: Float[Tensor, "o e"]) -> None:
    d = head.linear.in_features
    head.linear.weight.copy_(solution[:, :d])
    head.linear.bias.copy_(solution[:, d])
    head.waves.weight.copy_(solution[:, d + 1 :] if solution.shape[1] > d + 1 else torch.tensor(0.0))


def _ridge(head: Head, problem: Problem, penalties: Sequence[float], waves: bool = True) -> list[Float[Tensor, "o e"]]:
    """Weighted ridge solutions, one for each penalty; the constant is hardly penalised."""
    X, targets, weights, _ = problem
    constant = head.linear.in_features
    size = constant + 1 + waves * head.frequencies.out_features
    patterns = [tuple(column.tolist()) for column in weights.T]
    solutions = torch.zeros(len(penalties), targets.shape[1], size, dtype=torch.float32)
    for pattern in dict.fromkeys(patterns):  # targets known in the same rows share their matrix
        own = [i for i, other in enumerate(patterns) if other == pattern]
        rows = weights[:, own[0]].nonzero()[:, 0]
        w, y = weights[rows, own[0]], targets[rows][:, own]
        few = len(rows) < size
        if few:  # the smaller of two systems with the same solution (Woodbury)
            design, w, y = _design(head, X[rows], waves).double(), w.double(), y.double()
        else:
            gram, right = torch.zeros(size, size, dtype=torch.float64), torch.zeros(size, len(own), dtype=torch.float64)
            for part in torch.arange(len(rows)).split(4096):
                block = _design(head, X[rows[part]], waves)
                weighted = block * w[part, None]
                gram += weighted.T @ block
                right += weighted.T @ y[part]
        for i, penalty in enumerate(penalties):
            diagonal = torch.full((size,), penalty, dtype=torch.float64)
            diagonal[constant] = 1e-6
            if few:
                scaled = design / diagonal
                factor = torch.linalg.cholesky(scaled @ design.T + w.reciprocal().diag())
                found = scaled.T @ torch.cholesky_solve(y, factor)
            else:
                found = torch.cholesky_solve(right, torch.linalg.cholesky(gram + diagonal.diag()))
            solutions[i, own] = found.T.float()
    return list(solutions)
