"""The encoder: what padding and batch mates must not do, and its folded reading against keys and values spelled out."""

from __future__ import annotations

import pytest
import torch
from stores import MOLECULES

from molcmim.config import MolCMIMConfig
from molcmim.encoder import Encoder, shifted
from molcmim.layers import split_heads
from molcmim.model import MolCMIMModel
from molcmim.tokenizer import load_tokenizer


def build(**settings):
    torch.manual_seed(0)
    encoder = MolCMIMModel(MolCMIMConfig.named("tiny", **settings)).encoder.eval()
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # so that every part matters
    return encoder


@pytest.fixture(scope="module")
def ids():
    tokenizer = load_tokenizer("smiles")
    return tokenizer([s for s, _ in MOLECULES], padding=True, return_tensors="pt")


@pytest.fixture(scope="module", params=[7, 0], ids=["stem", "no stem"])
def encoder(request):
    return build(stem_kernel=request.param)


@pytest.mark.parametrize("grad", [False, True])
def test_padding_moves_nothing(encoder, ids, grad):
    with torch.set_grad_enabled(grad):
        batch = encoder(ids["input_ids"], ids["attention_mask"])
        for row, (tokens, mask) in enumerate(zip(ids["input_ids"], ids["attention_mask"], strict=True)):
            alone = encoder(tokens[None, : mask.sum()])
            torch.testing.assert_close(batch[row : row + 1], alone, atol=1e-5, rtol=0)


def test_whatever_stands_under_the_mask_is_not_read(encoder, ids):
    tokens, mask = ids["input_ids"], ids["attention_mask"].bool()
    litter = torch.where(mask, tokens, torch.randint(4, 90, tokens.shape))
    torch.testing.assert_close(encoder(tokens, mask), encoder(litter, mask), atol=1e-5, rtol=0)
    assert not torch.allclose(encoder(tokens, mask), encoder(litter), atol=1e-2)


def test_no_mask_is_the_mask_of_the_pad_id(encoder, ids):
    expected = encoder(ids["input_ids"], ids["attention_mask"])
    assert torch.equal(encoder(ids["input_ids"]), expected)
    assert torch.equal(encoder(ids["input_ids"], ids["attention_mask"].bool()), expected)


def test_batch_order_does_not_matter(encoder, ids):
    order = torch.randperm(len(MOLECULES))
    permuted = encoder(ids["input_ids"][order], ids["attention_mask"][order])
    torch.testing.assert_close(permuted, encoder(ids["input_ids"], ids["attention_mask"])[order], atol=1e-5, rtol=0)


def test_token_order_matters():
    encoder = build(stem_kernel=0)
    assert not torch.allclose(encoder(torch.tensor([[1, 50, 60, 2]])), encoder(torch.tensor([[1, 60, 50, 2]])))


def test_folded_reading_equals_keys_and_values_of_every_token(encoder, ids):
    """The forward pass once more, with a key and a value matrix of its own for each layer and head."""
    tokens, mask = ids["input_ids"][:6], ids["attention_mask"][:6].bool()
    d, heads = 64, encoder.heads
    x = encoder.tokens(tokens) + encoder.positions(torch.arange(tokens.shape[1]))
    if encoder.stem is not None:
        x = encoder.stem(x, mask)
    x = encoder.norm(x)
    weights = encoder.key_value.weight.reshape(2, 2, heads, d // heads, d)  # layer, key or value, head
    biases = encoder.key_value.bias.reshape(2, 2, heads, d // heads)
    latents = encoder.latents.repeat(6, 1, 1)
    for layer, (read, block) in enumerate(zip(encoder.reads, encoder.blocks, strict=True)):
        query = split_heads(read.query(read.norm(latents)), heads)
        out = []
        for head in range(heads):
            key, value = (x @ weights[layer, i, head].T + biases[layer, i, head] for i in (0, 1))
            scores = query[:, head] @ key.transpose(1, 2) / (d // heads) ** 0.5
            out.append(scores.masked_fill(~mask[:, None], -torch.inf).softmax(-1) @ value)
        latents = block(latents + read.out(torch.cat(out, -1)))
    torch.testing.assert_close(encoder(tokens, mask), encoder.final_norm(latents), atol=1e-4, rtol=1e-4)


def test_the_stem_is_a_convolution_over_the_molecule_alone():
    encoder = build()
    stem, n = encoder.stem, 9
    x = torch.randn(1, n, 64)
    y = stem.norm(x)[0].detach()
    mixed = torch.stack(
        [
            stem.depthwise.bias
            + sum(stem.depthwise.weight[:, 0, k] * y[i + k - 3] for k in range(7) if 0 <= i + k - 3 < n)
            for i in range(n)
        ]
    )
    expected = x + stem.down(torch.nn.functional.gelu(stem.up(mixed), approximate="tanh"))
    torch.testing.assert_close(stem(x, torch.ones(1, n, dtype=torch.bool)), expected, atol=1e-4, rtol=1e-4)


def test_shapes_and_gradients():
    config = MolCMIMConfig.named("tiny", num_latents=3)
    encoder = MolCMIMModel(config).encoder
    out = encoder(torch.tensor([[1, 40, 2]]))
    assert out.shape == (1, 3, 64)
    assert isinstance(encoder, Encoder)
    (out * torch.randn(out.shape)).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in encoder.parameters())


def test_shifted_products_are_the_convolution():
    torch.manual_seed(0)
    convolution = torch.nn.Conv1d(6, 6, 5, padding=2, groups=6)
    y = torch.randn(3, 9, 6, requires_grad=True)
    ours, theirs = shifted(convolution, y), convolution(y.transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(ours, theirs)
    weights = torch.randn_like(ours)
    inputs = [y, *convolution.parameters()]
    pairs = (torch.autograd.grad((out * weights).sum(), inputs) for out in (ours, theirs))
    for one, other in zip(*pairs, strict=True):
        torch.testing.assert_close(one, other)
