"""splits: the protocol's against numpy and DeepChem, the others by what they promise."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rdkit import Chem, DataStructs
from rdkit.Chem import rdFingerprintGenerator

from molcmim import datasets, splits
from molcmim.smiles import MoleculeError

NAMES = ["esol", "freesolv", "lipophilicity"]


DEEPCHEM = """
import json, sys
import deepchem, numpy
for ids in json.load(sys.stdin):
    data = deepchem.data.NumpyDataset(numpy.zeros(len(ids)), ids=ids)
    print(json.dumps([[int(row) for row in part] for part in deepchem.splits.ScaffoldSplitter().split(data)]))
"""


def test_scaffold_split_is_deepchems(shared_data: Path) -> None:
    frames = [datasets.load(name, shared_data / "moleculenet") for name in NAMES]
    run = subprocess.run(  # DeepChem loads for seconds and warns about all that is not installed
        [sys.executable, "-c", DEEPCHEM],
        input=json.dumps([frame.smiles.tolist() for frame in frames]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    for frame, theirs in zip(frames, run.stdout.splitlines()[-3:], strict=True):
        assert [part.tolist() for part in splits.split(frame, "scaffold")] == json.loads(theirs)


def test_random_split_is_the_protocols() -> None:
    data = pd.DataFrame({"smiles": ["C" * (i + 1) for i in range(21)]})
    order = np.random.RandomState(3).permutation(21)
    parts = splits.split(data, "random", 3)
    assert [len(part) for part in parts] == [16, 2, 3]
    np.testing.assert_array_equal(np.concatenate(parts), order)
    with pytest.raises(ValueError, match=r"scaffold split of 21 rows leaves a part empty \(train 0, valid 0"):
        splits.split(data, "scaffold")
    with pytest.raises(ValueError, match="unknown split 'time'; known are random, scaffold, cluster"):
        splits.split(data, "time")
    data.loc[4, "smiles"] = "C1CC"
    with pytest.raises(MoleculeError, match="row 4: 'C1CC': unclosed ring"):
        splits.split(data, "scaffold")


SIZES = [(0.8, 0.1, 0.1), (0.9, 0.1, 0.0), (0.7, 0.2, 0.1), (0.5, 0.25, 0.25), (1 / 3, 1 / 3, 1 / 3), (0.85, 0.15, 0.0)]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("method", splits.METHODS)
def test_parts_have_the_sizes_asked_for(method: str, sizes: tuple[float, float, float], shared_data: Path) -> None:
    data = datasets.load("esol", shared_data / "moleculenet").iloc[:240]
    parts = splits.split(data, method, 5, groups=[i // 2 for i in range(240)], sizes=sizes)
    assert sorted(np.concatenate(parts)) == list(range(240))
    within = {"random": 1e-9, "stratified": 4, "group": 2}.get(method, 8)
    assert [len(part) for part in parts] == pytest.approx([240 * size for size in sizes], abs=within)
    assert bool(len(parts.test)) == bool(sizes[2])


@pytest.mark.parametrize(
    "sizes", [(0.8, 0.1, 0.2), (1.0, 0.0, 0.0), (0.0, 0.5, 0.5), (0.9, 0.2, -0.1), (80.0, 10.0, 10.0)]
)
def test_impossible_sizes(sizes: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match=f"must add to 1, train's and valid's above 0, got {sizes[0]}, {sizes[1]}"):
        splits.split(pd.DataFrame({"smiles": ["C"] * 40}), sizes=sizes)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # which only clears the environment
@given(st.lists(st.integers(1, 45), min_size=2, max_size=4), st.integers(0, 100))
def test_a_stratified_split_deals_each_class(sizes: list[int], seed: int) -> None:
    labels = np.random.RandomState(seed).permutation(np.repeat(list("abcd")[: len(sizes)], sizes)).astype(object)
    parts = splits.split(pd.DataFrame({"smiles": "C", "y": [*labels, *["e"] * 20]}), "stratified", seed)
    assert sorted(np.concatenate(parts)) == list(range(len(labels) + 20))
    for label, size in zip("abcd", sizes, strict=False):
        rows = np.flatnonzero(labels == label)
        train, valid, test = (np.isin(rows, part).sum() for part in parts)
        assert valid in (size // 10, -(-size // 10))
        assert test in (size // 10, -(-size // 10))
        assert train == size - valid - test


def test_a_stratified_split_deals_each_range_of_values(shared_data: Path) -> None:
    data = datasets.load("esol", shared_data / "moleculenet")
    parts = [splits.split(data, "stratified", seed) for seed in (0, 0, 1)]
    assert all(map(np.array_equal, parts[0], parts[1]))
    assert not np.array_equal(parts[0].test, parts[2].test)
    assert [len(part) for part in parts[0]] == pytest.approx([902, 113, 113], abs=1)
    quartiles = [np.quantile(data["y"].iloc[part], [0.25, 0.5, 0.75]) for part in parts[0]]
    assert np.ptp(quartiles, axis=0).max() < 0.05 * data["y"].std()
    by = data.rename(columns={"y": "solubility"})
    assert all(map(np.array_equal, splits.split(by, "stratified", target="solubility"), parts[0]))


def test_a_column_of_parts() -> None:
    table = pa.table({"smiles": list("CCNNOO"), "set": ["Train", "test", "VAL", "train", "validation", "x"]})
    parts = splits.split_by(table, "set", np.array([0, 2, 3, 4]), "m.csv")
    assert [rows.tolist() for rows in parts] == [[0, 2], [1, 3], []]
    assert splits.split_by(table, "set", np.array([0, 1, 2]), "m.csv").test.tolist() == [1]
    with pytest.raises(ValueError, match=r"m\.csv: row 5, set: 'x' is none of train, valid"):
        splits.split_by(table, "set", np.arange(6), "m.csv")
    with pytest.raises(ValueError, match="set holds 1 rows of train, 0 of valid"):
        splits.split_by(table, "set", np.array([0, 1]), "m.csv")
    with pytest.raises(ValueError, match="no column part; the columns present: smiles, set"):
        splits.split_by(table, "part", np.arange(5), "m.csv")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # which only clears the environment
@given(st.lists(st.integers(1, 12), min_size=30, max_size=60), st.integers(0, 100))
def test_groups_stay_together(sizes: list[int], seed: int) -> None:
    groups = np.random.RandomState(seed).permutation(np.repeat(np.arange(len(sizes)), sizes)).tolist()
    parts = splits.split(pd.DataFrame({"smiles": ["C"] * len(groups)}), "group", seed, groups=groups)
    assert sorted(np.concatenate(parts)) == list(range(len(groups)))
    inside = [{groups[row] for row in part} for part in parts]
    assert sum(map(len, inside)) == len(set(groups))
    assert 0.8 * len(groups) - max(sizes) < len(parts.train) <= 0.8 * len(groups)
    assert len(parts.valid) <= 0.1 * len(groups) + max(sizes)


def test_which_groups_are_held_out_is_drawn_and_large_ones_are_not() -> None:
    groups = ["large"] * 40 + [f"g{i // 2}" for i in range(60)]
    data = pd.DataFrame({"smiles": ["C"] * 100})
    held_out = [splits.split(data, "group", seed, groups=groups) for seed in range(20)]
    assert len({tuple(sorted(parts.test)) for parts in held_out}) == 20
    assert len({groups[row] for parts in held_out for row in parts.test}) > 20
    assert all(set(range(40)) <= set(parts.train.tolist()) for parts in held_out)
    with pytest.raises(ValueError, match="a group split of 100 rows needs as many values of groups"):
        splits.split(data, "group")
    with pytest.raises(ValueError, match="group split of 100 rows leaves a part empty"):
        splits.split(data, "group", groups=["one"] * 100)


def test_clusters_are_spheres_around_their_leaders_and_stay_together(shared_data: Path) -> None:
    data = datasets.load("esol", shared_data / "moleculenet")
    molecules = splits.canonical(data["smiles"].tolist())
    number = splits.clusters(molecules)
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    prints = [generator.GetFingerprint(Chem.MolFromSmiles(molecule)) for molecule in molecules]
    leaders = []  # by the definition, one molecule after the other
    for one in prints:
        if max(DataStructs.BulkTanimotoSimilarity(one, leaders), default=0) < splits.CLUSTER:
            leaders.append(one)
    similar = np.array([DataStructs.BulkTanimotoSimilarity(one, leaders) for one in prints])
    np.testing.assert_array_equal(number, similar.argmax(1))
    assert 100 < len(leaders) < len(data) / 2

    parts = splits.split(data, "cluster", 1)
    assert [len(part) / len(data) for part in parts] == pytest.approx([0.8, 0.1, 0.1], abs=0.01)
    assert not set(number[parts.train]) & set(number[parts.test])
    nearest = [
        max(DataStructs.BulkTanimotoSimilarity(prints[row], [prints[i] for i in parts.train])) for row in parts.test
    ]
    drawn = splits.split(data, "random", 1)
    usual = [
        max(DataStructs.BulkTanimotoSimilarity(prints[row], [prints[i] for i in drawn.train])) for row in drawn.test
    ]
    assert np.mean(nearest) < np.mean(usual) - 0.1
