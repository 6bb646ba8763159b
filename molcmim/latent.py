"""Posterior q(z|x) and prior P(z): sampling, log-densities, KL. Knows nothing of networks.

Shapes: b batch, z latent dimension D. Log-densities are float32 and in nats.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

LOGVAR_MIN, LOGVAR_MAX = -6.0, 0.0
LOG_2PI = math.log(2.0 * math.pi)


@dataclass(frozen=True)
class Posterior:
    """Diagonal Gaussian q(z|x) = N(mu, diag exp(logvar)).

    Attributes
    ----------
    mu : Tensor
        (b, z) mean, float32.
    logvar : Tensor
        (b, z) log-variance, float32, within [-6, 0].
    """

    mu: Float[Tensor, "b z"]
    logvar: Float[Tensor, "b z"]

    def rsample(self, noise: Float[Tensor, "b z"] | None = None) -> Float[Tensor, "b z"]:
        """Reparameterised draw mu + exp(logvar / 2) * noise, with `noise` ~ N(0, I) unless given."""
        noise = torch.randn_like(self.mu) if noise is None else noise
        return self.mu + torch.exp(0.5 * self.logvar) * noise

    def log_prob(self, z: Float[Tensor, "b z"]) -> Float[Tensor, " b"]:
        """Log q(z|x), summed over the latent dimensions."""
        squared = (z.float() - self.mu) ** 2 * torch.exp(-self.logvar)
        return -0.5 * (LOG_2PI + self.logvar + squared).sum(-1)

    def kl(self) -> Float[Tensor, " b"]:
        """KL(q(z|x) || P(z)) in closed form."""
        return 0.5 * (self.mu**2 + self.logvar.exp() - 1.0 - self.logvar).sum(-1)


def log_prior(z: Float[Tensor, "b z"]) -> Float[Tensor, " b"]:
    """Log P(z) of the standard normal prior, summed over the latent dimensions."""
    return -0.5 * (LOG_2PI + z.float() ** 2).sum(-1)
