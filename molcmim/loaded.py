"""Loaded checkpoints, shared within a process by all who only read them. Knows no hosts and no molecules."""

from __future__ import annotations

import functools
import os
import threading
from pathlib import Path

import torch

from molcmim import checkpoint
from molcmim.featurizer import Featurizer

AT_ONCE = 4
"""Checkpoints kept; one more, and the one longest unused makes room."""

_lock = threading.Lock()


def featurizer(name_or_path: str | os.PathLike[str], device: str | torch.device | None = None) -> Featurizer:
    """Load a checkpoint, or return what a call before has loaded. Leave its model as it is.

    A checkpoint is told by where it lies and by the hash of its weights, so one that has been replaced since
    is loaded anew.

    Parameters
    ----------
    name_or_path, device
        As :meth:`molcmim.Featurizer.from_pretrained`, which says what is raised.
    """
    folder = checkpoint.resolve(name_or_path).resolve()
    with _lock:
        return _load(folder, checkpoint.read_record(folder)["weights_sha256"], device and str(device))


@functools.lru_cache(maxsize=AT_ONCE)
def _load(folder: Path, weights_sha256: str, device: str | None) -> Featurizer:
    return Featurizer.from_pretrained(folder, device)
