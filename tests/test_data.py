"""The token store and its batches, against plain loops over a small synthetic store."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from molcmim.data import (
    DESCRIPTORS,
    MANIFEST,
    OFFSETS,
    TOKENS,
    BucketedBatches,
    DescriptorScale,
    StoreManifest,
    TokenStore,
)

N, SPELLINGS, P = 203, 3, 5


def write_store(folder, n=N, spellings=SPELLINGS, p=P, seed=0):
    """Write a store whose first body token of every spelling is its spelling number + 10; return its rows."""
    random = np.random.default_rng(seed)
    rows = []
    for row in range(n * spellings):
        body = random.integers(4, 200, size=random.integers(1, 40))
        rows.append([1, row % spellings + 10, *body.tolist(), 2])
    descriptors = random.normal(3.0, 2.0, (n, p)).astype(np.float32)
    folder.mkdir(exist_ok=True)
    tokens = np.concatenate(rows).astype(np.uint8)
    tokens.tofile(folder / TOKENS)
    np.save(folder / OFFSETS, np.cumsum([0, *map(len, rows)]))
    if p:
        np.save(folder / DESCRIPTORS, descriptors)
    manifest = StoreManifest(
        notation="smiles",
        tokenizer="smiles",
        vocab_hash="0",
        num_molecules=n,
        spellings=spellings,
        num_tokens=len(tokens),
        max_tokens=max(map(len, rows)),
        dtype="uint8",
        joined=0,
        rejected=0,
        descriptor_names=[f"d{i}" for i in range(p)],
        descriptor_mean=descriptors.mean(0).tolist(),
        descriptor_std=descriptors.std(0).tolist(),
        sources=[],
        settings={},
    )
    (folder / MANIFEST).write_text(manifest.dump())
    return rows, descriptors


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def written(folder):
    return write_store(folder)


@pytest.fixture(scope="module")
def store(folder, written):
    return TokenStore(folder)


def spelled(store, rows, batch, molecules, key="input_ids"):
    """Check that each row of a batch is one of its molecule's spellings; return which."""
    spellings = batch[key][:, 1].numpy() - 10
    for ids, molecule, spelling in zip(batch[key].tolist(), molecules, spellings, strict=True):
        expected = rows[molecule * store.manifest.spellings + spelling]
        assert ids == expected + [0] * (len(ids) - len(expected))
    return spellings


def test_gather_equals_a_loop(store, written):
    rows, _ = written
    wanted = np.array([5, 0, 608, 5, 77, N * SPELLINGS - 1])
    ids, lengths = store.gather(wanted)
    assert ids.dtype == np.int64
    assert lengths.tolist() == [len(rows[row]) for row in wanted]
    width = max(lengths)
    assert ids.tolist() == [rows[row] + [0] * (width - len(rows[row])) for row in wanted]
    padded = store.gather(wanted, multiple=8).ids
    assert padded.shape[1] % 8 == 0
    assert padded.shape[1] - width in range(8)
    assert (padded[:, :width] == ids).all()
    assert not padded[:, width:].any()
    assert store.lengths.tolist() == [len(row) for row in rows]


def test_descriptors_are_standardised_by_the_named_store(store, written, tmp_path):
    _, raw = written
    molecules = np.array([3, 1, 200])
    expected = (raw[molecules] - raw.mean(0)) / raw.std(0)
    np.testing.assert_allclose(store.descriptors(molecules), expected, rtol=1e-4, atol=1e-5)
    write_store(tmp_path, n=4, seed=1)
    other = TokenStore(tmp_path)
    of_other = (np.load(tmp_path / DESCRIPTORS) - raw.mean(0)) / raw.std(0)
    ours = other.descriptors(np.arange(4), scale=store.manifest.descriptor_scale)
    np.testing.assert_allclose(ours, of_other, rtol=1e-4, atol=1e-5)
    names, mean, std = store.manifest.descriptor_scale
    some = DescriptorScale(names[::-2], mean[::-2], std[::-2])  # a checkpoint may know fewer, in another order
    np.testing.assert_array_equal(other.descriptors(np.arange(4), scale=some), ours[:, ::-2])
    np.save(tmp_path / DESCRIPTORS, np.full((4, P), 1e9, np.float32))
    assert (TokenStore(tmp_path).descriptors(np.arange(4)) == 10).all()


