"""A table of measured values -> a fine-tuned model's folder with what is to be said about it. Trains nothing itself.

Beside the model the folder holds ``predictions.csv`` (the table as it was, with each row's part and prediction),
``metrics.csv``, ``learning.png``, for numbers ``parity.png``, and for ensembles of them ``calibration.png``.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Float, Float64, Int64, Shaped
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    log_loss,
    matthews_corrcoef,
    mean_absolute_error,
    r2_score,
    roc_auc_score,
)

from molcmim import calibration, datasets, plots
from molcmim.atomic import atomic_path
from molcmim.datasets import Audit, Split
from molcmim.downstream import rmse
from molcmim.files import read_chunks, with_own_error
from molcmim.finetune import Choices, finetune, judge
from molcmim.tuned import SIMILARITY, PropertyModel, label_columns, output_columns

PARTS = ("train", "valid", "test")
NEAR = (0.0, 0.4, 0.6, 1.0)
"""Bounds of train_similarity between which the test part's errors are told apart."""


class Report:
    """What came of a table.

    Attributes
    ----------
    model : PropertyModel
        As saved.
    predictions : DataFrame
        The table, all its columns as they were, and after them part, what the model predicts, error.
    metrics : DataFrame
        A row for each target and part.
    audits : dict
        Target -> repeated molecules and leakage.
    """

    def __init__(
        self, model: PropertyModel, predictions: pd.DataFrame, metrics: pd.DataFrame, audits: dict[str, Audit]
    ) -> None:
        self.model, self.predictions, self.metrics, self.audits = model, predictions, metrics, audits


def finetune_table(
    path: str | os.PathLike[str],
    targets: Sequence[str],
    output: str | os.PathLike[str],
    *,
    split: str = "random",
    split_column: str | None = None,
    seed: int = 0,
    column: str | None = None,
    classify: bool = False,
    checkpoint: str | os.PathLike[str] = "molcmim-small",
    choices: Choices | None = None,
    device: str | None = None,
    restart: bool = False,
    progress: bool = True,
) -> Report:
    """Fine-tune on a file, and write the model's folder.

    Rows whose molecule cannot be read, or that have no value, are in no part; they stay in the predictions, with the
    reason in the column ``error``.

    Parameters
    ----------
    path, column
        See :func:`molcmim.datasets.load_csv`.
    targets
        Columns; an empty field is an unknown value.
    output
        Folder.
    split, seed
        See :func:`molcmim.datasets.split`; "stratified" goes by the target, of which there is one then. The test part
        is looked at once, for the report.
    split_column
        Column that says of each row which part it is in, instead; see :func:`molcmim.datasets.split_by`.
    classify
        Whether the values are classes: 0 and 1, of several targets, or any labels, of one.
    checkpoint, choices, device, progress
        See :func:`molcmim.finetune.finetune`.
    restart
        Whether a model that `output` holds may be replaced.

    Raises
    ------
    OSError, ValueError
        If the file, a column or a part cannot be used, or the table has columns that the predictions add.
    """
    if Path(output).exists() and not (Path(output) / "finetuned.json").is_file():
        raise FileExistsError(f"{output} exists and is no fine-tuned model; name another folder")
    if Path(output).exists() and not restart:
        raise FileExistsError(f"{output} holds a fine-tuned model; name another folder, or replace it by --restart")
    chunks = list(read_chunks(path, column))
    frame = datasets.frame_of(chunks, path, list(targets), classify)
    reasons = judge(checkpoint, frame["smiles"].tolist(), choices is not None and choices.standardize)
    unknown = frame[list(targets)].isna().all(axis=1)
    reasons = ["no value" if r is None and empty else r for r, empty in zip(reasons, unknown, strict=True)]
    rows = np.flatnonzero([reason is None for reason in reasons])
    if not len(rows):
        raise ValueError(f"{path}: no row has a molecule that can be read and a value; the first: {reasons[0]}")
    good = frame.iloc[rows].reset_index(drop=True)
    table = pa.concat_tables([chunk.table for chunk in chunks])
    if split_column is None:
        if split == "stratified" and len(targets) > 1:
            raise ValueError(f"a stratified split is by one target, not by {', '.join(targets)}; take another split")
        parts, how = datasets.split(good, split, seed, targets[0]), split
    else:
        parts, how = datasets.split_by(table, split_column, rows, path), f"column {split_column}"
    kind, classes, values = _numbered(good[list(targets)].to_numpy(), classify)
    predictions = with_own_error(table).to_pandas()
    spread = choices is not None and choices.ensemble > 1
    labels = label_columns(kind, targets)
    added = {"part", *labels, *output_columns(kind, targets, classes, spread), SIMILARITY, "error"}
    if taken := [name for name in predictions if name in added]:
        raise ValueError(f"{path} has columns that the predictions add: {', '.join(taken)}; rename them first")
    good[list(targets)] = values
    molecules = good["smiles"].to_numpy(object)
    model = finetune(
        checkpoint, molecules[parts.train], values[parts.train], (molecules[parts.valid], values[parts.valid]),
        kind=kind, targets=targets, classes=classes, choices=choices, device=device, progress=progress,
    )  # fmt: skip
    spelled = model.speller().read(molecules)
    outputs = model.outputs(spelled, progress)
    said = {
        "file": Path(path).name,
        "split": how,
        "seed": seed,
        "rows": len(frame),
        "left_out": len(frame) - len(rows),
    }
    model.training["table"] = said
    folder = model.save(output)
    predictions["part"] = pd.Series(dtype=object)
    for part, inside in zip(PARTS, parts, strict=True):
        predictions.loc[rows[inside], "part"] = part
    for name, told in zip(labels, model.labels(outputs).T, strict=True):
        predictions[name] = pd.Series(told, rows, object)
    for i, name in enumerate(model.columns):
        predictions.loc[rows, name] = outputs[:, i]
    near = model.train_similarity(spelled)
    predictions.loc[rows, SIMILARITY] = near
    predictions["error"] = reasons
    metrics = pd.DataFrame(
        {"target": target, "part": part, **_metrics(model, values[inside], outputs[inside], i)}
        for i, target in enumerate(targets)
        for part, inside in [*zip(PARTS, parts, strict=True), *_by_similarity(parts.test, near)]
    )
    with atomic_path(folder / "predictions.csv") as partial:
        predictions.to_csv(partial, index=False)
    with atomic_path(folder / "metrics.csv") as partial:
        metrics.to_csv(partial, index=False)
    learning(model, folder / "learning.png")
    if kind == "regression":
        _pictures(model, values, outputs, parts, folder)
    return Report(model, predictions, metrics, {target: datasets.audit(good, parts, target) for target in targets})


