"""Predictors from SMILES to values, trained end to end: peers' and ours. Knows neither features nor tables.

What a predictor is given: molecules and values of the train part, which it fits, those of the valid part, by which
it chooses when to stop, and the molecules alone of the test part. Peers are run with their own defaults, each
in the way its documentation shows. Their packages are no dependencies of ours: :func:`require` says what to install.

Not here: DeepChem's AttentiveFPModel, for it needs DGL, whose last release cannot be imported beside today's PyTorch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Float64

from molcmim import downstream
from molcmim.datasets import Split

NO_ATTENTIVEFP = "DeepChem's AttentiveFPModel needs DGL, whose last release cannot be imported beside today's PyTorch"
"""Said to those who ask for it."""
EPOCHS = 50
"""Of predictors that have no default of their own."""


class Labelled(NamedTuple):
    """Molecules with values."""

    smiles: list[str]
    """SMILES."""
    y: Float64[np.ndarray, " m"]
    """Measured values."""


class Prediction(NamedTuple):
    """What a fitted predictor says."""

    chosen: dict[str, int | float]
    """What was chosen on the valid part, by name."""
    valid: Float[np.ndarray, " n_valid"]
    """Values of the valid part's molecules."""
    test: Float[np.ndarray, " n_test"]
    """Values of the test part's molecules."""


class Predictor(NamedTuple):
    """How one is run."""

    run: Callable[[Labelled, Labelled, list[str], int, str], Prediction]
    """(train, valid, molecules to predict, seed, checkpoint) -> what it says."""
    packages: tuple[str, ...]
    """Distributions whose versions its figures depend on."""
    install: str
    """What pip is asked for where they are missing."""
    settings: Callable[[], dict[str, Any]] = dict
    """What we set for it."""
    pretrained: bool = False
    """Whether it starts from a checkpoint of ours."""


def require(names: Sequence[str]) -> None:
    """See that all that predictors need is installed, before anything is computed.

    Raises
    ------
    ValueError
        For an unknown name; lists the known ones.
    ImportError
        With the command that installs what is missing.
    """
    if unknown := [name for name in names if name not in PREDICTORS]:
        why = "" if "attentivefp" not in unknown else f" ({NO_ATTENTIVEFP})"
        raise ValueError(f"unknown predictor {', '.join(unknown)}; known are {', '.join(PREDICTORS)}{why}")
    missing = {name: [package for package in PREDICTORS[name].packages if not _version(package)] for name in names}
    if absent := {name: packages for name, packages in missing.items() if packages}:
        wants = "; ".join(f"{name} needs {', '.join(packages)}" for name, packages in absent.items())
        asked = " ".join(f"'{PREDICTORS[name].install}'" for name in absent)
        raise ImportError(f"{wants}, which is not installed: pip install {asked}")


def identity(name: str) -> str:
    """Say what a predictor's figures depend on beside molecules and checkpoint: versions and settings."""
    known = PREDICTORS[name]
    return json.dumps([{package: _version(package) for package in known.packages}, known.settings()], sort_keys=True)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def fit(
    name: str,
    molecules: Sequence[str],
    y: Float[np.ndarray, " n"],
    split: Split,
    seed: int = 0,
    checkpoint: str | os.PathLike[str] = "molcmim-small",
) -> downstream.Fit:
    """Fit one predictor; on CPU deterministic, and on one thread, so that several may run side by side.

    Parameters
    ----------
    name : {"finetuned", "chemprop", "dmpnn", "graphconv"}
        A key of :data:`PREDICTORS`.
    molecules, y
        SMILES and their measured values.
    split
        Row numbers. The values of the test part are looked at only after the fit.
    seed
        Of all that is drawn.
    checkpoint
        Name or folder of a checkpoint of ours; only ``finetuned`` looks at it.

    Raises
    ------
    ValueError, ImportError
        As :func:`require`.
    RuntimeError
        If a predictor ends in an error; with the last of what it printed.
    """
    require([name])
    y, rows = np.asarray(y, np.float64), np.asarray(molecules, object)
    train, valid = (Labelled(rows[part].tolist(), y[part]) for part in (split.train, split.valid))
    with _one_thread():
        said = PREDICTORS[name].run(train, valid, rows[split.test].tolist(), seed, os.fspath(checkpoint))
    on_valid, on_test = (np.asarray(values, np.float64) for values in (said.valid, said.test))
    return downstream.score(y, split, said.chosen, on_valid, on_test, seed)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _chemprop(train: Labelled, valid: Labelled, test: list[str], seed: int, checkpoint: str) -> Prediction:
    """Run chemprop 2 by its command line, all settings its own; it keeps the epoch with the lowest valid loss."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        known = pd.DataFrame({"smiles": [*train.smiles, *valid.smiles], "y": [*train.y, *valid.y]})
        known.to_csv(folder / "known.csv", index=False)
        pd.DataFrame({"smiles": [*valid.smiles, *test]}).to_csv(folder / "asked.csv", index=False)
        split = {"train": list(range(len(train.smiles))), "val": list(range(len(train.smiles), len(known)))}
        (folder / "splits.json").write_text(json.dumps([split]))
        _run_chemprop(
            folder, "train", "--data-path", "known.csv", "--splits-file", "splits.json", "--smiles-columns", "smiles",
            "--target-columns", "y", "--task-type", "regression", "--pytorch-seed", str(seed), "--output-dir", "model",
        )  # fmt: skip
        _run_chemprop(
            folder, "predict", "--test-path", "asked.csv", "--smiles-columns", "smiles", "--model-paths", "model",
            "--preds-path", "said.csv",
        )  # fmt: skip
        said = pd.read_csv(folder / "said.csv").iloc[:, -1].to_numpy(np.float64)
        best = next(folder.glob("model/**/best-epoch=*.ckpt"))
        epoch = re.search(r"best-epoch=(\d+)", best.name)
    assert epoch
    return Prediction({"best_epoch": int(epoch[1]) + 1}, said[: len(valid.smiles)], said[len(valid.smiles) :])


def _run_chemprop(folder: Path, *arguments: str) -> None:
    command = [sys.executable, "-c", "from chemprop.cli.main import main; main()", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"chemprop {arguments[0]} failed:\n{done.stderr[-500:]}")


def _dmpnn(train: Labelled, valid: Labelled, test: list[str], seed: int, checkpoint: str) -> Prediction:
    """DeepChem's DMPNNModel."""
    import deepchem as dc
    import torch

    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - what DeepChem's batches are shuffled with
    return _deepchem(dc.feat.DMPNNFeaturizer(), dc.models.torch_models.DMPNNModel, train, valid, test)


