"""A small probabilistic autoencoder on vectors, trained by any of molcmim's objectives: for the toy and the digits.

The objectives are those that molecules are trained with; only the network and the data differ.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from molcmim.contrastive import Views
from molcmim.latent import LOG_2PI, LOGVAR_MAX, LOGVAR_MIN, Posterior
from molcmim.objectives import OBJECTIVES, Sample, Settings


class Autoencoder(nn.Module):
    """Encoder and decoder of two hidden layers; q(z|x) and p(x|z) are diagonal Gaussians, p's width is one number."""

    def __init__(self, inputs: int, hidden: int, latent_dim: int, posterior: str) -> None:
        super().__init__()
        self.posterior = posterior
        self.encoder = _mlp(inputs, hidden, 2 * latent_dim)
        self.decoder = _mlp(latent_dim, hidden, inputs)
        self.log_scale = nn.Parameter(torch.zeros(()))

    def encode(self, x: Tensor) -> Posterior:
        mu, logvar = self.encoder(x).chunk(2, dim=1)
        return Posterior(mu, logvar.clamp(LOGVAR_MIN, LOGVAR_MAX))

    def log_px(self, x: Tensor, z: Tensor) -> Tensor:
        log_scale = self.log_scale.clamp(-3.0, 1.0)  # a bound, as a density has none
        residual = (x - self.decoder(z)) * torch.exp(-log_scale)
        return -(0.5 * (LOG_2PI + residual**2) + log_scale).sum(1)


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, outputs)
    )


def train(
    x: Tensor,
    objective: str,
    settings: Settings,
    latent_dim: int,
    hidden: int,
    batch_size: int,
    steps: int,
    seed: int,
    view: Callable[[Tensor], Tensor] | None = None,
    learning_rate: float = 1e-3,
) -> tuple[Autoencoder, dict[str, float]]:
    """Train on rows of `x`; `view` makes a random view of a batch, for objectives that compare two.

    Returns the model and the parts of its loss, averaged over the last tenth of the steps.
    """
    torch.manual_seed(seed)
    needs = OBJECTIVES[objective]
    model = Autoencoder(x.shape[1], hidden, latent_dim, "learned" if "learned" in needs.posteriors else "point")
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.05)
    tail: dict[str, list[float]] = {}
    for step in range(steps):
        rows = torch.randint(len(x), (batch_size,)) if batch_size < len(x) else torch.arange(len(x))
        parts = needs(_sample(model, x[rows], needs.decoder, view if needs.views == 2 else None), settings)
        loss = -torch.stack(list(parts.values())).sum(0).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step >= 0.9 * steps:
            for name, part in parts.items():
                tail.setdefault(name, []).append(part.mean().item())
    return model.eval(), {name: float(np.mean(values)) for name, values in tail.items()}


def _sample(model: Autoencoder, x: Tensor, decode: bool, view: Callable[[Tensor], Tensor] | None) -> Sample:
    posterior = model.encode(x if view is None else view(x))
    views = None if view is None else Views(posterior.mu, model.encode(view(x)).mu)
    z = posterior.rsample() if model.posterior == "learned" else posterior.mu
    if not decode:
        return Sample(None, None, z, posterior, views=views)
    return Sample(model.log_px(x, z), torch.full((len(x),), x.shape[1]), z, posterior, views=views)


@torch.inference_mode()
def means(model: Autoencoder, x: Tensor) -> Tensor:
    """Posterior means of all rows."""
    return model.encode(x).mu


@torch.inference_mode()
def reconstruction_error(model: Autoencoder, x: Tensor) -> float:
    """Root mean squared error of x from z = mu(x), over all entries."""
    return F.mse_loss(model.decoder(model.encode(x).mu), x).sqrt().item()
