"""Objectives against closed forms, autograd and other writings of the same equations."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Independent, Normal

from molcmim.contrastive import Views
from molcmim.latent import Posterior
from molcmim.objectives import OBJECTIVES, Sample, Settings, a_mim, c_mim, log_p_descriptors, log_p_match


def codes(b=7, d=5, seed=0):
    return torch.randn(b, d, generator=torch.Generator().manual_seed(seed))


def sample(b=7, d=5, **changes):
    mu, logvar = codes(b, d, 1), -6 * torch.rand(b, d, generator=torch.Generator().manual_seed(2))
    posterior = Posterior(mu, logvar)
    fields = {
        "log_px": -20 * torch.rand(b, generator=torch.Generator().manual_seed(3)),
        "num_tokens": torch.arange(3, 3 + b),
        "z": posterior.rsample(codes(b, d, 4)),
        "posterior": posterior,
    }
    return Sample(**{**fields, **changes})


def by_double_loop(z, temperature, denominator="mean", mu=None):
    """Equation 9 as it is written, in float64."""
    z = z.detach().double()
    b = len(z)
    g = [[math.exp(F.cosine_similarity(z[i], z[j], dim=0) / temperature) for j in range(b)] for i in range(b)]
    out = []
    for i in range(b):
        own = g[i][i] if mu is None else math.exp(F.cosine_similarity(mu[i].double(), z[i], dim=0) / temperature)
        others = sum(g[i][j] for j in range(b) if j != i)
        out.append(math.log(own / (own + (others / (b - 1) if denominator == "mean" else others))))
    return torch.tensor(out)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 7.0])
@pytest.mark.parametrize("denominator", ["mean", "sum"])
@pytest.mark.parametrize("positive", ["z", "mu"])
def test_matching_is_equation_9(temperature, denominator, positive):
    z, mu = codes(), codes(seed=1) if positive == "mu" else None
    ours = log_p_match(z, temperature, denominator, mu=mu)
    torch.testing.assert_close(ours, by_double_loop(z, temperature, denominator, mu), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_it_is_infonce_with_the_positive_raised_by_the_log_of_the_negatives(temperature):
    z = codes(16, 8)
    logits = F.normalize(z) @ F.normalize(z).T / temperature
    shifted = logits + math.log(15) * torch.eye(16)
    labels = torch.arange(16)
    infonce = -F.cross_entropy(shifted, labels, reduction="none")
    torch.testing.assert_close(log_p_match(z, temperature), infonce, atol=1e-5, rtol=1e-5)
    plain = -F.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(log_p_match(z, temperature, "sum"), plain, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_the_gradient_reaches_z_through_weighted_negatives_alone(temperature):
    """d log p_i / d cos_ij = -(1 - p_i) pi_ij / tau for j != i, and nothing for j = i.

    From log p_i = -log(1 + exp(n_i - 1/tau)) with n_i = log sum_{l != i} g_il - log(B - 1): the derivative by n_i is
    -(1 - p_i), and that of n_i by cos_ij is pi_ij / tau. With u = z / |z|, cos_kj stands in the terms of both k and j,
    and d cos_kj / d z_k = (u_j - cos_kj u_k) / |z_k|.
    """
    z = codes(9, 6).requires_grad_()
    log_p = log_p_match(z, temperature)
    (ours,) = torch.autograd.grad(log_p.sum(), z)
    with torch.no_grad():
        p, norms, u = log_p.exp(), z.norm(dim=1), F.normalize(z)
        cos = u @ u.T
        g = (cos / temperature).exp() * (1 - torch.eye(9))
        pi = g / g.sum(1, keepdim=True)
        weight = -((1 - p)[:, None] * pi + ((1 - p)[:, None] * pi).T) / temperature
        towards = (u[None] - cos[..., None] * u[:, None]) / norms[:, None, None]  # [k, j] = d cos_kj / d z_k
        expected = (weight[..., None] * towards).sum(1)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)


def test_a_batch_of_one_has_no_negatives():
    z = codes(1).requires_grad_()
    for denominator in ("mean", "sum"):
        log_p = log_p_match(z, 1.0, denominator)
        assert log_p.tolist() == [0]
        (gradient,) = torch.autograd.grad(log_p.sum(), z)
        assert gradient.tolist() == [[0] * 5]
    parts = c_mim(sample(1), Settings())
    assert all(part.isfinite().all() for part in parts.values())


def test_a_batch_of_two_equal_codes_is_a_coin_toss():
    z = torch.ones(2, 3)
    torch.testing.assert_close(log_p_match(z), torch.full((2,), math.log(0.5)))
    torch.testing.assert_close(
        log_p_match(torch.tensor([[1.0, 0], [-1.0, 0]])), -F.softplus(torch.tensor([-2.0, -2.0]))
    )


@pytest.mark.parametrize("positive", ["z", "mu"])
def test_low_temperatures_stay_finite(positive):
    z = torch.cat([codes(6), -codes(6), codes(6) + 1e-4]).requires_grad_()
    mu = codes(18, seed=1) if positive == "mu" else None
    for temperature in (0.01, 1e-3):
        log_p = log_p_match(z, temperature, mu=mu)
        (gradient,) = torch.autograd.grad(log_p.sum(), z)
        assert log_p.isfinite().all()
        assert gradient.isfinite().all()
    torch.testing.assert_close(log_p_match(z, 0.01, mu=mu), by_double_loop(z, 0.01, mu=mu), atol=2e-3, rtol=1e-4)


def test_arithmetic_is_float32_under_autocast():
    z, mu = codes(64, 32), codes(64, 32, 1)
    expected = log_p_match(z, 0.1), log_p_match(z, 0.1, mu=mu)
    with torch.autocast("cpu", torch.bfloat16):
        found = log_p_match(z, 0.1), log_p_match(z, 0.1, mu=mu)
        parts = c_mim(sample(), Settings())
    assert {tensor.dtype for tensor in (*found, *parts.values())} == {torch.float32}
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    assert log_p_match(z.bfloat16()).dtype == torch.float32


@given(
    b=st.integers(1, 12),
    d=st.integers(1, 9),
    temperature=st.floats(0.01, 10),
    scale=st.floats(1e-3, 1e3),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=40, deadline=None)
def test_for_any_shape(b, d, temperature, scale, seed):
    z = codes(b, d, seed).requires_grad_()
    log_p = log_p_match(z, temperature)
    assert log_p.shape == (b,)
    assert (log_p <= 0).all()
    assert torch.autograd.grad(log_p.sum(), z)[0].isfinite().all()
    tolerance = {"atol": 1e-4 / temperature, "rtol": 1e-4}
    order = torch.randperm(b)
    torch.testing.assert_close(log_p_match(z[order], temperature), log_p[order], **tolerance)
    torch.testing.assert_close(log_p_match(scale * z, temperature), log_p, **tolerance)
    assert (log_p_match(z, temperature, "sum") <= log_p + tolerance["atol"]).all()


@pytest.mark.parametrize("positive", ["z", "mu"])
def test_a_slice_against_all_codes_is_the_slice_of_the_whole(positive):
    z, mu = codes(12), codes(12, seed=1) if positive == "mu" else None
    whole = log_p_match(z, 0.1, mu=mu)
    for first, last in ((0, 4), (4, 8), (8, 12), (5, 6)):
        part = log_p_match(z[first:last], 0.1, all_z=z, first=first, mu=None if mu is None else mu[first:last])
        torch.testing.assert_close(part, whole[first:last])
    wrong = log_p_match(z[4:8], 0.1, all_z=z, first=0)
    assert not torch.allclose(wrong, whole[4:8])


def test_parts_of_a_slice_are_slices_of_the_parts():
    whole = sample(8)
    part = Sample(
        whole.log_px[2:5],
        whole.num_tokens[2:5],
        whole.z[2:5],
        Posterior(whole.posterior.mu[2:5], whole.posterior.logvar[2:5]),
        whole.z,
        2,
    )
    for settings_ in (Settings(), Settings(0.1, "sum", "mu")):
        expected = {name: values[2:5] for name, values in c_mim(whole, settings_).items()}
        torch.testing.assert_close(c_mim(part, settings_), expected)


def test_a_mim_is_its_closed_form():
    s = sample()
    q = Independent(Normal(s.posterior.mu, (0.5 * s.posterior.logvar).exp()), 1)
    prior = Independent(Normal(torch.zeros(5), torch.ones(5)), 1)
    parts = a_mim(s, Settings(reduction="sum"))
    expected = s.log_px + 0.5 * (q.log_prob(s.z) + prior.log_prob(s.z))
    torch.testing.assert_close(sum(parts.values()), expected, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(parts["half_log_qz"], 0.5 * q.log_prob(s.z), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(parts["half_log_pz"], 0.5 * prior.log_prob(s.z))


def test_mean_reduction_divides_by_tokens_and_dimensions():
    s = sample()
    total, mean = a_mim(s, Settings(reduction="sum")), a_mim(s, Settings(reduction="mean"))
    torch.testing.assert_close(mean["log_px"], total["log_px"] / s.num_tokens)
    torch.testing.assert_close(mean["half_log_qz"], total["half_log_qz"] / 5)
    torch.testing.assert_close(mean["half_log_pz"], total["half_log_pz"] / 5)
    matches = [c_mim(s, Settings(reduction=reduction))["log_p_match"] for reduction in ("sum", "mean")]
    assert torch.equal(*matches)


def test_cmim_is_a_mim_and_the_matching_term():
    s = sample()
    for positive in ("z", "mu"):
        choices = Settings(0.3, "mean", positive)
        parts = c_mim(s, choices)
        mu = s.posterior.mu if positive == "mu" else None
        torch.testing.assert_close(parts.pop("log_p_match"), log_p_match(s.z, 0.3, mu=mu))
        torch.testing.assert_close(parts, a_mim(s, choices))


def test_the_positive_of_the_mean_pulls_a_code_to_its_mean():
    z, mu = codes().requires_grad_(), codes(seed=1)
    (step,) = torch.autograd.grad(log_p_match(z, mu=mu).sum() - log_p_match(z).sum(), z)
    with torch.no_grad():
        assert (F.cosine_similarity(z + 1e-2 * step, mu) > F.cosine_similarity(z, mu)).all()


def test_descriptors_are_a_unit_gaussian():
    predicted, true = codes(), codes(seed=1)
    expected = Independent(Normal(predicted, torch.ones(7, 5)), 1).log_prob(true)
    torch.testing.assert_close(log_p_descriptors(predicted, true), expected, atol=1e-5, rtol=1e-5)
    assert log_p_descriptors(predicted.bfloat16(), true).dtype == torch.float32


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_cmim_sum_is_a_mim_and_the_sum_over_negatives(reduction):
    s, choices = sample(), Settings(0.3, reduction)
    parts = OBJECTIVES["cmim-sum"](s, choices)
    torch.testing.assert_close(parts.pop("log_p_match"), by_double_loop(s.z, 0.3, "sum"), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(parts, a_mim(s, choices))


def test_an_autoencoder_is_its_reconstruction():
    s = sample()
    torch.testing.assert_close(OBJECTIVES["ae"](s, Settings(reduction="sum")), {"log_px": s.log_px})
    torch.testing.assert_close(OBJECTIVES["ae"](s, Settings()), {"log_px": s.log_px / s.num_tokens})


@pytest.mark.parametrize("beta", [0.0, 1.0, 4.0])
def test_vae_is_its_closed_form(beta):
    s = sample()
    q = Independent(Normal(s.posterior.mu, (0.5 * s.posterior.logvar).exp()), 1)
    prior = Independent(Normal(torch.zeros(5), torch.ones(5)), 1)
    kl = torch.distributions.kl_divergence(q, prior)
    parts = OBJECTIVES["vae"](s, Settings(reduction="sum", beta=beta))
    torch.testing.assert_close(parts, {"log_px": s.log_px, "minus_kl": -beta * kl})
    mean = OBJECTIVES["vae"](s, Settings(beta=beta))
    torch.testing.assert_close(mean, {"log_px": s.log_px / s.num_tokens, "minus_kl": -beta * kl / 5})


def test_cvae_is_vae_and_the_matching_term():
    s = sample()
    for positive in ("z", "mu"):
        choices = Settings(0.3, "sum", positive, beta=0.5)
        parts = OBJECTIVES["cvae"](s, choices)
        mu = s.posterior.mu if positive == "mu" else None
        matches = by_double_loop(s.z, 0.3, mu=mu)
        torch.testing.assert_close(parts.pop("log_p_match"), matches, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(parts, OBJECTIVES["vae"](s, choices))


def views(b=7, d=5, **changes):
    fields = {
        "first": codes(b, d, 5),
        "second": codes(b, d, 6),
        "target_first": codes(b, d, 7),
        "target_second": codes(b, d, 8),
        "second_moment": codes(b, d, 9).T @ codes(b, d, 9) / b,
    }
    return Views(**{**fields, **changes})


def test_infonce_x_is_infonce_with_a_decoder():
    s = sample(views=views())
    parts = OBJECTIVES["infonce-x"](s, Settings(0.3))
    torch.testing.assert_close(parts.pop("log_px"), s.log_px / s.num_tokens)
    torch.testing.assert_close(parts, OBJECTIVES["infonce"](s, Settings(0.3)))


@pytest.mark.parametrize("b", [1, 2, 7])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_is_finite_one_number_a_molecule_and_differentiable(name, b):
    mu, logvar = codes(b, seed=5).requires_grad_(), torch.full((b, 5), -1.0, requires_grad=True)
    posterior = Posterior(mu, logvar)
    s = sample(b, posterior=posterior, z=posterior.rsample(codes(b)), views=views(b, first=mu))
    s = dataclasses.replace(s, log_px=s.log_px - s.z.square().sum(1))
    parts = OBJECTIVES[name](s, Settings())
    assert all(part.shape == (b,) and part.isfinite().all() for part in parts.values())
    total = sum(parts.values()).sum()
    (gradient,) = torch.autograd.grad(total, mu)
    assert gradient.isfinite().all()
    still = {"infonce", "barlow-twins"} if b == 1 else set()  # with nothing to compare with
    assert (gradient.abs().sum() > 0) == (name not in still)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_is_float32_under_autocast(name):
    s = sample(33, 16, views=views(33, 16))
    expected = OBJECTIVES[name](s, Settings(0.1))
    with torch.autocast("cpu", torch.bfloat16):
        found = OBJECTIVES[name](s, Settings(0.1))
    torch.testing.assert_close(found, expected, atol=0, rtol=0)
    half = dataclasses.replace(s, log_px=s.log_px.bfloat16(), z=s.z.bfloat16())
    assert {part.dtype for part in OBJECTIVES[name](half, Settings()).values()} == {torch.float32}


def test_the_registry_says_what_each_needs():
    assert set(OBJECTIVES) == {
        "mim", "cmim", "cmim-sum", "ae", "vae", "cvae",
        "infonce", "infonce-x", "spectral", "minc", "vicreg", "barlow-twins",
    }  # fmt: skip
    full = sample(views=views())
    for objective in OBJECTIVES.values():
        without_decoder = dataclasses.replace(full, log_px=None, num_tokens=None)
        if objective.decoder:
            with pytest.raises(ValueError, match="needs log_px and num_tokens: run the decoder"):
                objective(without_decoder, Settings())
        else:
            objective(without_decoder, Settings())
        one_view = dataclasses.replace(full, views=None)
        if objective.views == 2:
            with pytest.raises(ValueError, match="compares two views of each molecule"):
                objective(one_view, Settings())
        else:
            objective(one_view, Settings())
        no_average = dataclasses.replace(full, views=views(target_first=None))
        if objective.moving_average:
            with pytest.raises(ValueError, match="minc needs target_first, target_second and second_moment"):
                objective(no_average, Settings())
        else:
            objective(no_average, Settings())


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"temperature": 0.0}, "temperature must be above 0, got 0.0"),
        ({"temperature": math.nan}, "temperature must be above 0, got nan"),
        ({"reduction": "max"}, "reduction must be 'mean' or 'sum', got 'max'"),
        ({"positive": "x"}, "positive must be 'z' or 'mu', got 'x'"),
        ({"beta": -1.0}, "beta must be at least 0 and finite, got -1.0"),
        ({"beta": math.nan}, "beta must be at least 0 and finite, got nan"),
    ],
)
def test_bad_settings_are_refused(choices, message):
    with pytest.raises(ValueError, match=message):
        Settings(**choices)


def test_an_unknown_denominator_is_refused():
    with pytest.raises(ValueError, match="denominator must be 'mean' or 'sum', got 'max'"):
        log_p_match(codes(), denominator="max")
