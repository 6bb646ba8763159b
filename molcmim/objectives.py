"""Objectives: pure functions of tensors -> named parts. Knows no network, no molecules, no trainer.

Every part is a (b,) tensor, in nats where it is a log-density, that training maximises: the loss is the negative batch
mean of their sum. All arithmetic is float32, whatever precision the tensors come in. Two-view objectives are in
:mod:`molcmim.contrastive`; the registry of all, with what each needs, is :data:`OBJECTIVES`.

Shapes: b batch, n batch over all ranks, z latent dimension, p descriptors.

Sources: MIM (arXiv 1910.03175), MolMIM (2208.09016), cMIM (2509.21511), Contrastive KERMT (2606.11508).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from molcmim.contrastive import Parts, Views, barlow_twins, info_nce, minc, spectral, vicreg
from molcmim.latent import LOG_2PI, Posterior, log_prior


@dataclass(frozen=True)
class Sample:
    """What an objective sees of a batch.

    Attributes
    ----------
    log_px : Tensor or None
        (b,) log p(x|z), summed over tokens (or pixels); None without a decoder.
    num_tokens : Tensor or None
        (b,) how many terms that sum has.
    z : Tensor
        (b, z) latent codes.
    posterior : Posterior
        q(z|x) that z was drawn from.
    all_z : Tensor or None
        (n, z) codes of all ranks; None if `z` is all there is.
    first : int
        Index in `all_z` of this rank's first row.
    views : Views or None
        Features of two views, for objectives that compare them.
    """

    log_px: Float[Tensor, " b"] | None
    num_tokens: Int[Tensor, " b"] | None
    z: Float[Tensor, "b z"]
    posterior: Posterior
    all_z: Float[Tensor, "n z"] | None = None
    first: int = 0
    views: Views | None = None


@dataclass(frozen=True)
class Settings:
    """Choices that objectives share.

    Attributes
    ----------
    temperature : float
        tau, above 0.
    reduction : {"mean", "sum"}
        "sum" is the equations as written; "mean" divides log p(x|z) by its token count, and log q(z|x), log P(z) and
        the KL divergence by the latent dimension, as NVIDIA's released configurations do. Contrastive terms are the
        same in both.
    positive : {"z", "mu"}
        What a code is compared with in the positive of the contrastive term: itself, as the paper has it, or the mean
        of its posterior.
    beta : float
        Weight of the KL divergence in VAE and cVAE, at least 0.
    """

    temperature: float = 1.0
    reduction: str = "mean"
    positive: str = "z"
    beta: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}")
        if not 0 <= self.beta < math.inf:
            raise ValueError(f"beta must be at least 0 and finite, got {self.beta}")
        if self.reduction not in ("mean", "sum"):
            raise ValueError(f"reduction must be 'mean' or 'sum', got {self.reduction!r}")
        if self.positive not in ("z", "mu"):
            raise ValueError(f"positive must be 'z' or 'mu', got {self.positive!r}")


def log_p_match(
    z: Float[Tensor, "b z"],
    temperature: float = 1.0,
    denominator: str = "mean",
    all_z: Float[Tensor, "n z"] | None = None,
    first: int = 0,
    mu: Float[Tensor, "b z"] | None = None,
) -> Float[Tensor, " b"]:
    r"""Log-probability that each molecule and its own code belong together, log p_{k=1}(x_i, z_i).

    With g_ij = exp(cos(z_i, z_j) / tau), it is log g_ii - log(g_ii + mean_{j != i} g_ij) (cMIM, arXiv 2509.21511,
    Eq. 9). It is InfoNCE with the positive logit raised by log(n - 1). Since g_ii = e^(1/tau) is constant, the gradient
    reaches z through the negatives alone: d log p_i / d cos_ij = -(1 - p_i) pi_ij / tau, with the weights
    pi_ij = g_ij / sum_{l != i} g_il.

    Parameters
    ----------
    z : Tensor
        (b, z) codes.
    temperature : float
        tau.
    denominator : {"mean", "sum"}
        How negatives are pooled; "sum" is the paper's ablation cMIM-sum, and InfoNCE of z with itself.
    all_z : Tensor, optional
        (n, z) codes that serve as negatives, `z` among them; default `z`.
    first : int
        Index of ``z[0]`` in `all_z`.
    mu : Tensor, optional
        (b, z) means of the posteriors; if given, the positive is cos(mu_i, z_i) instead of cos(z_i, z_i) = 1.

    Returns
    -------
    Tensor
        (b,) at most 0; exactly 0 where there is no negative (n = 1).

    Raises
    ------
    ValueError
        If `denominator` is neither "mean" nor "sum".
    """
    if denominator not in ("mean", "sum"):
        raise ValueError(f"denominator must be 'mean' or 'sum', got {denominator!r}")
    with torch.autocast(z.device.type, enabled=False):
        z = F.normalize(z.float(), dim=-1)
        others = z if all_z is None else F.normalize(all_z.float(), dim=-1)
        num_negatives = len(others) - 1
        if num_negatives == 0:
            return 0.0 * z.sum(1)
        logits = z @ others.T / temperature
        own = torch.arange(first, first + len(z), device=z.device)[:, None]
        log_negatives = logits.scatter(1, own, -torch.inf).logsumexp(1)
        if denominator == "mean":
            log_negatives = log_negatives - math.log(num_negatives)
        positive = 1.0 if mu is None else (F.normalize(mu.float(), dim=-1) * z).sum(-1)
        return -F.softplus(log_negatives - positive / temperature)


def log_p_descriptors(predicted: Float[Tensor, "b p"], descriptors: Float[Tensor, "b p"]) -> Float[Tensor, " b"]:
    """Chemistry factor log p(d|z): a unit-variance Gaussian over standardised descriptors (after arXiv 2606.11508)."""
    return -0.5 * (LOG_2PI + (predicted.float() - descriptors.float()) ** 2).sum(-1)


def a_mim(sample: Sample, settings: Settings) -> Parts:
    """A-MIM: log p(x|z) + 1/2 (log q(z|x) + log P(z)) with z ~ q(z|x) (arXiv 1910.03175; MolMIM, 2208.09016)."""
    log_qz = sample.posterior.log_prob(sample.z)
    log_pz = log_prior(sample.z)
    return {
        "log_px": _per_token(sample, settings),
        "half_log_qz": 0.5 * _per_dimension(log_qz, sample, settings),
        "half_log_pz": 0.5 * _per_dimension(log_pz, sample, settings),
    }


def c_mim(sample: Sample, settings: Settings, denominator: str = "mean") -> Parts:
    """cMIM: A-MIM + log p_{k=1}(x, z) (arXiv 2509.21511, Eq. 9)."""
    return {**a_mim(sample, settings), "log_p_match": _log_p_match(sample, settings, denominator)}


def c_mim_sum(sample: Sample, settings: Settings) -> Parts:
    """cMIM-sum, an ablation: the sum over negatives in the place of their mean (arXiv 2509.21511)."""
    return c_mim(sample, settings, "sum")


def ae(sample: Sample, settings: Settings) -> Parts:
    """Autoencoder: log p(x|mu) (Hinton & Salakhutdinov, Science 2006). Its posterior is a point: z is mu(x)."""
    return {"log_px": _per_token(sample, settings)}


def vae(sample: Sample, settings: Settings) -> Parts:
    """VAE: log p(x|z) - beta KL(q(z|x) || P(z)), z ~ q(z|x) (arXiv 1312.6114; beta: Higgins et al., ICLR 2017)."""
    kl = _per_dimension(sample.posterior.kl(), sample, settings)
    return {"log_px": _per_token(sample, settings), "minus_kl": -settings.beta * kl}


def c_vae(sample: Sample, settings: Settings) -> Parts:
    """cVAE: VAE + log p_{k=1}(x, z), cMIM's contrastive factor on a VAE (arXiv 2509.21511)."""
    return {**vae(sample, settings), "log_p_match": _log_p_match(sample, settings)}


