"""Worker processes that work ahead, in order, on a bounded number of tasks. Knows nothing of the work."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

import joblib

IN_FLIGHT = 4
"""Tasks per worker that are waiting, worked on or done and not yet taken, at any time."""

T = TypeVar("T")
R = TypeVar("R")


def ordered_map(work: Callable[[T], R], tasks: Iterable[T], workers: int | None = None) -> Iterator[tuple[T, R]]:
    """Yield each task with its result, in order.

    Parameters
    ----------
    work
        Picklable, as are tasks and results.
    tasks
        Drawn only as far ahead as `IN_FLIGHT` says.
    workers
        Processes; 0: work in this one; default: as many as there are CPUs for this process.
    """
    workers = joblib.cpu_count() if workers is None else workers
    if not workers:
        yield from ((task, work(task)) for task in tasks)
        return
    context = multiprocessing.get_context("spawn")
    waiting: deque[tuple[T, Future[R]]] = deque()
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent) as pool:
        try:
            for task in tasks:
                with _without_main():
                    waiting.append((task, pool.submit(work, task)))
                if len(waiting) >= IN_FLIGHT * workers:
                    task, future = waiting.popleft()
                    yield task, future.result()
            while waiting:
                task, future = waiting.popleft()
                yield task, future.result()
        except BrokenProcessPool as error:
            raise OSError("a worker process was killed, perhaps because memory ran out; try fewer --workers") from error
        finally:
            pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Start processes that do not run the user's script again: none of the work is in it.

    A script without ``if __name__ == "__main__":``, or one read from standard input, could not start any otherwise.
    """
    main = sys.modules["__main__"].__dict__
    kept: dict[str, Any] = {name: main.pop(name) for name in ("__file__", "__spec__") if name in main}
    main["__spec__"] = None
    try:
        yield
    finally:
        main.update(kept)


def _end_with_parent() -> None:
    """Make this worker end when the parent is killed, instead of waiting for work for ever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent ends its workers
    parent = multiprocessing.parent_process()
    if parent is not None:

        def watch(parent: BaseProcess = parent) -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=watch, daemon=True).start()
