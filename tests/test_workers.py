"""workers: what is done elsewhere comes back in order, and what goes wrong there is said."""

from __future__ import annotations

import os
import signal

import pytest

from molcmim.workers import ordered_map


def square(number: int) -> int:
    return number * number


def killed(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_results_are_in_order() -> None:
    for workers in (0, 2):
        assert list(ordered_map(square, range(20), workers)) == [(i, i * i) for i in range(20)]


def test_a_killed_worker_is_one_clear_error() -> None:
    with pytest.raises(OSError, match="a worker process was killed, perhaps because memory ran out; try fewer"):
        list(ordered_map(killed, range(20), 1))
