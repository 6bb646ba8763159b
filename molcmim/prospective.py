"""A fine-tuned model's predictions against what was measured later. Fits nothing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float64

from molcmim import property_metrics, tuning_plots
from molcmim.atomic import atomic_path
from molcmim.files import read_chunks
from molcmim.tuned import SIMILARITY, PropertyModel, read_record, refuse_taken
from molcmim.values import frame_of

PART = "measured"
"""What the rows are called, beside train, valid and test of the model's own table."""


def check(
    model: str | os.PathLike[str],
    molecules: str | os.PathLike[str],
    columns: Sequence[str],
    column: str | None = None,
    format: str | None = None,
) -> None:
    """Refuse columns that :func:`assess` could not use, before anything is predicted.

    Parameters
    ----------
    model, columns, column
        As for :func:`assess`.
    molecules, format
        File that is to be predicted, and its format if its suffix does not say it.

    Raises
    ------
    ValueError
        If there are not as many columns as targets, one is missing, or holds a class that the model does not know.
    """
    task = _task_of(model, columns)
    if not Path(molecules).is_file():  # what is piped can be read once only
        return
    for chunk in read_chunks(molecules, column, format):
        values = frame_of([chunk], molecules, list(columns), labels=True)[list(columns)].to_numpy()
        if task["kind"] == "regression":
            return
        _numbered(values, task["classes"] or [0, 1], Path(molecules))


def assess(
    model: str | os.PathLike[str],
    predictions: str | os.PathLike[str],
    columns: Sequence[str],
    column: str | None = None,
) -> pd.DataFrame:
    """Say how wrong predictions are that a file holds beside what was measured.

    Beside the file are written ``.metrics.csv`` and, of numbers, ``.parity.png`` and, of an ensemble,
    ``.calibration.png``, of classes ``.confusion.png``.

    Parameters
    ----------
    model
        Folder of the fine-tuned model.
    predictions
        What :func:`molcmim.bulk.predict_file` wrote, .csv, .tsv or .parquet.
    columns
        Those of the measured values, one for each target in their order. A value that is no number counts as unknown.
    column
        That of the SMILES; see :func:`molcmim.files.read_chunks`.

    Returns
    -------
    DataFrame
        See :func:`molcmim.property_metrics.table`; ``attrs["left_out"]``: rows with a value that is no number.

    Raises
    ------
    ValueError
        If there are not as many columns as targets, one is missing, or holds a class that the model does not know, or
        if no prediction has a value beside it.
    """
    _task_of(model, columns)
    path, loaded = Path(predictions), PropertyModel.load(model, "cpu")
    task = loaded.task
    chunks = list(read_chunks(path, column))
    frame = frame_of(chunks, path, list(columns), labels=task.kind != "regression", skip_bad=True)
    told = frame_of(chunks, path, [*loaded.columns, SIMILARITY])
    outputs, near = told[loaded.columns].to_numpy(), told[SIMILARITY].to_numpy()
    values = frame[list(columns)].to_numpy()
    if task.kind != "regression":
        values = _numbered(values, task.classes or [0, 1], path)
    rows = np.flatnonzero(~np.isnan(outputs).any(1) & ~np.isnan(values.astype(np.float64)).all(1))
    if not len(rows):
        raise ValueError(f"{path}: no row has a prediction and a measured value ({', '.join(columns)})")
    values = values.astype(np.float64)
    parts = {PART: rows}
    metrics = property_metrics.table(task, values, outputs, parts, near, loaded.usual_interval(outputs))
    metrics.attrs["left_out"] = len(frame.attrs["bad_values"])
    with atomic_path(path.with_suffix(".metrics.csv")) as partial:
        metrics.to_csv(partial, index=False)
    if task.kind == "regression":
        pictures = path.with_suffix(".parity.png"), path.with_suffix(".calibration.png")
        tuning_plots.numbers(task, values, outputs, parts, *pictures)
    else:
        tuning_plots.classes(task, values, outputs, parts, path.with_suffix(".confusion.png"))
    return metrics


def _task_of(model: str | os.PathLike[str], columns: Sequence[str]) -> dict[str, Any]:
    """Say what is predicted; ValueError if there are not as many columns as targets, or one cannot be."""
    refuse_taken(columns)
    task: dict[str, Any] = read_record(Path(model))["task"]
    if len(columns) != len(task["targets"]):
        raise ValueError(f"{model} predicts {', '.join(task['targets'])}: name a column of measured values for each")
    return task


def _numbered(labels: np.ndarray, classes: list[Any], path: Path) -> Float64[np.ndarray, "n t"]:
    number = {str(label): float(i) for i, label in enumerate(classes)}
    number |= {str(float(label)): float(i) for i, label in enumerate(classes) if not isinstance(label, str)}  # 1.0 is 1
    if foreign := sorted({label for label in labels.ravel().tolist() if label is not None and label not in number}):
        raise ValueError(f"{path}: the model knows {', '.join(map(str, classes))}, not {', '.join(foreign[:5])}")
    return np.array([[np.nan if label is None else number[label] for label in row] for row in labels], np.float64)