def _numbered(values: Shaped[np.ndarray, "n t"], classify: bool) -> tuple[str, list[Any], Float64[np.ndarray, "n t"]]:
    if not classify:
        return "regression", [], values.astype(np.float64)
    number: dict[str, Any] = {label: _label(label) for row in values for label in row if label is not None}
    if any(isinstance(label, str) for label in number.values()):
        number = {label: label for label in number}
    classes = sorted(set(number.values()))
    if len(classes) < 2:
        raise ValueError(f"the targets hold {len(classes)} class(es); two are needed at least")
    if values.shape[1] > 1 and classes != [0, 1]:
        raise ValueError(f"several targets of classes must hold 0 and 1, found {classes[:5]}")
    numbered = [[np.nan if label is None else classes.index(number[label]) for label in row] for row in values]
    return "binary" if len(classes) == 2 else "multiclass", classes, np.array(numbered, np.float64)


def _label(text: str) -> int | float | str:
    """Tell a number from other text: 01 is none."""
    try:
        value = float(text)
    except ValueError:
        return text
    number = int(value) if value.is_integer() else value
    return number if text in (str(number), str(value)) else text


def _by_similarity(
    test: Int64[np.ndarray, " n_test"], near: Float64[np.ndarray, " n"]
) -> list[tuple[str, Int64[np.ndarray, " _"]]]:
    """Cut the test part by how similar its molecules are to the train part; what is empty is left out."""
    found = []
    for low, high in itertools.pairwise(NEAR):
        inside = test[(near[test] >= low) & ((near[test] < high) | (high == NEAR[-1]))]
        if len(inside):
            found.append((f"test, {SIMILARITY} {low:g} to {high:g}", inside))
    return found