def info_nce_x(sample: Sample, settings: Settings) -> Parts:
    """InfoNCE-X: log p(x+ | x) of :func:`info_nce` + log p(x|z), so that it has a decoder and informative embeddings.

    The literature names InfoNCE-X without a definition that we could read: this reading is ours. The views compared are
    the means mu of both spellings; the decoder is given z of the first.
    """
    return {**info_nce(_views(sample), settings.temperature), "log_px": _per_token(sample, settings)}


def _log_p_match(sample: Sample, settings: Settings, denominator: str = "mean") -> Float[Tensor, " b"]:
    mu = sample.posterior.mu if settings.positive == "mu" else None
    return log_p_match(sample.z, settings.temperature, denominator, sample.all_z, sample.first, mu)


def _per_token(sample: Sample, settings: Settings) -> Float[Tensor, " b"]:
    if sample.log_px is None or sample.num_tokens is None:
        raise ValueError("this objective needs log_px and num_tokens: run the decoder")
    log_px = sample.log_px.float()
    return log_px / sample.num_tokens if settings.reduction == "mean" else log_px


def _per_dimension(log_p: Float[Tensor, " b"], sample: Sample, settings: Settings) -> Float[Tensor, " b"]:
    return log_p / sample.z.shape[-1] if settings.reduction == "mean" else log_p


