"""Batches gathered on a device: the same, item for item, as those of molcmim.data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from stores import write_store

from molcmim import resident
from molcmim.data import TOKENS, BucketedBatches, TokenStore
from molcmim.resident import ResidentBatches


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    return [TokenStore(write_store(folder / str(described), 0, 40, described)) for described in (False, True)]


@pytest.mark.parametrize(
    "choices",
    [
        {},
        {"mode": "canonical"},
        {"mode": "equivariant", "views": 2},
        {"views": 2, "canonical_share": 0.7},
        {"drop_last": False, "rank": 1, "world": 2},
    ],
)
@pytest.mark.parametrize("described", [0, 1])
def test_they_are_the_same_batches(stores, described, choices, monkeypatch):
    monkeypatch.setattr(resident, "READ_AT_ONCE", 7)
    batches = BucketedBatches(stores[described], 6, seed=3, window=2, **choices)
    there = ResidentBatches(batches, torch.device("cpu"))
    assert len(there) == len(batches)
    for step in [*range(2 * len(batches) + 1), 0, 5 * len(batches)]:  # through epochs, back, and far ahead
        expected, found = batches[step], there[step]
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            assert found[name].dtype == tensor.dtype
            assert torch.equal(found[name], tensor), (step, name)


def test_larger_vocabularies_fit_too(tmp_path):
    folder = write_store(tmp_path / "wide", 0, 20, dtype="uint16")
    np.fromfile(folder / TOKENS, np.uint8).astype(np.uint16).tofile(folder / TOKENS)
    batches = BucketedBatches(TokenStore(folder), 4)
    assert torch.equal(ResidentBatches(batches, torch.device("cpu"))[1]["input_ids"], batches[1]["input_ids"])