def _metrics(
    model: PropertyModel, values: Float64[np.ndarray, "m t"], outputs: Float64[np.ndarray, "m _"], i: int
) -> dict[str, Any]:
    known = ~np.isnan(values[:, i])
    y = values[known, i]
    if not len(y):
        return {"n": 0}
    found: dict[str, Any] = {"n": len(y)}
    if model.task.kind == "regression":
        predicted = outputs[known, i]
        found |= {"rmse": rmse(y, predicted), "mae": mean_absolute_error(y, predicted)}
        found["r2"] = r2_score(y, predicted) if len(y) > 1 else float("nan")
        if model.task.spread:
            std = outputs[known, len(model.task.targets) + i]
            found["miscalibration_area"] = calibration.miscalibration_area(y, predicted, std)
            found["ence"] = calibration.normalized_error(y, predicted, std)
    elif model.task.kind == "binary":
        p = outputs[known, i if outputs.shape[1] == len(model.task.targets) else 1]
        found |= {"accuracy": accuracy_score(y, p > 0.5), "log_loss": log_loss(y, p, labels=[0, 1])}
        # of a rare class accuracy says little: nine of ten right is what "never" says of one in ten
        both = len(np.unique(y)) == 2
        found["roc_auc"] = roc_auc_score(y, p) if both else float("nan")
        found["average_precision"] = average_precision_score(y, p) if both else float("nan")
        found["mcc"] = matthews_corrcoef(y, p > 0.5) if both else float("nan")
    else:
        p = outputs[known]
        found |= {"accuracy": accuracy_score(y, p.argmax(1)), "log_loss": log_loss(y, p, labels=range(p.shape[1]))}
        found["mcc"] = matthews_corrcoef(y, p.argmax(1))
    return found


def table(metrics: pd.DataFrame) -> str:
    """Lay metrics out for reading."""
    return str(metrics.to_string(index=False, float_format=lambda value: f"{value:.4g}"))


def learning(model: PropertyModel, path: Path) -> None:
    """Draw the losses of every epoch of every member."""
    figure = plots.new_figure(6.4, 4.2)
    axes = figure.subplots()
    for i, history in enumerate(model.training["history"]):
        epochs = [entry["epoch"] for entry in history]
        for name, style in (("train_loss", ":"), ("valid_loss", "-")):
            label = name.replace("_loss", "") + (f", member {i + 1}" if len(model.networks) > 1 else "")
            axes.plot(epochs, [entry[name] for entry in history], style, color=f"C{i}", label=label, linewidth=1.2)
        lowest = min(history, key=lambda entry: entry["valid_loss"])
        axes.plot(lowest["epoch"], lowest["valid_loss"], "o", color=f"C{i}", markersize=5)
    unit = "squared error, standardised" if model.task.kind == "regression" else "cross entropy (nats)"
    axes.set(xlabel="epoch (0: frozen model, kernel head; o: kept)", ylabel=f"loss ({unit})", yscale="log")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    plots.save_figure(figure, path)


def _pictures(
    model: PropertyModel,
    values: Float64[np.ndarray, "n t"],
    outputs: Float64[np.ndarray, "n _"],
    parts: Split,
    folder: Path,
) -> None:
    t = len(model.task.targets)
    measured: dict[str, tuple[Any, Any, Any]] = {}
    for i, target in enumerate(model.task.targets):
        for part, inside in (("valid", parts.valid), ("test", parts.test)):
            rows = inside[~np.isnan(values[inside, i])]
            if len(rows):
                std = outputs[rows, t + i] if model.task.spread else None
                measured[f"{target}, {part}"] = values[rows, i], outputs[rows, i], std
    panels = {f"{name}: RMSE {rmse(y, p):.3f}": (y, p) for name, (y, p, _) in measured.items()}
    plots.parity(panels, "fine-tuned", ", ".join(model.task.targets), folder / "parity.png")
    if model.task.spread:
        tested = {name: entry for name, entry in measured.items() if name.endswith(", test")}
        draw_calibration(tested or measured, folder / "calibration.png")


def draw_calibration(curves: dict[str, tuple[Any, Any, Float[np.ndarray, " n"]]], path: Path) -> None:
    """Draw how much of the truth predicted intervals hold, against how much they should.

    Parameters
    ----------
    curves
        Title -> measured values, predictions and predicted standard deviations.
    path
        PNG file to write.
    """
    figure = plots.new_figure(5.0, 5.0)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=1)
    for name, (y, predicted, std) in curves.items():
        area = calibration.miscalibration_area(y, predicted, std)
        ence = calibration.normalized_error(y, predicted, std)
        label = f"{name}: area {area:.3f}, ENCE {ence:.2f}"
        axes.plot(calibration.PROPORTIONS, calibration.coverage(y, predicted, std), label=label)
    axes.set(xlabel="share that the interval should hold", ylabel="share that it holds", aspect="equal")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="upper left")
    plots.save_figure(figure, path)