def _views(sample: Sample) -> Views:
    if sample.views is None:
        raise ValueError("this objective compares two views of each molecule: give them as Sample.views")
    return sample.views


@dataclass(frozen=True)
class Objective:
    """An objective and what it needs; call it with a sample and settings for its parts, in float32 throughout.

    Attributes
    ----------
    parts : Callable
        The function.
    posteriors : tuple of str
        Under which ``MolCMIMConfig.posterior`` it means something.
    decoder : bool
        Whether it has a term log p(x|z); without, the decoder is neither run nor trained.
    views : {1, 2}
        How many spellings of each molecule it reads.
    moving_average : bool
        Whether it needs a moving-average encoder and Lambda, see ``molcmim.moving_average``.
    """

    parts: Callable[[Sample, Settings], Parts]
    posteriors: tuple[str, ...]
    decoder: bool = True
    views: int = 1
    moving_average: bool = False

    def __call__(self, sample: Sample, settings: Settings) -> Parts:
        """Compute the parts of the loss."""
        with torch.autocast(sample.z.device.type, enabled=False):
            return self.parts(sample, settings)


_NOISY = ("sampled", "learned")

OBJECTIVES: dict[str, Objective] = {
    "mim": Objective(a_mim, _NOISY),
    "cmim": Objective(c_mim, _NOISY),
    "cmim-sum": Objective(c_mim_sum, _NOISY),
    "ae": Objective(ae, ("point",)),
    "vae": Objective(vae, ("learned",)),
    "cvae": Objective(c_vae, ("learned",)),
    "infonce": Objective(lambda s, c: info_nce(_views(s), c.temperature), ("point",), decoder=False, views=2),
    "infonce-x": Objective(info_nce_x, ("point", "sampled"), views=2),
    "spectral": Objective(lambda s, c: spectral(_views(s)), ("point",), decoder=False, views=2),
    "minc": Objective(lambda s, c: minc(_views(s)), ("point",), decoder=False, views=2, moving_average=True),
    "vicreg": Objective(lambda s, c: vicreg(_views(s), c.reduction == "mean"), ("point",), decoder=False, views=2),
    "barlow-twins": Objective(lambda s, c: barlow_twins(_views(s)), ("point",), decoder=False, views=2),
}
"""Name -> objective. The chemistry factor :func:`log_p_descriptors` may be added to any of them."""
