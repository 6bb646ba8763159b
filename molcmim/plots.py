"""Pictures of values: of a property benchmark, of a plane of molecules. Knows only tables and numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from molcmim.atomic import atomic_path

COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
"""Told apart with any colour vision (Okabe & Ito, 2008)."""
CATEGORIES = 10
"""Labels that colours tell apart."""


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
    figure = new_figure(4.2 * len(datasets) + 1.5, (0.16 * len(heads) * len(labels) + 1.2) * len(splits) + 0.5)
    grid = figure.subplots(len(splits), len(datasets), squeeze=False, sharey=True)
    for axes, (split, dataset) in zip(grid.flat, ((s, d) for s in splits for d in datasets), strict=True):
        panel = summary[(summary["dataset"] == dataset) & (summary["split"] == split)]
        if panel.empty:  # a data set that was not cut in this way
            axes.set_visible(False)
            continue
        panel = panel.assign(head=panel["head"].map(heads.index))
        heads_of = panel.groupby("label")["head"]  # those that a label has lie side by side, around its middle
        at = heads_of.rank() - 0.5 - heads_of.transform("count") / 2
        at = panel["label"].map(labels.index) + 0.8 * at / len(heads)
        for i, head in enumerate(heads):
            rows = panel[panel["head"] == i]
            whiskers = [rows["rmse"] - rows["low"], rows["high"] - rows["rmse"]]
            axes.barh(at[rows.index], rows["rmse"], 0.8 / len(heads), xerr=whiskers, label=head, color=COLORS[i],
                      error_kw={"elinewidth": 0.8, "ecolor": "0.3"})  # fmt: skip
        axes.set_yticks(range(len(labels)), labels)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.set_title(f"{dataset}, {split} split", fontsize=10)
        axes.grid(axis="x", alpha=0.3)
    for axes, dataset in zip(grid[-1], datasets, strict=True):
        unit = summary.loc[summary["dataset"] == dataset, "unit"].iloc[0]
        axes.set_xlabel(f"test RMSE ({unit})")
    grid[0, -1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    save_figure(figure, path)


def parity(
    panels: Mapping[str, tuple[Any, Any]], units: str | Sequence[str], path: Path, title: str | None = None
) -> None:
    """Draw predicted against measured values, all panels of one unit on one scale.

    Parameters
    ----------
    panels
        Title -> measured and predicted values.
    units
        Unit of all panels, or of each.
    title
        Of the whole.
    path
        PNG file to write.
    """
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure(3.1 * columns + 0.3, 3.2 * rows + 0.5)
    one = isinstance(units, str)
    names = [plain(unit) for unit in ([units] * len(panels) if isinstance(units, str) else units)]
    grid = figure.subplots(rows, columns, squeeze=False, sharex=one, sharey=one)
    spans = {}
    for unit in set(names):
        measured = np.concatenate([y for (y, _), name in zip(panels.values(), names, strict=True) if name == unit])
        margin = 0.05 * max(float(np.ptp(measured)), 1e-6)
        spans[unit] = (float(measured.min()) - margin, float(measured.max()) + margin)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes in grid.flat[len(panels) - columns : len(panels)]:
        axes.tick_params(labelbottom=True)  # nothing stands below
    for axes, unit, (name, (y, predicted)) in zip(grid.flat, names, panels.items(), strict=False):
        span = spans[unit]
        outside = int(((predicted < span[0]) | (predicted > span[1])).sum())
        axes.plot(span, span, color="0.6", linewidth=1)
        axes.scatter(y, np.clip(predicted, *span), s=7, alpha=0.5, linewidths=0, color=COLORS[0])
        axes.set(xlim=span, ylim=span, aspect="equal")
        axes.set_title(plain(name) + (f"\n({outside} beyond the frame, drawn on it)" if outside else ""), fontsize=9)
        axes.grid(alpha=0.3)
        if not one:
            axes.set_xlabel(f"measured {unit}", fontsize=9)
            axes.set_ylabel(f"predicted {unit}", fontsize=9)
    if title:
        figure.suptitle(plain(title), fontsize=11)
    if one:
        figure.supxlabel(f"measured ({names[0]})", fontsize=10)
        figure.supylabel(f"predicted ({names[0]})", fontsize=10)
    save_figure(figure, path)


def plain(text: object) -> str:
    """Return a text of the user's as matplotlib draws it as it stands: no formula, and nothing that legends hide."""
    escaped = str(text).replace("$", r"\$")
    return f" {escaped}" if escaped.startswith("_") else escaped


def plane(points: Any, values: Any, title: str, axes_labels: tuple[str, str], label: str, path: Path) -> None:
    """Draw points in a plane, coloured by a number, by a label, or all alike.

    Of numbers the lowest and highest 2 % have the ends' colours; of labels the most frequent are drawn first.

    Parameters
    ----------
    points
        Coordinates, shape (n, 2).
    values
        Numbers, or up to :data:`CATEGORIES` labels, shape (n,), or None; a point whose value is missing is grey.
    title, axes_labels, label
        Of the whole, of the coordinates, of the value with its unit.
    path
        PNG file to write.
    """
    points, alike = np.asarray(points), values is None
    values = np.zeros(len(points)) if alike else np.asarray(values)
    title, label = plain(title), plain(label)
    known = ~pd.isna(values)
    figure = new_figure(5.2, 4.1)
    axes = figure.subplots()
    size = float(np.clip(16_000 / len(points), 3, 40))
    if not known.all():
        axes.scatter(*points[~known].T, s=size, color="0.8", linewidths=0, label="no value")
    if values.dtype == object:
        for i, (name, n) in enumerate(pd.Series(values[known]).value_counts().items()):
            axes.scatter(*points[values == name].T, s=size, color=f"C{i}", linewidths=0, label=plain(f"{name} ({n:,})"))
    elif alike:
        axes.scatter(*points.T, s=size, color=COLORS[0], linewidths=0)
    elif known.any():
        low, high = np.quantile(values[known], [0.02, 0.98])
        drawn = axes.scatter(
            *points[known].T, s=size, c=values[known], cmap="viridis", vmin=low, vmax=high, linewidths=0
        )
        beyond = {(True, True): "both", (True, False): "min", (False, True): "max"}
        extend = beyond.get((values[known].min() < low, values[known].max() > high), "neither")
        figure.colorbar(drawn, label=label, extend=extend)
    if axes.get_legend_handles_labels()[0]:
        scale, title_of = max(1.0, 5 / size**0.5), label if values.dtype == object else None
        figure.legend(fontsize=8, title=title_of, loc="outside lower center", markerscale=scale, ncols=3)
    axes.set(xlabel=axes_labels[0], ylabel=axes_labels[1], xticks=[], yticks=[])
    axes.set_title(title, fontsize=9)
    save_figure(figure, path)


def new_figure(width: float, height: float) -> Any:
    """Return an empty figure, sizes in inches, that no window belongs to."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure as PNG."""
    with atomic_path(path) as partial:
        figure.savefig(partial, dpi=120, format="png", metadata={"Software": None})
