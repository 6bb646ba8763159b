"""surrogate: against scikit-learn's Gaussian process, and expected improvement against an integral."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

from molcmim.surrogate import NOISES, SCALES, Surrogate, expected_improvement, normal_scores

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 6))
Y = np.sin(X[:, 0]) + X[:, 1] + 0.2 * RNG.normal(size=40)
Y -= Y.mean()
NEW = RNG.normal(size=(15, 6))


def reference(surrogate: Surrogate) -> GaussianProcessRegressor:
    """Return scikit-learn's process with the hyperparameters of ours."""
    scale, noise = surrogate.choice
    length = np.sqrt(scale * surrogate.median / 2)
    variance = surrogate.variance
    kernel = ConstantKernel(variance) * RBF(length) + WhiteKernel(noise * variance)
    return GaussianProcessRegressor(kernel, optimizer=None, alpha=0).fit(X, Y)


def test_it_predicts_what_scikit_learn_predicts() -> None:
    surrogate = Surrogate(X, Y)
    process = reference(surrogate)
    mean, sd = surrogate.predict(NEW)
    expected, noisy = process.predict(NEW, return_std=True)
    np.testing.assert_allclose(mean, expected, rtol=1e-8)
    np.testing.assert_allclose(sd**2 + surrogate.choice[1] * surrogate.variance, noisy**2, rtol=1e-8)


def test_of_all_choices_it_takes_the_most_likely_one() -> None:
    chosen = Surrogate(X, Y)
    likelihoods = {}
    for scale in SCALES:
        for noise in NOISES:
            one = Surrogate(X, Y, (scale, noise))
            likelihoods[scale, noise] = reference(one).log_marginal_likelihood_value_
            assert one.log_likelihood == pytest.approx(likelihoods[scale, noise], rel=1e-8)
            for factor in (0.8, 1.25):  # no other variance is more likely
                kernel = ConstantKernel(factor * one.variance) * RBF(np.sqrt(scale * one.median / 2))
                kernel += WhiteKernel(noise * factor * one.variance)
                other = GaussianProcessRegressor(kernel, optimizer=None, alpha=0).fit(X, Y)
                assert other.log_marginal_likelihood_value_ < one.log_likelihood
    assert chosen.choice == max(likelihoods, key=likelihoods.__getitem__)


def test_single_precision_and_equal_rows_do_no_harm() -> None:
    single = Surrogate(np.float32(X), Y)
    np.testing.assert_allclose(single.predict(np.float32(NEW))[0], Surrogate(X, Y).predict(NEW)[0], atol=1e-4)
    mean, sd = Surrogate(np.float32(np.ones((5, 3))), np.array([1.0, -1, 2, -2, 1])).predict(np.ones((2, 3)))
    assert np.isfinite([mean, sd]).all()


def test_noise_is_found_where_there_is_some() -> None:
    assert Surrogate(X, X[:, 0]).choice[1] < Surrogate(X, RNG.permutation(X[:, 0])).choice[1]


def test_normal_scores_are_quantiles_and_the_lowest_rank_has_the_highest() -> None:
    ranks = RNG.permutation(999)
    scores = normal_scores(ranks)
    assert (np.argsort(-scores) == np.argsort(ranks)).all()
    assert scores.mean() == pytest.approx(0, abs=1e-12)
    assert scores.std() == pytest.approx(1, abs=0.01)
    tied = normal_scores(np.array([0, 1, 1, 2]))
    np.testing.assert_allclose(tied, [norm.ppf(1 - 0.625 / 4.25), 0, 0, norm.ppf(0.625 / 4.25)], atol=1e-12)


@pytest.mark.parametrize(("mean", "sd", "best"), [(0.3, 0.8, 1.0), (2.0, 0.5, 1.0), (-1.0, 2.0, 0.5)])
def test_expected_improvement_is_an_expectation(mean: float, sd: float, best: float) -> None:
    expected, _ = quad(lambda y: (y - best) * norm.pdf(y, mean, sd), best, mean + 12 * sd + abs(best))
    assert expected_improvement(np.array([mean]), np.array([sd]), best)[0] == pytest.approx(expected, rel=1e-6)
    certain = expected_improvement(np.array([0.2, 1.5]), np.zeros(2), 1.0)
    np.testing.assert_allclose(certain, [0, 0.5], atol=1e-8)
