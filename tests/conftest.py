"""Fixtures for all tests; molcmim's annotations, shapes included, are checked at run time while they run."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch loads: two threads on tiny tensors only fight

import hypothesis
import pytest
from jaxtyping import install_import_hook

install_import_hook("molcmim", "beartype.beartype")
hypothesis.settings.register_profile("molcmim", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("molcmim")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repo() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with the property sets and the corpus, which are no part of the repository."""
    folder = Path(os.environ.get("MOLCMIM_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no data at {folder}; set MOLCMIM_TEST_DATA to the folder that holds moleculenet/")
    return folder
