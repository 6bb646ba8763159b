"""Searches: what they ask for, that they repeat, and that adapting pays on a function without any model."""

from __future__ import annotations

import numpy as np
import pytest

from molcmim.search import METHODS, CovarianceAdaptation, ranks

Z = 128


def minimise(method, seed, generations=60, codes=24, optimum=0.5):
    """Lowest squared distance to a point that any code of a search reached; one call a code."""
    search = METHODS[method](np.zeros(Z, np.float32), 0.3, codes, np.random.default_rng(seed))
    best, asked = np.inf, []
    for _ in range(generations):
        z = search.ask()
        asked.append(z)
        value = ((z - optimum) ** 2).sum(1)
        search.tell(z, [(0, float(v)) for v in value], bool(value.min() < best))
        best = min(best, value.min())
    return best, np.concatenate(asked)


def test_adapting_beats_both_baselines_at_equal_budget() -> None:
    """From 32 = 128 * 0.5^2 down, in 1,440 calls, whatever the seed."""
    for seed in range(3):
        found = {method: minimise(method, seed)[0] for method in METHODS}
        assert found["cma"] < 0.5 * min(found["perturbation"], found["best-of-n"])


@pytest.mark.parametrize("method", METHODS)
def test_a_search_repeats_and_leaves_numpy_alone(method: str) -> None:
    np.random.seed(7)  # noqa: NPY002 - the global state is what is tested
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first, again, other = (minimise(method, seed, 5)[1] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    assert first.dtype == np.float32
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.parametrize("method", METHODS)
def test_the_first_codes_have_the_radius(method: str) -> None:
    start = np.linspace(-1, 1, Z, dtype=np.float32)
    search = METHODS[method](start, 0.7, 200, np.random.default_rng(0))
    eps = (search.ask() - start) / 0.7
    assert eps.shape == (200, Z)
    assert abs(eps.mean()) < 4.5 / np.sqrt(eps.size)
    assert abs(eps.std() - 1) < 0.02


def test_a_search_that_stalls_begins_anew_from_its_best() -> None:
    search = CovarianceAdaptation(np.zeros(4, np.float32), 0.1, 6, np.random.default_rng(0))
    z = search.ask()
    search.tell(z, [(0, float(-i)) for i in range(6)], True)
    np.testing.assert_array_equal(search.best, z[-1])
    for _ in range(search.PATIENCE):
        assert search.restarts == 0
        search.tell(search.ask(), [(0, 0.0)] * 6, False)
    assert search.restarts == 1
    np.testing.assert_allclose(search.engine.mean, z[-1])


def test_best_of_n_learns_nothing_and_perturbation_follows_the_best() -> None:
    start = np.zeros(3, np.float32)
    for method, expected in (("best-of-n", 0.0), ("perturbation", 1.0)):
        search = METHODS[method](start, 0.1, 2, np.random.default_rng(0))
        search.tell(np.ones((2, 3), np.float32), [(0, 0.0), (0, 1.0)], True)
        np.testing.assert_array_equal(search.best, np.full(3, expected))
        search.tell(np.full((2, 3), 2, np.float32), [(0, 0.0)] * 2, False)
        np.testing.assert_array_equal(search.best, np.full(3, expected))


def test_the_regression_finds_the_slope() -> None:
    """Of keys that a plane ranks; those that share a key, and one class of keys behind another, too."""
    rng = np.random.default_rng(0)
    search = CovarianceAdaptation(np.zeros(Z, np.float32), 0.3, 24, rng)
    slope = rng.standard_normal(Z)
    for _ in range(20):
        z = search.ask()
        search.tell(z, [(0, round(v, 1)) if v < 1 else (1, v) for v in (z @ slope).tolist()], True)
    found = search._slope()
    assert found @ slope / np.linalg.norm(found) / np.linalg.norm(slope) > 0.8
    towards = (search.ask() - search.engine.mean) @ slope
    assert towards.mean() < -towards.std()


def test_ranks_order_pairs() -> None:
    assert list(ranks([(1, -0.5), (0, 3.0), (0, -1.0), (3, 0.0), (0, 3.0)])) == [2, 1, 0, 3, 1]
