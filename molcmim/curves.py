"""Training curves: a run's log as CSV and as a picture. Knows only the logged numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from molcmim.atomic import atomic_path

PANELS: dict[str, tuple[str, ...]] = {
    "parts of the objective (nats, mean over molecules)": (
        "log_px", "half_log_qz", "half_log_pz", "minus_kl", "log_p_match", "log_p_view", "alignment", "repulsion",
        "invariance", "variance", "covariance", "redundancy", "log_p_descriptors"),
    "token accuracy and exact reconstruction": (
        "token_accuracy", "eval_token_accuracy", "eval_exact_reconstruction", "eval_descriptor_r2"),
    "held-out bits per character": ("eval_bits_per_character",),
    "latent: active dimensions, effective rank": ("eval_active_dimensions", "eval_effective_rank"),
    "mean cosine between molecules": ("eval_mean_cosine",),
    "molecules per second": ("molecules_per_second",),
}  # fmt: skip

NAMES = {
    "log_px": "log p(x|z)", "half_log_qz": "1/2 log q(z|x)", "half_log_pz": "1/2 log P(z)", "minus_kl": "-KL(q || P)",
    "log_p_match": "log p(k=1)", "log_p_descriptors": "log p(d|z)", "eval_descriptor_r2": "descriptor R2",
}  # fmt: skip
"""Of curves that are not named as their columns."""


def write_log(history: list[dict[str, Any]], folder: Path) -> None:
    """Write ``log.csv``, one row per step, into `folder`."""
    with atomic_path(folder / "log.csv") as path:
        _table(history).to_csv(path, index=False)


def write_curves(history: list[dict[str, Any]], folder: Path) -> None:
    """Draw ``curves.png`` into `folder`."""
    with atomic_path(folder / "curves.png") as path:
        _draw(_table(history), path)


def _table(history: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(history).groupby("step", as_index=False).first()


def _draw(log: pd.DataFrame, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 7))
    FigureCanvasAgg(figure)
    figure.subplots_adjust(0.05, 0.07, 0.975, 0.95, wspace=0.2, hspace=0.3)  # a layout engine takes half of the time
    for axes, (title, names) in zip(figure.subplots(2, 3).flat, PANELS.items(), strict=True):
        for name in names:
            if name in log and log[name].notna().any():
                points, held_out = log[["step", name]].dropna(), name.startswith("eval_")
                label = NAMES.get(name, name.removeprefix("eval_").replace("_", " ")) + ", held out" * held_out
                axes.plot(points["step"], points[name], label=label, marker="." if held_out else None)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("step")
        axes.set_xlim(0, 1.03 * log["step"].max())
        axes.locator_params(axis="x", nbins=6)  # more, and the labels of a long run touch
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize=8)
    figure.savefig(path, dpi=110, format="png")
