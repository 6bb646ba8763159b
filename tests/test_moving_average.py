"""MINC's averages against plain sums over the past; what is saved comes back to the bit."""

from __future__ import annotations

import pytest
import torch
from stores import MOLECULES, batch_of

from molcmim.config import MolCMIMConfig
from molcmim.model import MolCMIMModel
from molcmim.moving_average import MovingAverage


@pytest.fixture
def model():
    torch.manual_seed(0)
    return MolCMIMModel(MolCMIMConfig.named("tiny", width=32, encoder_layers=1, decoder_layers=1))


def move(model, step):
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(step))


@pytest.mark.parametrize("decay", [0.0, 0.75])
def test_the_encoder_is_a_weighted_sum_of_its_past(model, decay):
    average = MovingAverage(model, decay, 0.9)
    expected = None
    for step in range(4):
        move(model, step)
        average.step(model)
        now = {name: weight.detach().clone() for name, weight in model.encoder.named_parameters()}
        expected = now if expected is None else {n: decay * expected[n] + (1 - decay) * w for n, w in now.items()}
    averaged = dict(average.average.module[0].named_parameters())
    torch.testing.assert_close({name: averaged[name].detach() for name in expected}, expected)
    assert not any(weight.requires_grad for weight in average.parameters())


def test_features_are_those_of_the_averaged_encoder(model):
    average = MovingAverage(model, 0.5, 0.9)
    batch = batch_of(MOLECULES[:6])
    inputs = batch["input_ids"], batch["attention_mask"]
    before = model.encode(*inputs).mu.detach()
    torch.testing.assert_close(average.features(*inputs), before)
    move(model, 0)
    torch.testing.assert_close(average.features(*inputs), before)  # until it is told
    average.step(model)
    torch.testing.assert_close(average.features(*inputs), model.encode(*inputs).mu.detach())


def test_lambda_is_the_weighted_mean_of_its_past(model):
    average = MovingAverage(model, 0.9, 0.75)
    batches = [torch.randn(5, 32, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    for i, batch in enumerate(batches):
        found = average.second_moment(batch)
        weights = [0.75 ** (i - j) for j in range(i + 1)]
        moments = [b.T @ b / 5 for b in batches[: i + 1]]
        expected = sum(w * m for w, m in zip(weights, moments, strict=True)) / sum(weights)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert average.second_moment(batches[0].bfloat16()).dtype == torch.float32


def test_state_comes_back_to_the_bit(model, tmp_path):
    average = MovingAverage(model, 0.9, 0.75)
    for step in range(2):
        move(model, step)
        average.step(model)
        average.second_moment(torch.randn(5, 32))
    average.save(tmp_path / "average.safetensors")
    again = MovingAverage(model, 0.9, 0.75)
    again.load(tmp_path / "average.safetensors")
    move(model, 2)
    for one in (average, again):
        one.step(model)
    for name, value in average.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
