"""The posterior and the prior, against torch.distributions and Monte Carlo."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from molcmim.latent import LOGVAR_MAX, LOGVAR_MIN, Posterior, log_prior


@pytest.fixture
def posterior():
    torch.manual_seed(0)
    return Posterior(torch.randn(4, 8), torch.empty(4, 8).uniform_(LOGVAR_MIN, LOGVAR_MAX))


def reference(posterior):
    return Independent(Normal(posterior.mu.double(), (0.5 * posterior.logvar.double()).exp()), 1)


def test_log_densities_are_those_of_torch(posterior):
    z = torch.randn(4, 8)
    expected = reference(posterior).log_prob(z.double())
    torch.testing.assert_close(posterior.log_prob(z).double(), expected, atol=1e-4, rtol=1e-5)
    prior = Independent(Normal(torch.zeros(8), torch.ones(8)), 1)
    torch.testing.assert_close(log_prior(z), prior.log_prob(z))


def test_kl_is_the_closed_form_and_what_monte_carlo_finds(posterior):
    prior = Independent(Normal(torch.zeros(4, 8).double(), torch.ones(4, 8).double()), 1)
    expected = kl_divergence(reference(posterior), prior)
    torch.testing.assert_close(posterior.kl().double(), expected, atol=1e-5, rtol=1e-5)
    n = 40_000
    many = Posterior(posterior.mu.repeat(n, 1), posterior.logvar.repeat(n, 1))
    z = many.rsample()
    ratio = (many.log_prob(z) - log_prior(z)).reshape(n, 4)
    error = ratio.std(0) / n**0.5
    assert ((ratio.mean(0) - expected).abs() < 4 * error).all()
    assert (error < 0.02).all()
    standard = Posterior(torch.zeros(2, 3), torch.zeros(2, 3))
    assert standard.kl().tolist() == [0, 0]


def test_draws_have_the_moments_of_the_posterior(posterior):
    n = 40_000
    z = Posterior(posterior.mu.repeat(n, 1), posterior.logvar.repeat(n, 1)).rsample().reshape(n, 4, 8)
    deviation = (0.5 * posterior.logvar).exp()
    assert ((z.mean(0) - posterior.mu).abs() < 4.5 * deviation / n**0.5).all()
    torch.testing.assert_close(z.std(0), deviation, rtol=0.02, atol=0)
    assert torch.corrcoef(z[:, 0].T).fill_diagonal_(0).abs().max() < 0.03


def test_a_draw_is_a_differentiable_function_of_given_noise(posterior):
    mu, logvar = posterior.mu.requires_grad_(), posterior.logvar.requires_grad_()
    noise = torch.randn(4, 8)
    z = Posterior(mu, logvar).rsample(noise)
    torch.testing.assert_close(z, mu + (0.5 * logvar).exp() * noise)
    by_mu, by_logvar = torch.autograd.grad(z.sum(), [mu, logvar])
    assert torch.equal(by_mu, torch.ones(4, 8))
    torch.testing.assert_close(by_logvar, 0.5 * (0.5 * logvar).exp() * noise)
    assert torch.equal(posterior.rsample(torch.zeros(4, 8)), posterior.mu)


def test_densities_are_float32_for_a_bfloat16_code(posterior):
    z = torch.randn(4, 8).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert posterior.log_prob(z).dtype == posterior.kl().dtype == log_prior(z).dtype == torch.float32
        assert posterior.rsample().dtype == torch.float32
        inside = posterior.log_prob(z), log_prior(z), posterior.kl()
    torch.testing.assert_close(inside, (posterior.log_prob(z.float()), log_prior(z.float()), posterior.kl()))
