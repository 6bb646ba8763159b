"""The decoder: teacher forcing is the chain rule, and z and past tokens are all that a prediction sees."""

from __future__ import annotations

import pytest
import torch
from transformers.cache_utils import DynamicCache

from molcmim.config import MolCMIMConfig
from molcmim.model import MolCMIMModel


@pytest.fixture(scope="module")
def decoder():
    torch.manual_seed(0)
    decoder = MolCMIMModel(MolCMIMConfig.named("tiny", vocab_size=40, memory_tokens=3)).decoder.eval()
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return decoder


@pytest.fixture
def ids():
    return torch.randint(4, 40, (5, 12))


@pytest.fixture
def z():
    return torch.randn(5, 32)


@torch.no_grad()
def test_log_probability_is_the_sum_of_conditionals_taken_one_by_one(decoder, ids, z):
    log_p = decoder.to_vocabulary(decoder(ids[:, :-1], z)).log_softmax(-1)
    whole = log_p.gather(2, ids[:, 1:, None]).sum((1, 2))
    for row in range(5):
        total = 0.0
        for i in range(1, 12):  # p(x_i | x_<i, z) from a sequence that ends right before it
            hidden = decoder.run(decoder.prompt(z[row : row + 1], ids[row : row + 1, :i]))
            total += decoder.to_vocabulary(hidden[:, -1]).log_softmax(-1)[0, ids[row, i]]
        torch.testing.assert_close(whole[row], total, atol=1e-4, rtol=1e-5)


@torch.no_grad()
def test_conditionals_are_normalised(decoder, z):
    prefix = torch.tensor([[1, 7]] * 5)
    p = decoder.to_vocabulary(decoder(prefix, z)).softmax(-1)
    torch.testing.assert_close(p.sum(-1), torch.ones(5, 2))


@torch.no_grad()
def test_cache_equals_no_cache(decoder, ids, z):
    whole = decoder(ids, z)
    cache = DynamicCache()
    steps = [decoder.run(decoder.prompt(z, ids[:, :1]), cache)[:, -1:]]
    steps += [decoder.run(decoder.tokens(ids[:, i : i + 1]), cache) for i in range(1, 12)]
    torch.testing.assert_close(torch.cat(steps, 1), whole, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("grad", [False, True])
def test_later_tokens_and_padding_change_nothing(decoder, ids, z, grad):
    with torch.set_grad_enabled(grad):
        whole = decoder(ids, z)
        changed = ids.clone()
        changed[:, 7:] = torch.randint(4, 40, (5, 5))
        assert torch.equal(decoder(changed, z)[:, :7], whole[:, :7])
        padded = torch.nn.functional.pad(ids, (0, 9))
        torch.testing.assert_close(decoder(padded, z)[:, :12], whole, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_every_state_depends_on_z_and_on_its_own_token(decoder, ids, z):
    whole = decoder(ids, z)
    assert ((decoder(ids, z.flip(0)) - whole).abs().amax(-1)[[0, 1, 3, 4]] > 1e-2).all()
    changed = ids.clone()
    changed[:, 7] = (ids[:, 7] - 3) % 36 + 4
    assert ((decoder(changed, z) - whole).abs().amax(-1)[:, 7:] > 1e-3).all()


@torch.no_grad()
def test_memory_is_linear_in_z_and_comes_first(decoder, ids, z):
    prompt = decoder.prompt(z, ids)
    assert prompt.shape == (5, 3 + 12, 64)
    memory = z @ decoder.memory.weight.T + decoder.memory.bias
    torch.testing.assert_close(prompt[:, :3].flatten(1), memory, atol=1e-4, rtol=1e-5)
    assert torch.equal(prompt[:, 3:], decoder.tokens(ids))
