"""Attention: two implementations of one formula, no look into the future, a cache that changes nothing."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from transformers.cache_utils import DynamicCache

from molcmim.layers import MLP, Block, SelfAttention, attend, split_heads


def by_hand(q, k, v, mask=None, causal=False):
    """Attention one head and one query at a time, in float64."""
    b, h, length, e = q.shape
    out = torch.zeros(b, length, h, e, dtype=torch.double)
    for i in range(b):
        for head in range(h):
            for position in range(length):
                read = [
                    t for t in range(k.shape[2]) if (mask is None or mask[i, 0, 0, t]) and (not causal or t <= position)
                ]
                weights = torch.tensor(
                    [q[i, head, position].double() @ k[i, head, t].double() / math.sqrt(e) for t in read]
                ).softmax(0)
                out[i, position, head] = sum(w * v[i, head, t].double() for w, t in zip(weights, read, strict=True))
    return out.flatten(2)


@pytest.mark.parametrize(("causal", "masked"), [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("grad", [False, True])
def test_attend_is_the_formula_with_and_without_gradients(causal, masked, grad):
    torch.manual_seed(0)
    q, k, v = (torch.randn(3, 2, 5, 4, requires_grad=grad) for _ in range(3))
    mask = (torch.arange(5) < torch.tensor([[5], [3], [1]]))[:, None, None, :] if masked else None
    with torch.set_grad_enabled(grad):
        out = attend(q, k, v, mask, causal)
    expected = by_hand(q.detach(), k.detach(), v.detach(), mask, causal)
    torch.testing.assert_close(out.detach().double(), expected, atol=1e-6, rtol=1e-5)


def test_both_paths_have_the_same_gradient(monkeypatch):
    torch.manual_seed(0)
    inputs = [torch.randn(2, 2, 6, 4, requires_grad=True) for _ in range(3)]
    weights = torch.randn(2, 6, 8)
    ours = torch.autograd.grad((attend(*inputs, causal=True) * weights).sum(), inputs)
    monkeypatch.setattr("torch.is_grad_enabled", lambda: False)  # the other path; gradients flow all the same
    fused = torch.autograd.grad((attend(*inputs, causal=True) * weights).sum(), inputs)
    torch.testing.assert_close(ours, fused, atol=1e-6, rtol=1e-5)


def test_heads_are_slices_of_the_width():
    x = torch.arange(24.0).reshape(1, 2, 12)
    heads = split_heads(x, 3)
    assert heads.shape == (1, 3, 2, 4)
    assert heads[0, 1, 0].tolist() == [4, 5, 6, 7]
    assert torch.equal(heads.transpose(1, 2).flatten(2), x)


@pytest.mark.parametrize("grad", [False, True])
def test_the_future_is_never_seen(grad):
    torch.manual_seed(0)
    block = Block(16, 2, 0.0, causal=True)
    x = torch.randn(2, 9, 16)
    changed = x.clone()
    changed[:, 5:] = torch.randn(2, 4, 16)
    with torch.set_grad_enabled(grad):
        before, after = block(x), block(changed)
    assert torch.equal(before[:, :5], after[:, :5])
    assert not torch.isclose(before[:, 5:], after[:, 5:]).any(-1).all()
    seeing = Block(16, 2, 0.0, causal=False)
    assert not torch.allclose(seeing(x)[:, 0], seeing(changed)[:, 0])


@pytest.mark.parametrize("prompt", [1, 4])
def test_the_cache_changes_nothing(prompt):
    torch.manual_seed(0)
    blocks = [Block(16, 2, 0.0, causal=True, layer_index=i) for i in range(2)]
    x = torch.randn(3, 9, 16)

    def run(x, cache=None):
        for block in blocks:
            x = block(x, cache)
        return x

    with torch.no_grad():
        cache = DynamicCache()
        steps = [run(x[:, :prompt], cache)] + [run(x[:, i : i + 1], cache) for i in range(prompt, 9)]
        torch.testing.assert_close(torch.cat(steps, 1), run(x), atol=1e-6, rtol=1e-5)


def test_several_positions_after_a_cached_prefix_are_refused():
    attention = SelfAttention(16, 2, causal=True)
    cache = DynamicCache()
    attention(torch.randn(1, 3, 16), cache)
    with pytest.raises(ValueError, match="2 queries over 5 keys"):
        attention(torch.randn(1, 2, 16), cache)


def test_block_is_pre_norm_with_two_residual_branches():
    torch.manual_seed(0)
    block = Block(16, 4, 0.0, causal=False)
    x = torch.randn(2, 5, 16)
    attention = SelfAttention(16, 4, causal=False)
    attention.load_state_dict(block.attention.state_dict())
    middle = x + attention(nn.functional.layer_norm(x, (16,)))
    mlp = block.mlp
    assert mlp.up.out_features == 64
    inner = nn.functional.gelu(mlp.up(nn.functional.layer_norm(middle, (16,))), approximate="tanh")
    torch.testing.assert_close(block(x), middle + mlp.down(inner))
    torch.testing.assert_close(MLP(16)(torch.zeros(3, 16)).shape, torch.Size([3, 16]))


def test_dropout_acts_on_branches_while_training_only():
    block = Block(16, 2, 1.0 - 1e-6, causal=False)
    x = torch.randn(2, 5, 16)
    assert torch.equal(block.train()(x), x)
    assert not torch.allclose(block.eval()(x), x)
