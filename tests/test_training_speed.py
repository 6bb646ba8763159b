"""Training speed: what is timed is a real run, and padding is counted."""

from __future__ import annotations

import pytest
from stores import write_store

from molcmim import training_speed
from molcmim.data import PAD_MULTIPLE, TokenStore
from molcmim.recipe import Recipe


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("stores") / "train", 0, None, True)


def test_variants_are_timed_and_compared_with_the_first(store, monkeypatch):
    monkeypatch.setattr(training_speed, "VARIANTS", {"one": {"seed": 1}, "AdamW": {"optimizer": "adamw"}})
    found = training_speed.measure(store, Recipe.load("tiny", batch_size=8), steps=3, rounds=1)
    assert list(found["variant"]) == ["one", "AdamW"]
    assert (found[["molecules_per_second", "mfu"]] > 0).all(axis=None)
    assert found["busy"].isna().all()  # no GPU
    assert found["relative"][1] == pytest.approx(found["molecules_per_second"][1] / found["molecules_per_second"][0])


def test_padding_is_what_the_lengths_leave(store):
    found = training_speed.padding(store, 8)
    lengths = TokenStore(store).lengths
    assert 0 <= found["bucketed"] < found["random"] < 1 - lengths.min() / (lengths.max() + PAD_MULTIPLE)


@pytest.mark.parametrize("steps", [0, 4])
def test_odd_numbers_of_steps_are_refused(steps):
    with pytest.raises(ValueError, match="multiple of 3"):
        training_speed.measure("nowhere", Recipe(), steps=steps)


def test_overlapping_spans_count_once():
    assert training_speed.covered([]) == 0
    assert training_speed.covered([(5.0, 6.0), (0.0, 2.0), (1.0, 3.0), (1.5, 2.5), (6.0, 6.5)]) == 4.5


def test_all_molecules_of_a_store_are_embedded(store, monkeypatch):
    seen = []
    encode = training_speed.MolCMIMModel.encode
    monkeypatch.setitem(training_speed.TOKENS_PER_BATCH, "cpu", 100)
    monkeypatch.setattr(
        training_speed.MolCMIMModel, "encode", lambda self, ids: (seen.append(ids.shape), encode(self, ids))[1]
    )
    monkeypatch.setattr(training_speed, "EMBEDDED", {"cpu": 20, "cuda": 20})
    assert training_speed.embedding(store, Recipe.load("tiny")) > 0
    assert sum(rows for rows, _ in seen) == 2 * 20
    assert all(rows * length <= 100 for rows, length in seen)