@pytest.mark.parametrize("mode", ["canonical", "equivariant", "invariant"])
def test_modes(store, written, mode):
    rows, raw = written
    batches = BucketedBatches(store, 25, seed=4, mode=mode, drop_last=False)
    drawn = []
    for index in range(len(batches)):
        batch, molecules = batches.batch(1, index), batches.molecules(1, index)
        inputs = spelled(store, rows, batch, molecules)
        targets = spelled(store, rows, batch, molecules, "target_ids")
        assert (targets == (inputs if mode == "equivariant" else 0)).all()
        drawn += inputs.tolist()
        lengths = [len(rows[m * SPELLINGS + s]) for m, s in zip(molecules, inputs, strict=True)]
        assert batch["attention_mask"].dtype == torch.bool
        assert batch["attention_mask"].sum(1).tolist() == lengths
        assert (batch["attention_mask"] == (batch["input_ids"] != 0)).all()
        for ids in (batch["input_ids"], batch["target_ids"]):
            assert ids.shape[1] % 8 == 0
            assert (ids[:, -8:] != 0).any()
        expected = (raw[molecules] - raw.mean(0)) / raw.std(0)
        np.testing.assert_allclose(batch["descriptors"], expected, rtol=1e-4, atol=1e-5)
    counts = np.bincount(drawn, minlength=SPELLINGS)
    if mode == "canonical":
        assert counts.tolist() == [N, 0, 0]
    else:
        assert counts.min() > N / 5  # uniform: 68 each, standard deviation 7


@pytest.mark.parametrize("share", [0.0, 0.75, 1.0])
def test_the_canonical_spelling_is_read_as_often_as_said(store, written, share):
    rows, _ = written
    batches = BucketedBatches(store, 25, drop_last=False, canonical_share=share)
    drawn: list[int] = []
    for epoch in range(10):
        for index in range(len(batches)):
            batch, molecules = batches.batch(epoch, index), batches.molecules(epoch, index)
            drawn += spelled(store, rows, batch, molecules).tolist()
            assert (spelled(store, rows, batch, molecules, "target_ids") == 0).all()
    found = np.bincount(drawn, minlength=SPELLINGS) / len(drawn)
    expected = [share, *[(1 - share) / (SPELLINGS - 1)] * (SPELLINGS - 1)]
    assert np.abs(found - expected).max() < 0.04  # 2,050 draws: standard deviation 0.01


def test_two_views_are_two_spellings(store, written):
    rows, _ = written
    batches = BucketedBatches(store, 25, views=2)
    pairs = []
    for index, batch in enumerate(batches):
        molecules = batches.molecules(0, index)
        first = spelled(store, rows, batch, molecules)
        second = spelled(store, rows, batch, molecules, "input_ids_2")
        assert (batch["attention_mask_2"] == (batch["input_ids_2"] != 0)).all()
        assert (first != second).all()
        pairs += [3 * a + b for a, b in zip(first, second, strict=True)]
    assert set(pairs) == {1, 2, 3, 5, 6, 7}


@pytest.mark.parametrize("batch_size", [1, 25, N, 500])
def test_every_molecule_once_per_epoch(store, batch_size):
    batches = BucketedBatches(store, batch_size, window=3, drop_last=False)
    for epoch in (0, 1):
        seen = np.concatenate([batches.molecules(epoch, i) for i in range(len(batches))])
        assert sorted(seen) == list(range(N))


def test_drop_last_leaves_out_another_rest_each_epoch(store):
    batches = BucketedBatches(store, 25)
    assert len(batches) == N // 25
    rests = []
    for epoch in range(2):
        seen = [batches.molecules(epoch, i) for i in range(len(batches))]
        assert all(len(molecules) == 25 for molecules in seen)
        assert len(set(np.concatenate(seen))) == N // 25 * 25
        rests.append(set(range(N)) - set(np.concatenate(seen)))
    assert rests[0] != rests[1]


def test_a_batch_is_a_pure_function_of_seed_and_step(store):
    def same(a, b):
        return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)

    batches, again = BucketedBatches(store, 25, seed=1, views=2), BucketedBatches(store, 25, seed=1, views=2)
    steps = range(3 * len(batches))
    forward = [batches[step] for step in steps]
    assert all(same(again[step], forward[step]) for step in reversed(steps))
    resumed = DataLoader(
        pickle.loads(pickle.dumps(again)), batch_size=None, sampler=range(10, 3 * len(batches)), num_workers=2
    )
    assert all(same(a, b) for a, b in zip(resumed, forward[10:], strict=True))
    assert not same(forward[0], forward[len(batches)])
    assert not same(forward[0], BucketedBatches(store, 25, seed=2, views=2)[0])
    assert len(pickle.dumps(store)) < 1000


