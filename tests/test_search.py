"""Searches: what they ask for, that they repeat, and that adapting pays on a function without any model."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

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
        search.tell(z, [(0, float(v)) for v in value], 0, bool(value.min() < best))
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
    search.tell(z, [(0, float(-i)) for i in range(6)], 0, True)
    np.testing.assert_array_equal(search.best, z[-1])
    for _ in range(search.PATIENCE):
        assert search.restarts == 0
        search.tell(search.ask(), [(0, 0.0)] * 6, 0, False)
    assert search.restarts == 1
    np.testing.assert_allclose(search.engine.mean, z[-1])


def test_codes_far_from_those_asked_for_are_learned_in_silence() -> None:
    """A warning would be an error here; cma bounds its step by itself."""
    search = CovarianceAdaptation(np.zeros(Z, np.float32), 0.01, 6, np.random.default_rng(0))
    for _ in range(3):
        search.ask()
        far = np.eye(6, Z, dtype=np.float32) * 9
        search.tell(far, [(0, float(-i)) for i in range(6)], 0, True)
    assert np.isfinite(search.ask()).all()


def test_the_radius_grows_among_known_molecules_and_shrinks_among_failures() -> None:
    search = CovarianceAdaptation(np.zeros(Z, np.float32), 0.5, 24, np.random.default_rng(0))
    sizes = [0.5]
    for known, key in ((24, None), (0, (0, 1.0)), (0, (1, 0.3)), (0, (3, 0.0)), (12, (1, 0.3))):
        z = search.ask()[known:]
        search.tell(z, [key] * len(z), known, False)
        sizes.append(search.engine.sigma)
        assert search.radius == sizes[-1]
    assert sizes[1] > sizes[0]
    assert sizes[2] == sizes[1]
    assert sizes[2] > sizes[3] > sizes[4]
    assert sizes[5] == pytest.approx(sizes[4])  # as many of either


def test_best_of_n_learns_nothing_and_perturbation_follows_the_best() -> None:
    start = np.zeros(3, np.float32)
    for method, expected in (("best-of-n", 0.0), ("perturbation", 1.0)):
        search = METHODS[method](start, 0.1, 2, np.random.default_rng(0))
        search.tell(np.ones((2, 3), np.float32), [(0, 0.0), (0, 1.0)], 0, True)
        np.testing.assert_array_equal(search.best, np.full(3, expected))
        search.tell(np.full((2, 3), 2, np.float32), [(0, 0.0)] * 2, 0, False)
        np.testing.assert_array_equal(search.best, np.full(3, expected))


def told(slope, measure=None, generations=3, spoilt=None):
    """Return a search that knows 20 codes a generation, ranked by a plane; what is `spoilt` cannot be scored."""
    rng = np.random.default_rng(0)
    search = CovarianceAdaptation(np.zeros(Z, np.float32), 0.3, 20, rng, measure)
    assert not search.worth(np.ones((3, Z), np.float32)).any()
    for _ in range(generations):
        search.ask()
        z = rng.normal(scale=0.3, size=(20, Z)).astype(np.float32)
        bad = np.zeros(20, bool) if spoilt is None else spoilt(z)
        search.tell(z, [(int(b), v) for b, v in zip(bad, (z @ slope).tolist(), strict=True)], 0, True)
    return search, rng.normal(scale=0.3, size=(2000, Z)).astype(np.float32)


def test_the_surrogate_knows_what_is_worth_a_call_and_a_measure_helps_it() -> None:
    """A measure of 6 of 128 coordinates, which are all that values depend on."""
    slope = np.zeros(Z)
    slope[:6] = np.random.default_rng(1).standard_normal(6)
    search, z = told(slope)
    assert spearmanr(search.worth(z), z @ slope).statistic < -0.4
    search, z = told(slope, np.eye(Z, 6, dtype=np.float32), 1)
    assert spearmanr(search.worth(z), z @ slope).statistic < -0.7


def test_codes_are_asked_for_that_promise_more_and_can_be_scored() -> None:
    slope, wall = np.eye(Z)[0], np.eye(Z)[1]
    free, _ = told(slope, generations=8)
    search, _ = told(slope, generations=8, spoilt=lambda z: z @ wall > 0)
    plain = CovarianceAdaptation(np.zeros(Z, np.float32), 0.3, 20, np.random.default_rng(0))
    for one in (free, search):
        one.radius = one.engine.sigma = 0.3
    asked, walled, blind = (np.concatenate([one.ask() for _ in range(10)]) for one in (free, search, plain))
    assert (asked @ slope).mean() < (blind @ slope).mean() - 0.1
    assert (walled @ wall > 0).mean() < (blind @ wall > 0).mean() - 0.1


def test_it_knows_which_codes_can_be_scored() -> None:
    slope, wall = np.eye(Z)[0], np.eye(Z)[1]
    search, z = told(slope, generations=8, spoilt=lambda z: z @ wall > 0)
    share = search._share(z)
    assert share.min() >= 0.02
    assert spearmanr(share, z @ wall).statistic < -0.4
    free, _ = told(slope)
    assert (free._share(z) == 1).all()
    search._share = lambda z: np.where(z @ wall > 0, 0.0, 1.0)  # what cannot be scored is asked for last
    assert (search.ask() @ wall <= 0).all()


def test_a_cross_has_the_coordinates_of_its_parents() -> None:
    search, _ = told(np.eye(Z)[0])
    crosses, known = search._crosses(40), np.concatenate([search.start[None], search.known])
    assert (crosses[:, None] == known).any(1).all()  # each coordinate of each is that of something known
    own = (crosses[:, None] == known[1:]).sum(2)
    assert (own.max(1) < Z).sum() > 30
    assert (own[20:] > 0).sum(1).max() == 2  # two parents; the start's, where it is one, are zeros
    assert (crosses[:20] == 0).mean() > 0.3
    best = search.order[:15]
    assert own[:, best].sum() > 1.3 * 15 / 60 * own.sum()  # better ones are parents more often


def test_ranks_order_pairs() -> None:
    assert list(ranks([(1, -0.5), (0, 3.0), (0, -1.0), (3, 0.0), (0, 3.0)])) == [2, 1, 0, 3, 1]
