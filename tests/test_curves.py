"""What a run shows of itself: its log as a table, as a picture, as lines."""

from __future__ import annotations

import math

import pandas as pd
import torch

from molcmim import progress
from molcmim.contrastive import Views
from molcmim.curves import PANELS, write_curves, write_log
from molcmim.latent import Posterior
from molcmim.objectives import OBJECTIVES, Sample, Settings

HISTORY = [
    {"step": 1, "loss": 6.5, "log_px": -5.5, "token_accuracy": 0.01, "molecules_per_second": 10.0, "mfu": 0.02},
    {"step": 10, "loss": 2.5, "log_px": -1.5, "token_accuracy": 0.51, "molecules_per_second": 1234.5, "mfu": 0.2},
    {"step": 10, "eval_exact_reconstruction": 0.25, "eval_bits_per_character": 1.75, "eval_active_dimensions": 31},
    {"step": 20, "loss": 1.5, "log_px": -0.5, "token_accuracy": 0.71, "molecules_per_second": 1200.0, "mfu": 0.2},
    {"step": 20, "train_runtime": 12.0, "train_loss": 2.0},
]


def test_log_has_a_row_a_step(tmp_path):
    write_log(HISTORY[:1], tmp_path)
    write_log(HISTORY, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]
    log = pd.read_csv(tmp_path / "log.csv")
    assert log["step"].tolist() == [1, 10, 20]
    assert log["loss"].tolist() == [6.5, 2.5, 1.5]
    assert log.loc[1, "eval_exact_reconstruction"] == 0.25
    assert log["eval_exact_reconstruction"].isna().tolist() == [True, False, True]
    assert log.loc[2, "train_loss"] == 2.0


def test_picture_is_written_and_takes_the_place_of_the_last(tmp_path):
    write_curves(HISTORY[:1], tmp_path)
    first = (tmp_path / "curves.png").read_bytes()
    write_curves(HISTORY, tmp_path)
    second = (tmp_path / "curves.png").read_bytes()
    assert first[:4] == second[:4] == b"\x89PNG"
    assert first != second
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]


def test_panels_and_lines_name_what_is_logged():
    from dataclasses import fields

    from molcmim.metrics import HeldOut

    point = torch.ones(2, 3)
    views = Views(point, point, target_first=point, target_second=point, second_moment=torch.eye(3))
    sample = Sample(torch.zeros(2), torch.ones(2, dtype=torch.int64), point, Posterior(point, -point), views=views)
    parts = {name for objective in OBJECTIVES.values() for name in objective(sample, Settings())}
    assert parts <= {name for names in PANELS.values() for name in names}  # every part is drawn
    logged = parts | {"loss", "log_p_descriptors"}
    logged |= {"token_accuracy", "molecules_per_second", "mfu"} | {f"eval_{f.name}" for f in fields(HeldOut)}
    assert {name for names in PANELS.values() for name in names} <= logged
    assert progress.FIELDS.keys() <= logged


def test_lines():
    assert progress.line(10, 2000, HISTORY[1]) == (
        "step 10 of 2,000 | loss 2.5000 | log p(x|z) -1.5000 | tokens right 51.00% | 1,234 molecules/s | MFU 20.0%"
    )
    assert progress.line(10, 2000, HISTORY[2]) == (
        "step 10 of 2,000 | held out: exact 25.00% | 1.7500 bits/character | 31 active dimensions"
    )
    assert progress.line(20, 2000, HISTORY[4]) == ""
    without_decoder = {"eval_exact_reconstruction": math.nan, "eval_active_dimensions": 31}
    assert progress.line(20, 2000, without_decoder) == "step 20 of 2,000 | 31 active dimensions"
    assert progress.line(20, 2000, {"loss": math.nan}) == "step 20 of 2,000 | loss nan"
