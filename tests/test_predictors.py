"""predictors: what each is given and what it must not see; peers with tiny budgets where they are installed."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from molcmim import datasets, finetune, predictors
from molcmim.cli import app
from molcmim.datasets import Split
from molcmim.downstream import rmse
from molcmim.predictors import PREDICTORS

SPLIT = Split(np.arange(0, 60), np.arange(60, 75), np.arange(75, 90))


@pytest.fixture(scope="module")
def problem(shared_data: Path) -> tuple[list[str], np.ndarray]:
    """90 molecules of FreeSolv."""
    data = datasets.load("freesolv", shared_data / "moleculenet").sample(90, random_state=0)
    return list(data.smiles), data.y.to_numpy()


def installed(name: str) -> None:
    for package in PREDICTORS[name].packages:
        if predictors._version(package) is None:
            pytest.skip(f"{package} is not installed")


def is_sound(name: str, problem: tuple[list[str], np.ndarray], checkpoint: Path | str = "") -> None:
    """Predictions are finite, told by valid, the same again, and do not depend on the test part's values."""
    molecules, y = problem
    fit = predictors.fit(name, molecules, y, SPLIT, 1, checkpoint)
    assert np.isfinite(fit.test_predictions).all()
    assert fit.valid_rmse == pytest.approx(rmse(y[SPLIT.valid], fit.valid_predictions))
    assert fit.test_rmse == pytest.approx(rmse(y[SPLIT.test], fit.test_predictions))
    assert np.ptp(fit.test_predictions) > 0
    hidden = y.copy()
    hidden[SPLIT.test] = 1e3 * np.arange(15)
    again = predictors.fit(name, molecules, hidden, SPLIT, 1, checkpoint)
    np.testing.assert_array_equal(again.test_predictions, fit.test_predictions)
    assert again.hyperparameters == fit.hyperparameters


def test_finetuned(
    problem: tuple[list[str], np.ndarray], tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = predictors.identity("finetuned")
    monkeypatch.setattr(finetune, "Choices", functools.partial(finetune.Choices, epochs=2, waves=64))
    assert predictors.identity("finetuned") != before  # other settings are another fit
    is_sound("finetuned", problem, tiny_checkpoint)


@pytest.mark.timeout(600)  # five processes, each of which imports PyTorch
def test_chemprop(problem: tuple[list[str], np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    installed("chemprop")
    plain = predictors._run_chemprop

    def short(folder: Path, command: str, *arguments: str) -> None:
        plain(folder, command, *arguments, *(["--epochs", "3"] if command == "train" else []))

    monkeypatch.setattr(predictors, "_run_chemprop", short)
    is_sound("chemprop", problem)
    with pytest.raises(RuntimeError, match="chemprop train failed"):
        predictors.fit("chemprop", ["no molecule"] * 90, problem[1], SPLIT)


@pytest.mark.filterwarnings("ignore")  # DeepChem's and PyTorch Geometric's own
def test_dmpnn(problem: tuple[list[str], np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    installed("dmpnn")
    monkeypatch.setattr(predictors, "EPOCHS", 2)
    is_sound("dmpnn", problem)


@pytest.mark.timeout(600)  # TensorFlow compiles every epoch's graph
@pytest.mark.filterwarnings("ignore")  # DeepChem's and TensorFlow's own
def test_graphconv(problem: tuple[list[str], np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    installed("graphconv")
    monkeypatch.setattr(predictors, "EPOCHS", 2)
    is_sound("graphconv", problem)


def test_what_cannot_run_is_said() -> None:
    with pytest.raises(ValueError, match=r"unknown predictor attentivefp; .* graphconv \(.* needs DGL"):
        predictors.require(["attentivefp"])


def test_what_is_not_installed_is_said_before_anything_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictors, "_version", lambda package: None if package == "chemprop" else "1")
    arguments = ["benchmark", "property", "-o", str(tmp_path / "out"), "--predictors", "finetuned,chemprop"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert result.stderr == (
        "molcmim: chemprop needs chemprop, which is not installed: pip install 'molcmim[chemprop]'\n"
    )
    assert not list(tmp_path.iterdir())


def test_versions_are_part_of_the_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    before = predictors.identity("chemprop")
    monkeypatch.setattr(predictors, "_version", lambda package: "0")
    assert predictors.identity("chemprop") != before
