"""Pictures of generation: figures of merit, and the way of an optimisation. Knows only their tables."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from molcmim.plots import new_figure, save_figure

AXES = {"logp": "logP", "qed": "QED", "sa": "SA score", "molecular_weight": "molecular weight (g/mol)"}
"""What stands at the axis of a property."""


def similarity(figures: pd.DataFrame, path: Path) -> None:
    """Draw the figures of part "radius" over the radius: similarity to the seed on the left, shares on the right."""
    figures = figures.assign(radius=figures["setting"].str.removeprefix("radius ").astype(float)).sort_values("radius")
    figure = new_figure(9.0, 3.6)
    left, right = figure.subplots(1, 2)
    for axes, names in ((left, ["similarity"]), (right, [n for n in figures["name"].unique() if n != "similarity"])):
        for name in names:
            rows = figures[figures["name"] == name]
            axes.errorbar(rows["radius"], rows["value"], rows["se"], marker="o", markersize=4, capsize=3, label=name)
        axes.set(xlabel="scaled radius", ylim=(0, 1.03))
        axes.set_xticks(sorted(figures["radius"].unique()))
        axes.grid(alpha=0.3)
    left.set_ylabel("Tanimoto similarity to the seed")
    right.set_ylabel("share")
    right.legend(fontsize=8)
    save_figure(figure, path)


def distributions(values: Mapping[str, Any], names: tuple[str, ...], path: Path) -> None:
    """Draw histograms of properties, a panel each, of several sets of molecules, if any: name -> (n, p) values."""
    sets = {label: np.asarray(rows) for label, rows in values.items() if len(rows)}
    if not sets:
        return
    figure = new_figure(3.1 * len(names), 3.0)
    for i, (axes, name) in enumerate(zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True)):
        columns = {label: rows[:, i] for label, rows in sets.items()}
        together = np.concatenate(list(columns.values()))
        low, high = np.quantile(together, [0.002, 0.998])
        bins = np.linspace(low, high, 40)
        for label, column in columns.items():
            share = np.full(len(column), 1 / len(column))
            axes.hist(column, bins, weights=share, histtype="stepfilled", alpha=0.45, label=label)
        axes.set(xlabel=AXES.get(name, name), yticks=[])
        if not i:
            axes.legend(fontsize=8)
    save_figure(figure, path)


def interpolation(frames: Mapping[str, pd.DataFrame], path: Path) -> None:
    """Draw mean similarity to both ends and validity over the position on the way, a panel for each kind of way.

    `frames` holds, by kind, the frames of :func:`molcmim.generation.interpolate`, one below the other.
    """
    figure = new_figure(4.5 * len(frames), 3.4)
    panels = figure.subplots(1, len(frames), squeeze=False, sharey=True)[0]
    shown = {"similarity_a": "similarity to the first", "similarity_b": "similarity to the last", "valid": "valid"}
    for axes, (kind, frame) in zip(panels, frames.items(), strict=True):
        means = frame.assign(position=frame["position"].round(6)).groupby("position")[[*shown]].mean()
        for name, label in shown.items():
            style = {"linestyle": "--", "color": "0.5"} if name == "valid" else {"marker": "o", "markersize": 4}
            axes.plot(means.index, means[name], label=label, **style)
        axes.set(title=kind, xlabel="position on the way", ylim=(0, 1.03))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    save_figure(figure, path)


def successes(evaluations: Mapping[str, pd.DataFrame], target: float, calls: int, path: Path) -> None:
    """Draw which share of seeds has reached a score after how many oracle calls, by method, with its standard error."""
    figure = new_figure(6.0, 3.8)
    axes = figure.subplots()
    for i, (method, frame) in enumerate(evaluations.items()):
        seeds = frame["seed"].nunique()
        needed = np.sort(frame[frame["score"] >= target].groupby("seed")["call"].min().to_numpy())
        share = np.arange(len(needed) + 1) / seeds
        share, at = np.append(share, share[-1]), np.concatenate([[1], needed, [calls]])
        se = np.sqrt(share * (1 - share) / seeds)
        axes.step(at, share, where="post", label=f"{method}: {share[-1]:.0%} of {seeds}", color=f"C{i}")
        axes.fill_between(at, share - se, share + se, step="post", alpha=0.15, color=f"C{i}")
    axes.set(
        xlabel="oracle calls", ylabel=f"share of seeds with {target:g} or more", ylim=(0, 1.03), xlim=(1, max(2, calls))
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9, loc="lower right")
    save_figure(figure, path)


def trajectory(evaluations: pd.DataFrame, path: str | Path) -> None:
    """Draw every score of :func:`molcmim.optimization.optimize` over the calls, and the best so far.

    Of up to eight seeds each has its line; of more, their mean and the range that holds 80 % of them.
    """
    seeds = list(dict.fromkeys(evaluations["seed"]))
    figure = new_figure(6.4, 3.8)
    axes = figure.subplots()
    few = len(seeds) <= 8
    axes.scatter(evaluations["call"], evaluations["score"], s=12, color=None if few else "0.7", alpha=0.5, linewidths=0,
                 c=[f"C{seeds.index(seed)}" for seed in evaluations["seed"]] if few else None)  # fmt: skip
    if few:
        for i, seed in enumerate(seeds):
            own = evaluations[evaluations["seed"] == seed]
            label = seed if len(seed) <= 32 else f"{seed[:29]}..."
            axes.step(own["call"], own["best"], where="post", color=f"C{i}", label=label)
    else:
        best = evaluations.pivot(index="call", columns="seed", values="best").ffill()
        low, high = best.quantile(0.1, axis=1), best.quantile(0.9, axis=1)
        axes.fill_between(best.index, low, high, step="post", alpha=0.25, label="80 % of the seeds")
        axes.step(best.index, best.mean(axis=1), where="post", label=f"best so far, mean of {len(seeds)} seeds")
    axes.set(xlabel="oracle call", ylabel="score (dots: single calls; lines: best so far)")
    axes.xaxis.get_major_locator().set_params(integer=True)
    shown = evaluations["score"].dropna()
    if len(shown) and math.isfinite(floor := float(shown.quantile(0.02))):
        margin = 0.05 * max(float(shown.max()) - floor, 1e-6)
        axes.set_ylim(floor - margin, float(shown.max()) + margin)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower right")
    save_figure(figure, Path(path))