def test_the_drawn_spelling_depends_on_seed_epoch_and_molecule_alone(store):
    def drawn(batch_size, seed, epoch):
        batches = BucketedBatches(store, batch_size, seed=seed, drop_last=False)
        spelling = {}
        for i in range(len(batches)):
            ids = batches.batch(epoch, i)["input_ids"]
            spelling |= dict(zip(batches.molecules(epoch, i), ids[:, 1].tolist(), strict=True))
        return spelling

    assert drawn(25, 0, 0) == drawn(10, 0, 0)
    assert drawn(25, 0, 0) != drawn(25, 0, 1)
    assert drawn(25, 0, 0) != drawn(25, 1, 0)


@pytest.mark.parametrize("drop_last", [True, False])
def test_ranks_partition_the_batches_of_one_rank(store, drop_last):
    one = BucketedBatches(store, 24, drop_last=drop_last)
    ranks = [BucketedBatches(store, 24, rank=rank, world=3, drop_last=drop_last) for rank in range(3)]
    assert {len(one), *map(len, ranks)} == {len(one)}
    for step in range(2 * len(one)):
        whole = one[step]
        for rank, part in enumerate(r[step] for r in ranks):
            assert part.keys() == whole.keys()
            for key, mine in part.items():
                theirs = whole[key][rank::3]
                assert torch.equal(theirs[:, : mine.shape[1]], mine)  # each rank pads to its own longest
                assert key == "descriptors" or not theirs[:, mine.shape[1] :].any()


def test_batches_hold_similar_lengths(store):
    def padding(window):
        batches = BucketedBatches(store, 10, window=window, mode="equivariant")
        masks = [batch["attention_mask"] for batch in batches]
        return 1 - sum(mask.sum() for mask in masks) / sum(mask.numel() for mask in masks)

    assert padding(window=20) < 0.6 * padding(window=1)


def test_a_store_without_extras(tmp_path):
    write_store(tmp_path, n=7, spellings=1, p=0)
    store = TokenStore(tmp_path)
    batch = BucketedBatches(store, 7)[0]
    assert set(batch) == {"input_ids", "attention_mask", "target_ids"}
    assert "7 molecules x 1 spellings" in repr(store)
    assert len(store) == 7
    with pytest.raises(ValueError, match="--descriptors"):
        store.descriptors(np.arange(2))
    for choice in ({"views": 2}, {"canonical_share": 0.5}):
        with pytest.raises(ValueError, match="--spellings"):
            BucketedBatches(store, 7, **choice)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "random"}, "canonical, equivariant, invariant, got 'random'"),
        ({"batch_size": 0}, "got 0"),
        ({"batch_size": 25, "world": 2}, "multiple of world=2, got 25"),
        ({"rank": 2, "world": 2}, "rank .* got 2"),
        ({"views": 3}, "got 3"),
        ({"views": 2, "mode": "canonical"}, "two spellings"),
        ({"batch_size": 500}, "203 molecules, fewer than one batch of 500"),
    ],
)
def test_bad_arguments(store, arguments, message):
    with pytest.raises(ValueError, match=message):
        BucketedBatches(store, **{"batch_size": 20, **arguments})


def test_steps_out_of_range(store):
    batches = BucketedBatches(store, 25)
    with pytest.raises(IndexError, match="-1"):
        batches[-1]
    with pytest.raises(IndexError, match="8 of an epoch of 8"):
        batches.batch(0, 8)


def test_a_damaged_store_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="molcmim prepare"):
        TokenStore(tmp_path / "nothing")
    write_store(tmp_path, n=7)
    manifest = (tmp_path / MANIFEST).read_text()
    for damaged in (manifest[:-20], "[]", manifest.replace("num_tokens", "tokens")):
        (tmp_path / MANIFEST).write_text(damaged)
        with pytest.raises(ValueError, match=rf"{MANIFEST} is damaged \(.*; prepare the store again"):
            TokenStore(tmp_path)
    (tmp_path / MANIFEST).write_text(manifest)
    tokens = (tmp_path / TOKENS).read_bytes()
    (tmp_path / TOKENS).write_bytes(tokens[:-1])
    with pytest.raises(ValueError, match=f"{TOKENS} has shape"):
        TokenStore(tmp_path)
    (tmp_path / TOKENS).write_bytes(tokens)
    TokenStore(tmp_path)
    np.save(tmp_path / DESCRIPTORS, np.zeros((6, P), np.float32))
    with pytest.raises(ValueError, match=f"{DESCRIPTORS} has shape"):
        TokenStore(tmp_path)
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    (tmp_path / MANIFEST).write_text(json.dumps({**manifest, "format_version": 99}))
    with pytest.raises(ValueError, match="store format 99"):
        TokenStore(tmp_path)
