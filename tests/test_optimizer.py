"""The joined optimizer: what Muon and AdamW do one by one, and a state that survives saving."""

from __future__ import annotations

import copy

import pytest
import torch
from stores import MOLECULES, batch_of
from torch.optim import AdamW, Muon

from molcmim.config import MolCMIMConfig
from molcmim.model import MolCMIMModel
from molcmim.optimizer import build_optimizer, orthogonalize


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


def test_steps_of_it_are_steps_of_each(model):
    twin = copy.deepcopy(model)
    joined = build_optimizer(model, 1e-2, 0.1)
    names = {id(p): name for name, p in model.named_parameters()}
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    inner, outer = ([twin.get_parameter(names[id(p)]) for p in g["params"]] for g in joined.param_groups)
    apart = [
        Muon(inner, lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        AdamW(outer, lr=1e-2, weight_decay=0.0, betas=(0.9, 0.98), fused=True),
    ]
    for _ in range(3):
        for parameter, other in zip(model.parameters(), twin.parameters(), strict=True):
            parameter.grad = torch.randn_like(parameter)
            other.grad = parameter.grad.clone()
        for optimizer in (joined, *apart):
            optimizer.step()
    for (name, parameter), other in zip(model.named_parameters(), twin.parameters(), strict=True):
        moved = (other - before[name]).norm()
        assert (parameter - other).norm() < 0.02 * moved, name  # torch's Muon computes in bfloat16


@pytest.mark.parametrize(("rows", "columns"), [(1, 7), (5, 5), (6, 24)])
def test_orthogonalised_matrices_keep_their_directions_and_lose_their_lengths(rows, columns):
    torch.manual_seed(0)
    x = torch.randn(4, rows, columns, dtype=torch.double) * torch.tensor([1e-3, 1.0, 30.0, 1e4])[:, None, None]
    left, _, right = torch.linalg.svd(x, full_matrices=False)
    turned = left.mT @ orthogonalize(x).double() @ right.mT
    lengths = turned.diagonal(dim1=1, dim2=2)
    assert 0.6 < lengths.min() <= lengths.max() < 1.25
    torch.testing.assert_close(turned, torch.diag_embed(lengths), atol=1e-4, rtol=0)
    assert torch.equal(orthogonalize(torch.zeros(1, rows, columns)), torch.zeros(1, rows, columns))


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
