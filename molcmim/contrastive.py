"""Two-view objectives: features of two spellings of each molecule -> named parts. Knows no network and no decoder.

Every part is a (b,) tensor that training maximises: the loss is the negative batch mean of their sum. A part that is a
statistic of the whole batch, not a sum over molecules, has the same value in every row. Run under
:class:`molcmim.objectives.Objective`, which turns autocast off: all arithmetic is float32.

Shapes: b batch, n batch over all ranks, z feature dimension.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Parts = dict[str, Tensor]

VICREG_INVARIANCE, VICREG_VARIANCE, VICREG_COVARIANCE = 25.0, 25.0, 1.0
"""lambda, mu and nu of arXiv 2105.04906, section 4.2."""
VICREG_EPSILON = 1e-4
BARLOW_REDUNDANCY = 5e-3
"""lambda of arXiv 2103.03230, section 4."""


@dataclass(frozen=True)
class Views:
    """Features f(x) of two views of each molecule.

    Attributes
    ----------
    first, second : Tensor
        (b, z) features f(x_i) and f(x_i+).
    all_first, all_second : Tensor or None
        (n, z) those of all ranks, with gradients; None if `first` and `second` are all there is.
    start : int
        Index in `all_first` of this rank's first row.
    target_first, target_second : Tensor or None
        (b, z) features from the moving-average encoder, without gradient; only :func:`minc` needs them.
    second_moment : Tensor or None
        (z, z) Lambda, the moving average of E[f f'], without gradient; only :func:`minc` needs it.
    """

    first: Float[Tensor, "b z"]
    second: Float[Tensor, "b z"]
    all_first: Float[Tensor, "n z"] | None = None
    all_second: Float[Tensor, "n z"] | None = None
    start: int = 0
    target_first: Float[Tensor, "b z"] | None = None
    target_second: Float[Tensor, "b z"] | None = None
    second_moment: Float[Tensor, "z z"] | None = None

    @property
    def own(self) -> tuple[Float[Tensor, "b z"], Float[Tensor, "b z"]]:
        """Features of this rank in float32."""
        return self.first.float(), self.second.float()

    @property
    def all(self) -> tuple[Float[Tensor, "n z"], Float[Tensor, "n z"]]:
        """Features of all ranks in float32."""
        first, second = self.own
        return (
            first if self.all_first is None else self.all_first.float(),
            second if self.all_second is None else self.all_second.float(),
        )


def info_nce(views: Views, temperature: float) -> Parts:
    r"""InfoNCE of two views (arXiv 1807.03748), as SimCLR's NT-Xent (Chen et al., arXiv 2002.05709, Eq. 1).

    With all 2n features of both views u_1 .. u_2n, of which u_j is the other view of u_i,

        log p(j | i) = cos(u_i, u_j) / tau - log sum_{k != i} exp(cos(u_i, u_k) / tau),

    averaged over the two directions of each pair; the sum holds the positive and 2n - 2 negatives. `temperature` is
    tau.
    """
    both = F.normalize(torch.cat(views.all), dim=-1)
    n = len(both) // 2
    rows = torch.arange(views.start, views.start + len(views.first), device=both.device)
    log_p = torch.zeros_like(both[:1, 0])
    for features, own, other in zip(views.own, (rows, n + rows), (n + rows, rows), strict=True):
        logits = F.normalize(features, dim=-1) @ both.T / temperature
        logits = logits.scatter(1, own[:, None], -torch.inf)
        log_p = log_p - 0.5 * F.cross_entropy(logits, other, reduction="none")
    return {"log_p_view": log_p}


def spectral(views: Views) -> Parts:
    r"""Spectral contrastive loss (HaoChen et al., arXiv 2106.04156, Eq. 6; its negative).

    2 f(x_i)'f(x_i+) - mean_{j != i} (f(x_i)'f(x_j+))^2, without normalisation of f. B = 1: no second part.
    """
    first, all_second = views.own[0], views.all[1]
    products = first @ all_second.T
    rows = torch.arange(views.start, views.start + len(first), device=first.device)[:, None]
    positive = products.gather(1, rows)
    others = (products**2).scatter(1, rows, 0.0).sum(1) / max(len(all_second) - 1, 1)
    return {"alignment": 2.0 * positive[:, 0], "repulsion": -others}


def minc(views: Views) -> Parts:
    r"""MINC, the non-contrastive form of the spectral loss (Guo et al., arXiv 2504.16667).

    2 f(x)'t(x+) - f(x)' Lambda f(x), averaged over the two directions. E_x'[(f(x)'f(x'))^2] = f(x)' Lambda f(x) with
    Lambda = E[f f'], so that no pair is compared. t comes from a moving-average encoder, and Lambda is a moving average
    too; neither has a gradient. Where both averages are their newest values, the gradient is half the spectral loss's
    (whose second part then counts j = i as well), because there each factor of a product has a gradient of its own.

    Raises
    ------
    ValueError
        If `views` lacks the targets or Lambda.
    """
    if views.target_first is None or views.target_second is None or views.second_moment is None:
        raise ValueError("minc needs target_first, target_second and second_moment, see molcmim.moving_average")
    first, second = views.own
    targets = views.target_first.detach().float(), views.target_second.detach().float()
    moment = views.second_moment.detach().float()
    alignment = (first * targets[1]).sum(1) + (second * targets[0]).sum(1)
    energy = ((first @ moment) * first).sum(1) + ((second @ moment) * second).sum(1)
    return {"alignment": alignment, "repulsion": -0.5 * energy}


def vicreg(views: Views, per_dimension: bool) -> Parts:
    r"""VICReg (Bardes et al., arXiv 2105.04906, Eqs. 1-6; its negative).

    -(lambda |f - f+|^2 + mu [v(F) + v(F+)] + nu [c(F) + c(F+)]) with v(F) = 1/D sum_j max(0, 1 - sqrt(Var_j + eps)) and
    c(F) = 1/D sum_{i != j} Cov_ij^2 over the batch; lambda = mu = 25, nu = 1. `per_dimension` divides the first term
    by D, as the authors' program does and their Eq. 5 does not.
    """
    first, second = views.own
    distance = (first - second) ** 2
    invariance = distance.mean(1) if per_dimension else distance.sum(1)
    variance = covariance = torch.zeros_like(invariance)
    for features in views.all:
        centred = features - features.mean(0)
        moment = centred.T @ centred / max(len(centred) - 1, 1)
        spread = moment.diagonal()
        variance = variance + F.relu(1.0 - (spread + VICREG_EPSILON).sqrt()).mean()
        covariance = covariance + ((moment**2).sum() - (spread**2).sum()) / len(moment)
    return {
        "invariance": -VICREG_INVARIANCE * invariance,
        "variance": -VICREG_VARIANCE * variance,
        "covariance": -VICREG_COVARIANCE * covariance,
    }


def barlow_twins(views: Views) -> Parts:
    r"""Barlow Twins (Zbontar et al., arXiv 2103.03230, Eqs. 1-2; its negative).

    -(sum_i (1 - C_ii)^2 + lambda sum_{i != j} C_ij^2), C the cross-correlation over the batch between the dimensions of
    the two views, lambda = 5e-3. A dimension that does not vary (B = 1) correlates with nothing.
    """
    first, second = (_standardised(features) for features in views.all)
    correlation = first.T @ second
    own = correlation.diagonal()
    invariance = ((1.0 - own) ** 2).sum()
    redundancy = (correlation**2).sum() - (own**2).sum()
    rows = torch.zeros_like(views.first[:, 0], dtype=torch.float32)
    return {"invariance": rows - invariance, "redundancy": rows - BARLOW_REDUNDANCY * redundancy}


def _standardised(features: Float[Tensor, "n z"]) -> Float[Tensor, "n z"]:
    """Columns of mean 0 and norm 1."""
    return F.normalize(features - features.mean(0), dim=0, eps=1e-6 * math.sqrt(len(features)))
