"""tuning_plots, and plots' parity: what stands where in the pictures of a fine-tuned model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from molcmim import plots, tuning_plots
from molcmim.tuned import Task


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Figures instead of files."""
    figures: list[Any] = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: figures.append(figure))
    return figures


def test_each_unit_has_a_scale_of_its_own(kept: list[Any]) -> None:
    small, large = np.array([0.0, 1, 2]), np.array([1e6, 3e6])
    panels = {"logP, valid": (small, small + 1), "logP, test": (small[:2], small[:2]), "IC50, test": (large, large)}
    plots.parity(panels, ["logP", "logP", "IC50"], Path("x.png"))
    axes = [one for one in kept[0].axes if one.get_visible()]
    assert axes[0].get_xlim() == axes[1].get_ylim() == pytest.approx((-0.1, 2.1))
    assert axes[2].get_xlim() == pytest.approx((0.9e6, 3.1e6))
    assert [one.get_xlabel() for one in axes] == ["measured logP", "measured logP", "measured IC50"]
    assert axes[0].get_title() == "logP, valid\n(1 beyond the frame, drawn on it)"
    plots.parity(panels, "units", Path("x.png"), "all")
    assert len({one.get_xlim() for one in kept[1].axes if one.get_visible()}) == 1
    assert (kept[1].get_supxlabel(), kept[1].get_suptitle()) == ("measured (units)", "all")


def test_confusion_counts_what_is_taken_for_what(kept: list[Any]) -> None:
    task = Task("multiclass", ["kind"], [0.0], [1.0], ["a", "b", "c"])
    values, outputs = np.array([[0.0], [1], [2], [2], [np.nan]]), np.eye(3)[[0, 1, 1, 2, 0]]
    tuning_plots.classes(task, values, outputs, {"test": np.arange(5)}, Path("x.png"))
    (axes,) = kept[0].axes
    assert axes.get_title() == "kind, test (4)"
    counts = np.array([int(text.get_text()) for text in axes.texts]).reshape(3, 3)
    np.testing.assert_array_equal(counts, [[1, 0, 0], [0, 1, 0], [0, 1, 1]])
    np.testing.assert_allclose(axes.images[0].get_array(), [[1, 0, 0], [0, 1, 0], [0, 0.5, 0.5]])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b", "c"]
