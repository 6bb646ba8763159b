"""Captured steps: the gradients and noise of steps that were not, and buffers that survive an optimizer."""

from __future__ import annotations

import pytest
import torch

from molcmim import captured
from molcmim.captured import CapturedSteps
from molcmim.config import MolCMIMConfig
from molcmim.model import MolCMIMModel

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")


def batches(device, shapes, molecules=16):
    random = torch.Generator().manual_seed(0)
    for length in shapes:
        ids = torch.randint(4, 90, (molecules, length), generator=random)
        ids[torch.arange(length) >= torch.randint(5, length + 1, (molecules, 1), generator=random)] = 0
        yield {"input_ids": ids.to(device), "target_ids": ids.to(device)}


def build(device):
    torch.manual_seed(0)
    model = MolCMIMModel(MolCMIMConfig.named("tiny", num_descriptors=3)).to(device).train()

    def step(inputs):
        with torch.autocast(device, torch.bfloat16):
            out = model(**inputs)
        loss = out.descriptors.square().mean() - out.log_px.mean() + out.z.square().mean()
        loss.backward()
        return {"loss": loss.detach(), "tokens": out.num_tokens.sum()}

    return model, step


def plain(model, step, inputs):
    model.zero_grad()
    return step(inputs)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])
def test_training_is_the_same(device, monkeypatch):
    if device == "cpu":
        monkeypatch.setattr(captured, "SEEN_BEFORE", 99)
    model, step = build(device)
    twin, twin_step = build(device)
    steps = CapturedSteps(model.parameters(), step)
    optimizers = [torch.optim.SGD(m.parameters(), 1e-2) for m in (model, twin)]
    tolerance = 1e-5 if device == "cpu" else 2e-2  # a GPU's sums have no fixed order
    for number, inputs in enumerate(batches(device, [24, 16, 24, 24, 16, 24, 24, 32, 24, 16, 16, 16, 24])):
        torch.manual_seed(number)  # the same noise
        ours = {name: value.clone() for name, value in steps(inputs).items()}
        torch.manual_seed(number)
        theirs = plain(twin, twin_step, inputs)
        assert torch.equal(ours["tokens"], theirs["tokens"])
        assert ours["loss"].item() == pytest.approx(theirs["loss"].item(), rel=tolerance)
        for parameter, other in zip(model.parameters(), twin.parameters(), strict=True):
            assert (parameter.grad - other.grad).norm() <= tolerance * other.grad.norm() + 1e-6
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    assert len(steps.recorded) == (2 if device == "cuda" else 0)


@needs_gpu
def test_replays_draw_new_noise():
    model, step = build("cuda")
    steps = CapturedSteps(model.parameters(), step)
    (inputs,) = batches("cuda", [24])
    losses = {steps(inputs)["loss"].item() for _ in range(12)}
    assert len(steps.recorded) == 1
    assert len(losses) == 12
