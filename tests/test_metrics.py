"""Metrics against loops, hand-made formulas and a model that knows its molecules by heart."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from stores import batch_of, learned, write_store

from molcmim import metrics
from molcmim.config import MolCMIMConfig
from molcmim.data import BucketedBatches, TokenStore
from molcmim.model import MolCMIMModel
from molcmim.objectives import OBJECTIVES
from molcmim.tokenizer import load_tokenizer

CHARACTERS = metrics.token_characters(load_tokenizer("smiles"))


def test_characters_of_tokens():
    tokenizer = load_tokenizer("smiles")
    texts = ["C[C@@H](N)C(=O)O", "Clc1ccccc1%10Br"]
    for text in texts:
        assert CHARACTERS[tokenizer(text)["input_ids"]].sum() == len(text)
    assert CHARACTERS[:4].tolist() == [0, 0, 0, 0]


def test_a_model_that_knows_its_molecules():
    model, batch, _ = learned()
    state = torch.get_rng_state()
    found = metrics.held_out(model.train(), [batch], CHARACTERS)
    assert model.training
    model.eval()
    assert torch.equal(torch.get_rng_state(), state)  # a run does not depend on how often it is evaluated
    assert found.exact_reconstruction == found.token_accuracy == 1.0
    assert 0 < found.nats_per_token < 0.1
    assert math.isnan(found.descriptor_r2)
    out = model(**batch, sample=False)
    mu = out.mu.detach()
    assert found.nats_per_token == pytest.approx(-out.log_px.sum().item() / out.num_tokens.sum().item(), rel=1e-5)
    written = load_tokenizer("smiles").batch_decode(batch["target_ids"], skip_special_tokens=True)
    bits = -out.log_px.sum().item() / math.log(2) / sum(map(len, written))
    assert found.bits_per_character == pytest.approx(bits, rel=1e-5)
    assert found.mean_cosine == pytest.approx(metrics.mean_cosine(mu), abs=1e-6)
    assert found.effective_rank == pytest.approx(metrics.effective_rank(mu), rel=1e-5)
    assert found.active_dimensions == (mu.numpy().var(0, ddof=1) > 0.01).sum()


def test_batches_do_not_matter_and_misses_count():
    model, batch, _ = learned()
    wrong = {**batch, "target_ids": batch["target_ids"].roll(1, 0)}  # asked for its neighbour's string
    parts = [{name: tensor[i : i + 5] for name, tensor in wrong.items()} for i in range(0, 24, 5)]
    one, many = (metrics.held_out(model, batches, CHARACTERS).as_dict() for batches in ([wrong], parts))
    assert one == pytest.approx(many, rel=1e-4, nan_ok=True)
    assert one["exact_reconstruction"] == 0
    assert one["token_accuracy"] < 0.9
    half = {**batch, "target_ids": torch.cat([batch["target_ids"][:12], wrong["target_ids"][12:]])}
    assert metrics.held_out(model, [half], CHARACTERS).exact_reconstruction == 0.5


def test_an_unfinished_string_is_not_exact():
    model, batch, _ = learned()
    cut = {**batch, "target_ids": batch["target_ids"].where(batch["target_ids"] != 2, 0)}
    assert metrics.held_out(model, [cut], CHARACTERS).exact_reconstruction == 0


def test_descriptors_are_scored_over_all_batches_together():
    torch.manual_seed(0)
    model = MolCMIMModel(MolCMIMConfig.named("tiny", num_descriptors=2))
    batch = batch_of([("CCO", "OCC")] * 6)
    true = torch.tensor([[10.0, 0], [12, 1], [11, 0], [-11, 1], [-9, 0], [-10, 1]])
    batches = [
        {**{name: tensor[i : i + 3] for name, tensor in batch.items()}, "descriptors": true[i : i + 3]} for i in (0, 3)
    ]
    found = metrics.held_out(model, batches, CHARACTERS).descriptor_r2
    with torch.no_grad():
        predicted = model.eval()(**batch, sample=False).descriptors.numpy()
    true = true.numpy()
    expected = 1 - ((predicted - true) ** 2).sum() / ((true - true.mean(0)) ** 2).sum()
    assert found == pytest.approx(expected, abs=1e-4)
    assert abs(found) < 0.05  # it predicts next to nothing; by the batches' own means it would be far below 0


def test_held_out_batches_are_a_fair_choice(tmp_path, monkeypatch):
    store = TokenStore(write_store(tmp_path / "store", descriptors=True))
    monkeypatch.setattr(metrics, "BATCH_SIZE", 8)
    every = list(metrics.held_out_batches(store))
    assert sorted(len(batch["target_ids"]) for batch in every) == [8] * 6
    some = list(metrics.held_out_batches(store, 12))
    assert [len(batch["target_ids"]) for batch in some] == [8, 4]
    monkeypatch.setattr(metrics, "BATCH_SIZE", 32)  # of 48: the short batch may come first
    for asked in (1, 5, 20, 40, 48, 60):
        assert sum(len(b["target_ids"]) for b in metrics.held_out_batches(store, asked)) == min(asked, 48)
    monkeypatch.setattr(metrics, "BATCH_SIZE", 8)
    made, take = [], BucketedBatches.__getitem__
    with monkeypatch.context() as patch:
        patch.setattr(BucketedBatches, "__getitem__", lambda own, i: made.append(i) or take(own, i))
        list(metrics.held_out_batches(store, 12))
    assert made == [0, 1]  # what is not asked for is not read
    again = list(metrics.held_out_batches(store, 12))
    assert all(torch.equal(a["input_ids"], b["input_ids"]) for a, b in zip(some, again, strict=True))
    assert all(torch.equal(batch["input_ids"], batch["target_ids"]) for batch in some)

    def spread(batch):
        return float((batch["input_ids"] != 0).sum(1).float().std())

    assert np.mean([spread(b) for b in some]) > 2 * np.mean([spread(b) for b in every])  # lengths mixed, not sorted


def test_effective_rank():
    torch.manual_seed(0)
    assert metrics.effective_rank(torch.randn(20_000, 8)) == pytest.approx(8, rel=1e-3)
    line = torch.randn(100, 1) * torch.randn(1, 8) + 3
    assert metrics.effective_rank(line) == pytest.approx(1, abs=1e-2)
    points = torch.cat([torch.eye(2), -torch.eye(2)]) * torch.tensor([3.0, 1.0])  # singular values 3 : 1
    entropy = -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
    assert metrics.effective_rank(points) == pytest.approx(math.exp(entropy), rel=1e-6)


def test_mean_cosine_is_the_double_loop():
    x = torch.randn(9, 4)
    pairs = [F.cosine_similarity(x[i], x[j], dim=0).item() for i, j in itertools.permutations(range(9), 2)]
    assert metrics.mean_cosine(x) == pytest.approx(np.mean(pairs), abs=1e-6)
    assert metrics.mean_cosine(torch.ones(5, 3)) == pytest.approx(1)


@pytest.mark.parametrize("stem", [0, 5])
def test_training_flops_are_the_matrix_products_counted_by_hand(stem):
    v, d, z, k, m, e, c, t, p = 100, 64, 32, 2, 3, 2, 4, 20, 7
    config = MolCMIMConfig.named(
        "tiny", vocab_size=v, memory_tokens=m, decoder_layers=c, stem_kernel=stem, num_descriptors=p
    )
    block = 12 * d * d  # qkv, out, up, down; times 2 and the positions
    encoder = e * (2 * k * 4 * d * d + 2 * 2 * 4 * k * t * d)  # query, key, value, out; 4 heads' scores and sums
    encoder += e * (2 * k * block + 2 * 2 * k * k * d)
    if stem:
        encoder += 2 * t * d * stem + 2 * t * 2 * 2 * d * d
    s = m + t - 1
    decoder = 2 * z * m * d + c * (2 * s * block + 2 * 2 * s * s * d) + 2 * (t - 1) * d * v
    heads = 2 * k * d * z + 2 * z * p
    assert metrics.training_flops(config, t, OBJECTIVES["cmim"]) == 3 * (encoder + decoder + heads)
    read = 2 * (encoder + heads)  # both views
    assert metrics.training_flops(config, t, OBJECTIVES["infonce"]) == 3 * read
    assert metrics.training_flops(config, t, OBJECTIVES["infonce-x"]) == 3 * (read + decoder)
    assert metrics.training_flops(config, t, OBJECTIVES["minc"]) == 3 * read + read - 2 * 2 * z * p


def test_peak_flops_are_of_this_machine():
    assert 1e8 < metrics.peak_flops(torch.device("cpu")) < 1e14
