"""Two-view objectives against loops over pairs, closed forms and each other's limits."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from molcmim.contrastive import Views, barlow_twins, info_nce, minc, spectral, vicreg


def features(b=7, d=5, seed=0):
    return torch.randn(b, d, generator=torch.Generator().manual_seed(seed))


def views(b=7, d=5):
    return Views(features(b, d, 1), features(b, d, 2))


def total(parts):
    return sum(parts.values()).mean()


@pytest.mark.parametrize("temperature", [0.1, 1.0])
@pytest.mark.parametrize("b", [1, 2, 7])
def test_infonce_by_a_loop_over_pairs(temperature, b):
    v = views(b)
    u = [row.double() for row in torch.cat([v.first, v.second])]
    log_p = []
    for i in range(2 * b):
        g = [math.exp(F.cosine_similarity(u[i], u[k], dim=0) / temperature) if k != i else 0.0 for k in range(2 * b)]
        log_p.append(math.log(g[(i + b) % (2 * b)] / sum(g)))
    expected = torch.tensor([(log_p[i] + log_p[i + b]) / 2 for i in range(b)])
    torch.testing.assert_close(info_nce(v, temperature)["log_p_view"], expected, atol=1e-5, rtol=1e-5)


def test_infonce_of_equal_views_is_largest_where_negatives_are_far():
    near = torch.tensor([[1.0, 0.1], [1.0, -0.1]])
    far = torch.tensor([[1.0, 0.1], [-1.0, -0.1]])
    assert (info_nce(Views(far, far), 0.1)["log_p_view"] > info_nce(Views(near, near), 0.1)["log_p_view"]).all()
    torch.testing.assert_close(
        info_nce(Views(far, far), 1.0)["log_p_view"], torch.full((2,), -math.log(1 + 2 * math.exp(-2)))
    )


def test_spectral_by_a_loop_over_pairs():
    v = views()
    parts = spectral(v)
    for i in range(7):
        others = [float(v.first[i] @ v.second[j]) ** 2 for j in range(7) if j != i]
        assert parts["alignment"][i].item() == pytest.approx(2 * float(v.first[i] @ v.second[i]), rel=1e-5)
        assert parts["repulsion"][i].item() == pytest.approx(-sum(others) / 6, rel=1e-5)
    assert spectral(views(1))["repulsion"].tolist() == [0]


def test_minc_by_a_loop():
    first, second, t1, t2 = (features(seed=i) for i in range(4))
    moment = features(5, 5, 9)
    parts = minc(Views(first, second, target_first=t1, target_second=t2, second_moment=moment))
    for i in range(7):
        alignment = sum(float(first[i, d] * t2[i, d] + second[i, d] * t1[i, d]) for d in range(5))
        energy = sum(
            float(f[i, a] * moment[a, b] * f[i, b]) for f in (first, second) for a in range(5) for b in range(5)
        )
        assert parts["alignment"][i].item() == pytest.approx(alignment, rel=1e-4)
        assert parts["repulsion"][i].item() == pytest.approx(-energy / 2, rel=1e-4)


def test_minc_with_newest_averages_has_half_the_gradient_of_the_spectral_loss():
    x, weight = features(9, 6), features(6, 4, 1).requires_grad_()
    f = x @ weight  # both views the same, so that E over pairs is symmetric
    moment = f.T @ f / len(f)
    newest = Views(f, f, target_first=f, target_second=f, second_moment=moment)
    (ours,) = torch.autograd.grad(total(minc(newest)), weight, retain_graph=True)
    products = f @ f.T
    all_pairs = 2 * products.diagonal().mean() - (products**2).mean()
    (expected,) = torch.autograd.grad(all_pairs, weight, retain_graph=True)
    torch.testing.assert_close(2 * ours, expected)
    # and spectral() is the same but for j = i, which a batch of many pairs does not notice
    parts = spectral(newest)
    without_own = (9 * (products**2).mean(1) - products.diagonal() ** 2) / 8
    torch.testing.assert_close(parts["repulsion"], -without_own)


def test_no_gradient_reaches_targets_and_lambda():
    t1, t2, moment = (features(seed=i).requires_grad_() for i in (2, 3, 4))
    first = features().requires_grad_()
    v = Views(first, first, target_first=t1, target_second=t2, second_moment=moment[:5])
    total(minc(v)).backward()
    assert first.grad is not None
    assert t1.grad is t2.grad is moment.grad is None


@pytest.mark.parametrize("per_dimension", [True, False])
def test_vicreg_by_loops(per_dimension):
    v = views(6, 4)
    parts = vicreg(v, per_dimension)
    spread = covariance = 0.0
    for f in (v.first.double().numpy(), v.second.double().numpy()):
        for a in range(4):
            spread += max(0.0, 1 - math.sqrt(f[:, a].var(ddof=1) + 1e-4)) / 4
            for b in range(4):
                if a != b:
                    c = sum((f[i, a] - f[:, a].mean()) * (f[i, b] - f[:, b].mean()) for i in range(6)) / 5
                    covariance += c**2 / 4
    for i in range(6):
        distance = float(((v.first[i] - v.second[i]) ** 2).sum()) / (4 if per_dimension else 1)
        assert parts["invariance"][i].item() == pytest.approx(-25 * distance, rel=1e-5)
    torch.testing.assert_close(parts["variance"], torch.full((6,), -25 * spread))
    torch.testing.assert_close(parts["covariance"], torch.full((6,), -covariance))


def test_barlow_twins_by_loops():
    v = views(6, 4)
    parts = barlow_twins(v)
    first, second = v.first.double().numpy(), v.second.double().numpy()
    own = cross = 0.0
    for a in range(4):
        for b in range(4):
            x, y = first[:, a] - first[:, a].mean(), second[:, b] - second[:, b].mean()
            c = (x * y).sum() / math.sqrt((x**2).sum() * (y**2).sum())
            own, cross = (own + (1 - c) ** 2, cross) if a == b else (own, cross + c**2)
    torch.testing.assert_close(parts["invariance"], torch.full((6,), -own))
    torch.testing.assert_close(parts["redundancy"], torch.full((6,), -5e-3 * cross))


def test_barlow_twins_of_decorrelated_equal_views_is_zero():
    f = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    parts = barlow_twins(Views(3 * f + 2, f - 5))  # neither scale nor shift matter
    torch.testing.assert_close(total(parts), torch.tensor(0.0))
    torch.testing.assert_close(total(vicreg(Views(2 * f, 2 * f), True)), torch.tensor(0.0))


@pytest.mark.parametrize("name", ["info_nce", "spectral", "minc", "vicreg", "barlow_twins"])
def test_slices_against_all_are_slices_of_the_whole(name):
    moments = {"target_first": features(8, seed=3), "target_second": features(8, seed=4)}
    whole = Views(features(8, seed=1), features(8, seed=2), **moments, second_moment=features(5, 5, 5))
    objective = {
        "info_nce": lambda v: info_nce(v, 0.1), "spectral": spectral, "minc": minc,
        "vicreg": lambda v: vicreg(v, True), "barlow_twins": barlow_twins,
    }[name]  # fmt: skip
    expected = objective(whole)
    for rows in (slice(0, 3), slice(3, 8)):
        own = {n: getattr(whole, n)[rows] for n in ("first", "second", *moments)}
        part = dataclasses.replace(whole, **own, all_first=whole.first, all_second=whole.second, start=rows.start)
        torch.testing.assert_close(objective(part), {n: values[rows] for n, values in expected.items()})
