"""The paper's experiments: their quick forms run, and what they compute is right on tables made by hand."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module", autouse=True)
def examples():
    sys.path.insert(0, str(ROOT / "examples"))
    yield
    sys.path.remove(str(ROOT / "examples"))


def quick(monkeypatch, folder, name, *arguments):
    """Run a quick form in this process, which has already paid for the imports."""
    monkeypatch.setattr(sys, "argv", [name, *arguments, "--quick", "--output", str(folder)])
    importlib.import_module(name).main()
    for picture in folder.glob("*.png"):
        assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    return {path.name: path for path in folder.iterdir()}


def test_toy(tmp_path):
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("results"))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "examples/toy_2d.py", "--quick"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = tmp_path / "examples" / "results" / "quick"
    assert {path.name for path in results.iterdir()} == {"toy_2d.csv", "toy_2d_effect.csv", "toy_2d.png"}
    table = pd.read_csv(results / "toy_2d.csv")
    assert table["objective"].tolist() == ["mim", "cmim", "cmim", "mim"]
    assert table.select_dtypes("number").drop(columns="tau").notna().all(axis=None)
    assert (table["ks_angle_of_inputs"] > 0.2).tolist() == [True, True, True, False]


def test_batch_size_on_digits(tmp_path, monkeypatch):
    results = quick(monkeypatch, tmp_path, "batch_size", "digits")
    assert set(results) == {"batch_size_digits.csv", "batch_size_digits_slopes.csv", "batch_size_digits.png"}
    table = pd.read_csv(results["batch_size_digits.csv"])
    assert len(table) == 3 * 2 * 3
    assert table["score"].between(0.1, 1).all()


def test_batch_size_on_molecules(tmp_path, monkeypatch, shared_data):
    data = ("molecules", "--data", str(shared_data / "moleculenet"), "--runs", str(tmp_path / "runs"))
    results = quick(monkeypatch, tmp_path / "results", "batch_size", *data)
    table = pd.read_csv(results["batch_size_molecules.csv"])
    assert len(table) == 3 * 2 + 1
    assert table["score"].between(-2.5, -0.5).all()  # the train set's mean has -2.079
    assert table.loc[table["z"].isna(), "objective"].tolist() == ["untrained"]
    assert set(pd.read_csv(results["batch_size_molecules_slopes.csv"])["objective"]) >= {"mim", "cmim", "infonce"}
    # Killed after all runs but one, it does that one.
    (tmp_path / "runs" / "molecules" / "cmim-10-0-5.csv").unlink()
    experiment, done = importlib.import_module("batch_size"), []
    monkeypatch.setattr(experiment, "trained", lambda data, **choices: done.append(choices) or train(data, **choices))
    train = importlib.import_module("short_runs").trained
    again = quick(monkeypatch, tmp_path / "again", "batch_size", *data)
    assert [(choices["objective"], choices["batch_size"]) for choices in done] == [("cmim", 10)]
    pd.testing.assert_frame_equal(pd.read_csv(again["batch_size_molecules.csv"]), table)


@pytest.mark.parametrize("experiment", ["compare", "ablate", "recipe", "anatomy"])
def test_informative(tmp_path, monkeypatch, shared_data, experiment):
    results = quick(monkeypatch, tmp_path, "informative", experiment, "--data", str(shared_data / "moleculenet"))
    name = f"informative_{experiment}"
    more = {f"{name}_anova.csv", f"{name}_gain.csv"} if experiment == "compare" else set()
    assert set(results) == {f"{name}.csv", f"{name}.png"} | more
    table = pd.read_csv(results[f"{name}.csv"])
    assert len(table) == {"compare": 3, "ablate": 2, "recipe": 2, "anatomy": 3}[experiment] * 3 * 2
    assert table["rmse"].between(1, 10).all()  # the train set's mean has 3.704
    if experiment == "compare":
        untrained, trained = (table[(table["objective"] == "untrained") == is_it] for is_it in (True, False))
        assert untrained["token_accuracy"].max() < 0.1 < trained["token_accuracy"].min()
        assert set(table["split"]) == {"random", "scaffold"}


@pytest.mark.parametrize("objective", ["cmim", "infonce"])
def test_a_short_run_ends_as_pretrain_ends(tmp_path, objective):
    from molcmim.pretrain import pretrain
    from molcmim.recipe import Recipe

    runs = importlib.import_module("short_runs")
    data = runs.stores(None, None, tmp_path)
    choices = {"objective": objective, "batch_size": 8, "steps": 4, "seed": 5, "model.width": 32}
    short = runs.trained(data, **choices).model.state_dict()
    posterior = {"cmim": "sampled", "infonce": "point"}[objective]
    budget = {"warmup_steps": 0, "log_every": 4, "evaluate_every": 4, "save_every": 4, "posterior": posterior}
    store = tmp_path / "store"
    model = pretrain(store, store, tmp_path / "run", Recipe.load("tiny", **choices, **budget))
    for name, weight in runs.Featurizer.from_pretrained(model).model.state_dict().items():
        assert torch.equal(short[name], weight), name


def test_slopes_are_those_of_the_lines_drawn():
    experiment = importlib.import_module("batch_size")
    rows = []
    for seed in range(3):
        for i, (objective, slope) in enumerate(zip(experiment.OBJECTIVES, (0, 0.1, 0.2, 1, 0.3, 0), strict=True)):
            slope += 0.01 * (i + 1) * (seed - 1)
            rows += [(objective, b, seed, "knn", slope * np.log10(b)) for b in (2, 10, 200)]
    frame = pd.DataFrame(rows, columns=["objective", "batch_size", "seed", "probe", "z"])
    found = experiment.slopes(frame).set_index(["probe", "objective"])
    for probe in ("knn", "all"):
        assert found.loc[(probe, "infonce"), "slope"] == pytest.approx(1.0)
        assert found.loc[(probe, "infonce minus cmim"), "slope"] == pytest.approx(0.9)
        # t with 2 degrees of freedom: 4.3027 sd / sqrt 3
        assert found.loc[(probe, "infonce"), "high"] == pytest.approx(1.0 + 4.302653 * 0.04 / np.sqrt(3))
        assert found.loc[(probe, "infonce"), "p"] < 1e-3


def test_views_of_digits_are_the_digits_moved():
    experiment = importlib.import_module("batch_size")
    torch.manual_seed(0)
    x = torch.zeros(50, 8, 8)
    x[:, 3, 4] = 1.0
    moved = experiment.shifted(x.flatten(1)).view(-1, 8, 8)
    at = moved.flatten(1).argmax(1)
    assert set(at.tolist()) == {8 * i + j for i in (2, 3, 4) for j in (3, 4, 5)}
    assert 0.05 < (moved - moved.round()).std() < 0.15


def table_of(cells):
    """`cells[objective][embedding]`: the RMSE of each seed."""
    return pd.DataFrame(
        [(o, e, s, v) for o, row in cells.items() for e, values in row.items() for s, v in enumerate(values)],
        columns=["objective", "embedding", "seed", "rmse"],
    )


def test_variance_is_taken_apart():
    experiment = importlib.import_module("informative")
    table = table_of({
        "mim": {"mean": [1.1, 0.9], "informative": [0.7, 0.9], "both": [5.0, 9.0]},
        "cmim": {"mean": [0.8, 0.6], "informative": [0.4, 0.6], "both": [7.0, 8.0]},
        "untrained": {"mean": [3.0, 4.0], "informative": [1.0, 2.0], "both": [1.0, 9.0]},
    })  # fmt: skip
    found = experiment.anova(table.sample(frac=1, random_state=0)).set_index("source")  # in any order of rows
    # Means: mim 0.9, cmim 0.6; mean 0.85, informative 0.65; nothing beyond; each cell's seeds 0.1 about their mean.
    squares = {"objective": 8 * 0.15**2, "embedding": 8 * 0.1**2, "objective x embedding": 0.0, "seed (rest)": 8 * 0.01}
    assert found["sum_of_squares"].to_dict() == pytest.approx(squares, abs=1e-12)
    assert found["df"].to_dict() == {"objective": 1, "embedding": 1, "objective x embedding": 1, "seed (rest)": 4}
    assert found["share"].sum() == pytest.approx(1)
    assert found.loc["objective", "F"] == pytest.approx(0.18 / (0.08 / 4))
    assert experiment.gain(table) == pytest.approx({"gain": 0.5, "from_objective": 0.3, "from_embedding": 0.2})


def test_states_of_the_last_layer_pooled_by_mean_are_the_informative_embedding(tiny_checkpoint):
    from molcmim import Featurizer

    experiment = importlib.import_module("informative")
    featurizer = Featurizer.from_pretrained(tiny_checkpoint)
    molecules = ["CCO", "c1ccccc1O", "CCO", "CC(=O)Oc1ccccc1C(=O)O"]
    encoded = featurizer.reader().read(molecules)
    found = experiment.states(featurizer.model, encoded, told=True)
    expected = featurizer.featurize(molecules, "informative")
    np.testing.assert_allclose(found["final norm", "mean"], expected, atol=1e-5)
    assert set(found) == {(la, p) for la in ("block 1", "block 2", "final norm") for p in ("mean", "max", "last")}
    assert (found["final norm", "max"] >= found["final norm", "mean"]).all()
    itself = experiment.states(featurizer.model, encoded, told=False)
    assert not np.allclose(itself["final norm", "mean"], expected, atol=1e-2)
