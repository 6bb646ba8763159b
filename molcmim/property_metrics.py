"""Errors of predicted properties: for each target, part, and range of similarity to what was learned from."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int64
from scipy.stats import spearmanr
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    log_loss,
    matthews_corrcoef,
    mean_absolute_error,
    r2_score,
    roc_auc_score,
)

from molcmim import calibration
from molcmim.downstream import rmse
from molcmim.tuned import SIMILARITY, Task

NEAR = (0.0, 0.4, 0.6, 1.0)
"""Bounds of train_similarity between which errors are told apart."""
FEWEST = 5
"""Molecules whose errors are told apart."""


def table(
    task: Task,
    values: Float64[np.ndarray, "m t"],
    outputs: Float64[np.ndarray, "m _"],
    parts: Mapping[str, Int64[np.ndarray, " _"]],
    near: Float64[np.ndarray, " m"],
    ends: Float64[np.ndarray, "2 m t"] | None = None,
) -> pd.DataFrame:
    """Compare predictions with what was measured.

    Parameters
    ----------
    task
        What was predicted.
    values
        What was measured, NaN where unknown; of classes their numbers.
    outputs
        What :meth:`molcmim.tuned.PropertyModel.outputs` gave.
    parts
        Name -> rows; the last is told apart by `near`.
    near
        Similarity of each row to what was learned from.
    ends
        What :meth:`molcmim.tuned.PropertyModel.usual_interval` gave.

    Returns
    -------
    DataFrame
        Columns target, part, train_similarity (a range, or empty for all), n, and, of numbers, rmse, mae, r2,
        spearman, and in_interval, the share of what was measured that lies between `ends`, of an ensemble also
        miscalibration_area and ence (:mod:`molcmim.calibration`); of classes accuracy, log_loss, roc_auc (of more than
        two classes the mean over one against the rest), mcc, and macro_f1, or average_precision and positive, the class
        that it is of.
    """
    return pd.DataFrame(
        {
            "target": target,
            "part": part,
            SIMILARITY: band,
            **_errors(task, values[rows], outputs[rows], i, None if ends is None else ends[:, rows]),
        }
        for i, target in enumerate(task.targets)
        for part, band, rows in _bands(parts, near)
    )


def as_text(metrics: pd.DataFrame) -> str:
    """Lay a table out for reading."""
    return str(metrics.to_string(index=False, float_format=lambda value: f"{value:.4g}"))


def _bands(
    parts: Mapping[str, Int64[np.ndarray, " _"]], near: Float64[np.ndarray, " m"]
) -> list[tuple[str, str, Int64[np.ndarray, " _"]]]:
    found = [(part, "", rows) for part, rows in parts.items()]
    last, _, rows = found[-1]
    for low, high in itertools.pairwise(NEAR):
        inside = rows[(near[rows] >= low) & ((near[rows] < high) | (high == NEAR[-1]))]
        if len(inside) >= FEWEST:
            found.append((last, f"{low:g} to {high:g}", inside))
    return found


def _errors(
    task: Task,
    values: Float64[np.ndarray, "m t"],
    outputs: Float64[np.ndarray, "m _"],
    i: int,
    ends: Float64[np.ndarray, "2 m t"] | None,
) -> dict[str, Any]:
    known = ~np.isnan(values[:, i])
    y = values[known, i]
    if not len(y):
        return {"n": 0}
    found: dict[str, Any] = {"n": len(y)}
    if task.kind == "regression":
        predicted = outputs[known, i]
        found |= {"rmse": rmse(y, predicted), "mae": mean_absolute_error(y, predicted)}
        found["r2"] = r2_score(y, predicted) if len(y) > 1 else float("nan")
        ranked = len(np.unique(y)) > 1 and len(np.unique(predicted)) > 1
        found["spearman"] = float(spearmanr(y, predicted).statistic) if ranked else float("nan")
        if ends is not None:
            low, high = ends[:, known, i]
            found["in_interval"] = float(((low <= y) & (y <= high)).mean())
        if task.spread:
            std = outputs[known, len(task.targets) + i]
            found["miscalibration_area"] = calibration.miscalibration_area(y, predicted, std)
            found["ence"] = calibration.normalized_error(y, predicted, std)
    elif task.kind == "binary":
        p = outputs[known, i if outputs.shape[1] == len(task.targets) else 1]
        found |= {"accuracy": accuracy_score(y, p > 0.5), "log_loss": log_loss(y, p, labels=[0, 1])}
        found |= {"positive": task.classes[1]} if task.classes else {}
        # of a rare class accuracy says little: nine of ten right is what "never" says of one in ten
        both = len(np.unique(y)) == 2
        found["roc_auc"] = roc_auc_score(y, p) if both else float("nan")
        found["average_precision"] = average_precision_score(y, p) if both else float("nan")
        found["mcc"] = matthews_corrcoef(y, p > 0.5) if both else float("nan")
    else:
        p = outputs[known]
        found |= {"accuracy": accuracy_score(y, p.argmax(1)), "log_loss": log_loss(y, p, labels=range(p.shape[1]))}
        every = len(np.unique(y)) == p.shape[1]
        found["roc_auc"] = roc_auc_score(y, p, multi_class="ovr") if every else float("nan")
        found["macro_f1"] = f1_score(y, p.argmax(1), average="macro", zero_division=0.0)
        found["mcc"] = matthews_corrcoef(y, p.argmax(1))
    return found
