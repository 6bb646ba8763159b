"""Training curves: a run's log as CSV and as a picture. Knows only the logged numbers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pandas as pd

PANELS: dict[str, tuple[str, ...]] = {
    "parts of the objective (nats, mean over molecules)": (
        "log_px", "half_log_qz", "half_log_pz", "log_p_match", "log_p_descriptors"),
    "token accuracy and exact reconstruction": (
        "token_accuracy", "eval_token_accuracy", "eval_exact_reconstruction", "eval_descriptor_r2"),
    "held-out bits per character": ("eval_bits_per_character",),
    "latent: active dimensions, effective rank": ("eval_active_dimensions", "eval_effective_rank"),
    "mean cosine between molecules": ("eval_mean_cosine",),
    "molecules per second": ("molecules_per_second",),
}  # fmt: skip


def write_curves(history: list[dict[str, Any]], folder: Path) -> None:
    """Write ``log.csv`` and ``curves.png`` into `folder`, each by way of a temporary file."""
    if not history:
        return
    log = pd.DataFrame(history).groupby("step", as_index=False).first()
    _replace(folder / "log.csv", lambda path: log.to_csv(path, index=False))
    _replace(folder / "curves.png", lambda path: _draw(log, path))


def _replace(path: Path, write: Any) -> None:
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    write(temporary)
    os.replace(temporary, path)


def _draw(log: pd.DataFrame, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 7), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, names) in zip(figure.subplots(2, 3).flat, PANELS.items(), strict=True):
        for name in names:
            if name in log and log[name].notna().any():
                points = log[["step", name]].dropna()
                axes.plot(points["step"], points[name], label=name, marker="." if name.startswith("eval") else None)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize=8)
    figure.savefig(path, dpi=110, format="png")