def _graphconv(train: Labelled, valid: Labelled, test: list[str], seed: int, checkpoint: str) -> Prediction:
    """DeepChem's GraphConvModel, which is written for Keras 2: the package tf-keras."""
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # read when TensorFlow is imported
    import deepchem as dc
    from deepchem.models import graph_models

    tf = graph_models.tf
    with contextlib.suppress(RuntimeError):  # an earlier fit in this process has set them
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.keras.utils.set_random_seed(seed)
    return _deepchem(dc.feat.ConvMolFeaturizer(), graph_models.GraphConvModel, train, valid, test)


def _deepchem(featurizer: Any, make: type[Any], train: Labelled, valid: Labelled, test: list[str]) -> Prediction:
    """Fit a model of DeepChem, all settings its own, y standardised; the epoch with the lowest valid RMSE."""
    import deepchem as dc

    mean, sd = train.y.mean(), train.y.std()
    known = dc.data.NumpyDataset(featurizer.featurize(train.smiles), (train.y - mean)[:, None] / sd)
    asked = [dc.data.NumpyDataset(featurizer.featurize(molecules)) for molecules in (valid.smiles, test)]
    lowest, best = np.inf, None
    with tempfile.TemporaryDirectory() as folder:
        model = make(mode="regression", n_tasks=1, model_dir=folder)
        for epoch in range(1, EPOCHS + 1):
            model.fit(known, nb_epoch=1, checkpoint_interval=0)
            on_valid = mean + sd * model.predict(asked[0]).ravel()
            if (error := downstream.rmse(valid.y, on_valid)) < lowest:
                on_test = mean + sd * model.predict(asked[1]).ravel()
                lowest, best = error, Prediction({"best_epoch": epoch}, on_valid, on_test)
    if best is None:
        raise RuntimeError(f"{make.__name__} predicted no finite value after any epoch")
    return best


def _finetuned(train: Labelled, valid: Labelled, test: list[str], seed: int, checkpoint: str) -> Prediction:
    """Fine-tune a checkpoint of ours, with the defaults; the epoch with the lowest valid loss, 0 the start."""
    from molcmim import finetune

    choices = finetune.Choices(seed=seed)
    model = finetune.finetune(
        checkpoint, train.smiles, train.y[:, None], (valid.smiles, valid.y[:, None]), choices=choices
    )
    best = min(model.training["history"][0], key=lambda epoch: epoch["valid_loss"])
    on_valid, on_test = (model.predict(molecules)[:, 0] for molecules in (valid.smiles, test))
    return Prediction({"best_epoch": best["epoch"]}, on_valid, on_test)


def _default_choices() -> dict[str, Any]:
    from molcmim import finetune

    return dataclasses.asdict(finetune.Choices())


PREDICTORS: dict[str, Predictor] = {
    "finetuned": Predictor(_finetuned, ("torch", "rdkit"), "molcmim", _default_choices, pretrained=True),
    "chemprop": Predictor(_chemprop, ("chemprop", "torch", "rdkit"), "molcmim[chemprop]"),
    "dmpnn": Predictor(
        _dmpnn, ("deepchem", "torch_geometric", "torch", "rdkit"), "molcmim[dmpnn]", lambda: {"epochs": EPOCHS}
    ),
    "graphconv": Predictor(
        _graphconv, ("deepchem", "tensorflow", "tf-keras", "rdkit"), "molcmim[graphconv]", lambda: {"epochs": EPOCHS}
    ),
}
"""Name -> predictor."""
