"""Pictures of a property benchmark. Knows only its table of results and its predictions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from molcmim.files import atomic_path


def bars(summary: pd.DataFrame, path: Path) -> None:
    """Draw test RMSE of all features and heads, a panel for every data set and split.

    Parameters
    ----------
    summary
        Columns dataset, split, label (of the features), head, rmse, low, high (ends of the whisker), unit.
    path
        PNG file to write.
    """
    datasets, splits = sorted(summary["dataset"].unique()), sorted(summary["split"].unique())
    labels, heads = list(summary["label"].unique()), sorted(summary["head"].unique())
    figure = _figure(4.2 * len(datasets) + 1.5, (0.16 * len(heads) * len(labels) + 1.2) * len(splits) + 0.5)
    grid = figure.subplots(len(splits), len(datasets), squeeze=False, sharey=True)
    for axes, (split, dataset) in zip(grid.flat, ((s, d) for s in splits for d in datasets), strict=True):
        panel = summary[(summary["dataset"] == dataset) & (summary["split"] == split)]
        for i, head in enumerate(heads):
            rows = panel[panel["head"] == head]
            at = [labels.index(label) + 0.8 * ((i + 0.5) / len(heads) - 0.5) for label in rows["label"]]
            whiskers = [rows["rmse"] - rows["low"], rows["high"] - rows["rmse"]]
            axes.barh(at, rows["rmse"], 0.8 / len(heads), xerr=whiskers, label=head, color=f"C{i}",
                      error_kw={"elinewidth": 0.8, "ecolor": "0.3"})  # fmt: skip
        axes.set_yticks(range(len(labels)), labels)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.set_title(f"{dataset}, {split} split", fontsize=10)
        axes.grid(axis="x", alpha=0.3)
    for axes, dataset in zip(grid[-1], datasets, strict=True):
        unit = summary.loc[summary["dataset"] == dataset, "unit"].iloc[0]
        axes.set_xlabel(f"test RMSE ({unit})")
    grid[0, -1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    _save(figure, path)


def parity(panels: Mapping[str, tuple[Any, Any]], title: str, unit: str, path: Path) -> None:
    """Draw predicted against measured values, all panels on one scale.

    Parameters
    ----------
    panels
        Title -> measured and predicted values.
    title, unit
        Of the whole, and of the values.
    path
        PNG file to write.
    """
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    figure = _figure(3.1 * columns + 0.3, 3.2 * rows + 0.5)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    measured = np.concatenate([y for y, _ in panels.values()])
    margin = 0.05 * max(float(np.ptp(measured)), 1e-6)
    span = (float(measured.min()) - margin, float(measured.max()) + margin)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, (name, (y, predicted)) in zip(grid.flat, panels.items(), strict=False):
        outside = int(((predicted < span[0]) | (predicted > span[1])).sum())
        axes.plot(span, span, color="0.6", linewidth=1)
        axes.scatter(y, np.clip(predicted, *span), s=7, alpha=0.5, linewidths=0)
        axes.set(xlim=span, ylim=span, aspect="equal")
        axes.set_title(name + (f"\n({outside} beyond the frame, drawn on it)" if outside else ""), fontsize=9)
        axes.grid(alpha=0.3)
    figure.suptitle(title, fontsize=11)
    figure.supxlabel(f"measured ({unit})", fontsize=10)
    figure.supylabel(f"predicted ({unit})", fontsize=10)
    _save(figure, path)


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, path: Path) -> None:
    with atomic_path(path) as partial:
        figure.savefig(partial, dpi=120, format="png", metadata={"Software": None})
