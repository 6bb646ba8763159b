"""What transformers' Trainer was given of ours: arguments, optimizer, sums, pictures."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from molcmim import metrics, trainer
from molcmim.config import MolCMIMConfig
from molcmim.data import BucketedBatches, TokenStore
from molcmim.model import MolCMIMModel
from molcmim.pretrain import pretrain
from molcmim.recipe import Recipe


@pytest.mark.parametrize(("seconds", "pictures"), [(1e9, 1), (-1.0, 3)])
def test_curves_are_not_drawn_too_often(seconds, pictures, stores, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(trainer, "write_curves", lambda history, folder: drawn.append(len(history)))
    monkeypatch.setattr(trainer, "REDRAWN_AFTER", seconds)
    recipe = Recipe.load("tiny", steps=4, batch_size=8, warmup_steps=0, evaluate_every=2, evaluate_molecules=8)
    pretrain(*stores, tmp_path, recipe)
    assert len(drawn) == pictures
    assert (tmp_path / "log.csv").exists()


def test_weight_decay_is_on_matrices_only(stores, tmp_path):
    model = MolCMIMModel(MolCMIMConfig.named("tiny", num_descriptors=3))
    for optimizer in ("adamw", "muon"):
        recipe = Recipe.load("tiny", batch_size=8, optimizer=optimizer)
        arguments = trainer.training_arguments(recipe, tmp_path)
        made = trainer.PretrainTrainer(
            model, arguments, recipe, BucketedBatches(TokenStore(stores[0]), 8), [], torch.zeros(1)
        ).create_optimizer()
        groups = [(group["weight_decay"], p) for group in made.param_groups for p in group["params"]]
        assert len({id(p) for _, p in groups}) == len(groups) == len(list(model.parameters()))
        assert {decay for decay, p in groups if p.ndim == 1} == {0.0}
        assert {decay for decay, p in groups if p.ndim > 1} >= {0.05}


def test_parts_are_added_up_before_they_are_overwritten():
    counting = SimpleNamespace(_sums={})
    value = torch.ones(())
    for now in (1.0, 5.0, 2.0):
        trainer.PretrainTrainer._tally(counting, {"log_px": value.fill_(now)})
    assert counting._sums["log_px"].item() == 8


@pytest.mark.parametrize(("half", "pays"), [(0.5, True), (1.9, True), (50.0, False)])
def test_bfloat16_is_trained_in_where_it_is_fast(half, pays, monkeypatch, tmp_path):
    seconds = {torch.float32: 1.0, torch.bfloat16: half}
    monkeypatch.setattr(metrics, "_seconds_of_product", lambda rows, width, dtype, *_: seconds[dtype])
    metrics.bfloat16_pays.cache_clear()
    caught = contextlib.nullcontext() if pays else pytest.warns(UserWarning, match="has no fast bfloat16")
    with caught:
        assert trainer.training_arguments(Recipe.load("small"), tmp_path).bf16 == pays
    assert not trainer.training_arguments(Recipe.load("tiny"), tmp_path).bf16
    monkeypatch.undo()
    metrics.bfloat16_pays.cache_clear()


def test_weights_that_are_not_finite_are_not_kept(stores, tmp_path):
    recipe = Recipe.load(
        "tiny", batch_size=8, steps=8, warmup_steps=0, learning_rate=1e9, evaluate_every=8, save_every=1
    )
    with pytest.raises(
        ValueError, match=r"training has diverged: at step \d weights are not finite.*lower learning_rate"
    ):
        pretrain(*stores, tmp_path, recipe)
    for path in tmp_path.glob("checkpoint-*/model.safetensors"):
        assert all(weight.isfinite().all() for weight in load_file(path).values())
