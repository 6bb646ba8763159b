"""The joined optimizer: what Muon and AdamW do one by one, and a state that survives saving."""

from __future__ import annotations

import copy

import pytest
import torch
from stores import MOLECULES, batch_of
from torch.optim import AdamW, Muon

from molcmim.config import MolCMIMConfig
from molcmim.model import MolCMIMModel
from molcmim.optimizer import build_optimizer


@pytest.fixture
def model():
    torch.manual_seed(0)
    return MolCMIMModel(MolCMIMConfig.named("tiny", num_descriptors=3, posterior="learned"))


def steps(model, optimizers, count, first=0):
    batch = batch_of(MOLECULES[:4])
    for step in range(first, first + count):
        torch.manual_seed(step)
        out = model(**batch)
        (-out.log_px.mean() + out.descriptors.square().mean()).backward()
        for optimizer in optimizers:
            for group in optimizer.param_groups:  # as a schedule does
                group["lr"] = 1e-2 / (step + 1)
            optimizer.step()
        model.zero_grad()


def test_every_weight_is_updated_by_the_one_it_belongs_to(model):
    muon, adamw = build_optimizer(model, 1e-2, 0.1).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    by_muon, by_adamw = ({names[id(p)] for p in group["params"]} for group in (muon, adamw))
    assert by_muon | by_adamw == set(names.values())
    assert not by_muon & by_adamw
    heads = {"decoder.to_vocabulary.weight", "to_descriptors.weight"}
    vectors = {name for name, parameter in model.named_parameters() if parameter.ndim == 1}
    tables = {name for name in names.values() if "tokens" in name or "positions" in name}
    assert heads | vectors | tables | {"encoder.latents", "encoder.stem.depthwise.weight"} == by_adamw
    assert (muon["weight_decay"], adamw["weight_decay"]) == (0.1, 0.0)


def test_one_step_of_it_is_one_of_each(model):
    twin = copy.deepcopy(model)
    joined = build_optimizer(model, 1e-2, 0.1)
    names = {id(p): name for name, p in model.named_parameters()}
    inner, outer = ([twin.get_parameter(names[id(p)]) for p in g["params"]] for g in joined.param_groups)
    apart = [
        Muon(inner, lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        AdamW(outer, lr=1e-2, weight_decay=0.0, betas=(0.9, 0.98), fused=True),
    ]
    steps(model, [joined], 3)
    steps(twin, apart, 3)
    for (name, parameter), other in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(parameter, other), name


def test_its_state_survives_saving(model, tmp_path):
    joined = build_optimizer(model, 1e-2, 0.1)
    steps(model, [joined], 2)
    torch.save(joined.state_dict(), tmp_path / "optimizer.pt")
    twin = copy.deepcopy(model)
    steps(model, [joined], 2, first=2)
    resumed = build_optimizer(twin, 1e-2, 0.1)
    resumed.load_state_dict(torch.load(tmp_path / "optimizer.pt"))
    steps(twin, [resumed], 2, first=2)
    for (name, parameter), other in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(parameter, other), name
