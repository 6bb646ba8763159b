"""Decoding: greedy, beams and draws against plain loops over the decoder."""

from __future__ import annotations

import itertools
import logging

import pytest
import torch
from stores import learned

from molcmim.config import MolCMIMConfig
from molcmim.decoding import decode_batches, decode_ids
from molcmim.model import MolCMIMModel


@pytest.fixture(scope="module")
def wild():
    """Return an untrained model with loud weights, whose sequences differ and end at different lengths."""
    torch.manual_seed(1)
    model = MolCMIMModel(MolCMIMConfig.named("tiny", vocab_size=8, max_position_embeddings=16)).eval()
    for parameter in model.decoder.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.25)
    return model


@torch.no_grad()
def log_probability(model, z, ids):
    """Log p(x|z) of each row up to and with `</s>`, from one uncached pass."""
    log_p = model.decoder.to_vocabulary(model.decode_hidden(ids, z)).log_softmax(-1)
    chosen = log_p.gather(2, ids[:, 1:, None])[..., 0]
    ended = ((ids[:, 1:] == 2).cumsum(1) - (ids[:, 1:] == 2).long()) > 0  # after the first </s>
    return chosen.masked_fill(ended, 0).sum(1)


@torch.no_grad()
def greedy_loop(model, z, max_length):
    rows = []
    for code in z:
        ids = [1]
        while ids[-1] != 2 and len(ids) < max_length:
            hidden = model.decoder(torch.tensor([ids]), code[None])
            ids.append(int(model.decoder.to_vocabulary(hidden[0, -1]).argmax()))
        rows.append(ids)
    return rows


def test_greedy_decoding_with_a_cache_is_the_plain_loop(wild):
    z = 2 * torch.randn(40, 32)
    expected = greedy_loop(wild, z, 16)
    assert len({len(row) for row in expected}) > 3
    assert any(row[-1] != 2 for row in expected)  # some reach the limit
    found = decode_ids(wild, z)
    assert found.shape[1] == max(map(len, expected)) == 16
    for ids, row in zip(found.tolist(), expected, strict=True):
        assert ids == row + [0] * (len(ids) - len(row))


def test_greedy_decoding_is_that_of_transformers(wild):
    """Whose generation carries finished sequences on, where ours drops them."""
    z = 2 * torch.randn(40, 32)
    expected = decode_ids(wild, z, suppress_tokens=[4])
    (found,) = decode_batches(wild, z.numpy(), forbidden=[4])
    assert torch.equal(found.ids, expected)
    assert not (found.ids == 4).any()
    assert torch.equal(found.finished, (expected == 2).any(1))
    assert 0 < found.finished.sum() < 40
    torch.testing.assert_close(found.log_px, log_probability(wild, z, expected))


def test_learned_molecules_come_back(wild):
    model, batch, _ = learned()
    z = model.encode(batch["input_ids"], batch["attention_mask"]).mu.detach()
    found = decode_ids(model, z)
    target = batch["target_ids"][:, : found.shape[1]]
    assert torch.equal(found, target)
    assert not batch["target_ids"][:, found.shape[1] :].any()


def test_the_limit_counts_both_ends(wild):
    z = torch.randn(10, 32)
    whole = decode_ids(wild, z)
    for limit in (2, 5):
        assert torch.equal(decode_ids(wild, z, max_length=limit), whole[:, :limit])


def test_batch_mates_do_not_matter(wild):
    z = 2 * torch.randn(10, 32)
    together = decode_ids(wild, z)
    for row in range(10):
        alone = decode_ids(wild, z[row : row + 1])
        assert torch.equal(alone[0], together[row, : alone.shape[1]])
        assert not together[row, alone.shape[1] :].any()


def test_a_beam_of_everything_finds_the_most_probable_string(wild):
    z = torch.randn(3, 32)
    bodies = [
        (*body, 2) for n in range(3) for body in itertools.product([0, 1, *range(3, 8)], repeat=n)
    ]  # all that end within three tokens
    every = torch.zeros(len(bodies), 4, dtype=torch.long)
    for row, body in enumerate(bodies):
        every[row, : len(body) + 1] = torch.tensor([1, *body])
    found = decode_ids(wild, z, max_length=4, num_beams=8**3, length_penalty=0.0)
    for row in range(3):
        best = log_probability(wild, z[row].expand(len(every), -1), every).max()
        ended = log_probability(wild, z[row : row + 1], found[row : row + 1])
        torch.testing.assert_close(ended[0].maximum(best), ended[0], atol=1e-4, rtol=0)


def test_beams_find_nothing_worse_than_greedy(wild):
    z = torch.randn(12, 32)
    greedy = log_probability(wild, z, decode_ids(wild, z))
    beams = log_probability(wild, z, decode_ids(wild, z, num_beams=8, length_penalty=0.0))
    assert (beams > greedy - 1e-4).all()
    assert (beams > greedy + 1e-2).any()


def test_several_strings_a_code(wild):
    z = torch.randn(3, 32)
    torch.manual_seed(0)
    many = decode_ids(wild, z, do_sample=True, num_return_sequences=5)
    assert many.shape[0] == 15
    assert (many[:, 0] == 1).all()
    best = decode_ids(wild, z, num_beams=6, num_return_sequences=6, length_penalty=0.0)
    scores = log_probability(wild, z.repeat_interleave(6, 0), best).reshape(3, 6)
    assert (scores.diff(dim=1) < 1e-4).all()  # best first, each its own code's


def test_draws_follow_the_model_and_the_seed(wild):
    z = torch.randn(1, 32)

    def draw(seed):
        torch.manual_seed(seed)
        return decode_ids(wild, z.expand(4000, -1), max_length=2, do_sample=True)

    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))
    share = draw(0)[:, 1].bincount(minlength=8) / 4000
    with torch.no_grad():
        p = wild.decoder.to_vocabulary(wild.decoder(torch.tensor([[1]]), z))[0, 0].softmax(-1)
    assert ((share - p).abs() < 4.5 * (p * (1 - p) / 4000).sqrt() + 1e-4).all()


def test_nothing_is_warned_or_logged(wild, caplog, recwarn):
    logger = logging.getLogger("transformers")
    propagate, logger.propagate = logger.propagate, True
    try:
        decode_ids(wild, torch.randn(2, 32))
        decode_ids(wild, torch.randn(2, 32), max_length=5, do_sample=True, top_p=0.9)
        decode_ids(wild, torch.randn(2, 32), num_beams=3)
    finally:
        logger.propagate = propagate
    assert not caplog.records
    assert not recwarn.list


def test_the_model_is_left_as_it_was(wild):
    before = {name: tensor.clone() for name, tensor in wild.state_dict().items()}
    out = decode_ids(wild, torch.randn(2, 32))
    assert out.dtype == torch.int64
    assert not wild.training
    assert all(torch.equal(before[name], tensor) for name, tensor in wild.state_dict().items())
    wild(torch.tensor([[1, 5, 2]]), torch.tensor([[1, 5, 2]])).log_px.sum().backward()  # still trainable
