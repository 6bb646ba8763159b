"""Pictures of a fine-tuned model: learning curve, parity, calibration, confusion. Computes no prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, Int64, Shaped
from sklearn.metrics import confusion_matrix

from molcmim import calibration, plots
from molcmim.downstream import rmse
from molcmim.tuned import PropertyModel, Task

CLASSES = 20
"""Classes that a confusion matrix has room for."""
TARGETS = 12
"""Targets whose confusion matrices are drawn, at most."""


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
        axes.plot(
            lowest["epoch"], lowest["valid_loss"], "o", color=f"C{i}", markersize=5, label="kept" if i == 0 else None
        )
    unit = "squared error, standardised" if model.task.kind == "regression" else "cross entropy (nats)"
    axes.set(xlabel="epoch (0: frozen model, kernel head)", ylabel=f"loss ({unit})", yscale="log")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    plots.save_figure(figure, path)


def numbers(
    task: Task,
    values: Float64[np.ndarray, "n t"],
    outputs: Float64[np.ndarray, "n _"],
    parts: Mapping[str, Int64[np.ndarray, " _"]],
    parity: Path,
    calibrated: Path,
) -> None:
    """Draw predicted against measured values of each target and part, and of an ensemble the last part's calibration.

    Parameters
    ----------
    task, values, outputs, parts
        As for :func:`molcmim.property_metrics.table`.
    parity, calibrated
        PNG files to write.
    """
    units: list[str] = []
    panels, curves = {}, {}
    for i, target in enumerate(task.targets):
        for part, inside in parts.items():
            rows = inside[~np.isnan(values[inside, i])]
            if len(rows):
                y, predicted = values[rows, i], outputs[rows, i]
                units.append(target)
                panels[f"{target}, {part}: RMSE {rmse(y, predicted):.3g}"] = y, predicted
                if task.spread:
                    curves[f"{target}, {part}"] = y, predicted, outputs[rows, len(task.targets) + i]
    if panels:
        plots.parity(panels, units, parity)
    last = {name: curve for name, curve in curves.items() if name.endswith(f", {[*parts][-1]}")}
    if curves:
        draw_calibration(last or curves, calibrated)


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
        label = plots.plain(f"{name}: area {area:.3f}, ENCE {ence:.2f}")
        axes.plot(calibration.PROPORTIONS, calibration.coverage(y, predicted, std), label=label)
    axes.set(xlabel="nominal coverage", ylabel="observed coverage", aspect="equal")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="upper left")
    plots.save_figure(figure, path)


def classes(
    task: Task,
    values: Float64[np.ndarray, "n t"],
    outputs: Float64[np.ndarray, "n _"],
    parts: Mapping[str, Int64[np.ndarray, " _"]],
    path: Path,
) -> None:
    """Draw which classes are taken for which: a matrix for each target and part, if there are few enough.

    Parameters
    ----------
    task, values, outputs, parts
        As for :func:`molcmim.property_metrics.table`.
    path
        PNG file to write.
    """
    labels = [str(label) for label in task.classes or (0, 1)]
    if len(labels) > CLASSES:
        return
    panels = {}
    for part, rows in parts.items():
        told = task.labels(outputs[rows])
        for i, target in enumerate(task.targets[:TARGETS]):
            known = ~np.isnan(values[rows, i])
            truth = [labels[int(number)] for number in values[rows[known], i]]
            if truth:
                counts = confusion_matrix(truth, told[known, i].astype(str), labels=labels)
                panels[f"{target}, {part} ({len(truth)})"] = counts
    if panels:
        draw_confusion(panels, labels, path)


def draw_confusion(panels: dict[str, Shaped[np.ndarray, "k k"]], labels: Sequence[str], path: Path) -> None:
    """Draw confusion matrices, coloured by each row's shares.

    Parameters
    ----------
    panels
        Title -> counts, a row for each true class, a column for each predicted one.
    labels
        Of the classes, in order.
    path
        PNG file to write.
    """
    labels = [plots.plain(label) for label in labels]
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    side = max(2.6, 0.45 * len(labels) + 1.2)
    figure = plots.new_figure(side * columns + 0.6, side * rows + 0.6)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, (title, counts) in zip(grid.flat, panels.items(), strict=False):
        shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for (row, column), count in np.ndenumerate(counts):
            dark = shares[row, column] > 0.5
            axes.text(
                column, row, f"{count:,}", ha="center", va="center", fontsize=8, color="white" if dark else "black"
            )
        axes.set_xticks(range(len(labels)), labels, rotation=90 if max(map(len, labels)) > 4 else 0, fontsize=8)
        axes.set_yticks(range(len(labels)), labels, fontsize=8)
        axes.set_title(plots.plain(title), fontsize=9)
    figure.supxlabel("predicted", fontsize=10)
    figure.supylabel("measured", fontsize=10)
    plots.save_figure(figure, path)
