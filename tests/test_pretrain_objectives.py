"""Pretraining by every objective: it learns, does not collapse, resumes to the bit, and two processes train as one."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from stores import MOLECULES, batch_of
from transformers import set_seed

from molcmim import Featurizer, checkpoint, generation
from molcmim.config import MolCMIMConfig
from molcmim.contrastive import Views
from molcmim.data import StoreManifest, TokenStore
from molcmim.decoder import Decoder
from molcmim.latent import Posterior
from molcmim.metrics import effective_rank
from molcmim.model import MolCMIMModel
from molcmim.moving_average import MovingAverage
from molcmim.objectives import OBJECTIVES, Sample, Settings, log_p_descriptors
from molcmim.optimizer import build_optimizer
from molcmim.pretrain import pretrain
from molcmim.recipe import Recipe
from molcmim.trainer import MOVING_AVERAGE, both_views

STEPS = 30
CHOICES = {
    "steps": STEPS,
    "batch_size": 8,
    "warmup_steps": 3,
    "temperature": 0.3,
    "seed": 3,
    "log_every": 5,
    "evaluate_every": STEPS,
    "save_every": STEPS,
    "model.width": 32,
    "model.encoder_layers": 1,
    "model.decoder_layers": 1,
}
EVERY_4 = {"warmup_steps": 0, "evaluate_every": 4, "save_every": 4}
PARTS = {
    "mim": {"log_px", "half_log_qz", "half_log_pz"},
    "cmim": {"log_px", "half_log_qz", "half_log_pz", "log_p_match"},
    "cmim-sum": {"log_px", "half_log_qz", "half_log_pz", "log_p_match"},
    "ae": {"log_px"},
    "vae": {"log_px", "minus_kl"},
    "cvae": {"log_px", "minus_kl", "log_p_match"},
    "infonce": {"log_p_view"},
    "infonce-x": {"log_p_view", "log_px"},
    "spectral": {"alignment", "repulsion"},
    "minc": {"alignment", "repulsion"},
    "vicreg": {"invariance", "variance", "covariance"},
    "barlow-twins": {"invariance", "redundancy"},
}


def recipe(objective, **changes):
    posterior = OBJECTIVES[objective].posteriors[0]
    return Recipe.load("tiny", **{**CHOICES, "objective": objective, "posterior": posterior, **changes})


SHORTEST = sorted(MOLECULES, key=lambda molecule: len(molecule[0]))[:24]


def learn(name, steps=60, descriptors=None):
    """Train a tiny model on the 24 shortest molecules; return the parts by step and the means.

    With (24, p) `descriptors`, the chemistry factor is added.
    """
    batch, other = batch_of(SHORTEST), batch_of([(second, first) for first, second in SHORTEST])
    batch |= {"input_ids_2": other["input_ids"], "attention_mask_2": other["attention_mask"]}
    needs = OBJECTIVES[name]
    torch.manual_seed(0)
    sizes = {"width": 32, "stem_kernel": 3, "encoder_layers": 1, "decoder_layers": 1}
    posterior = "learned" if "learned" in needs.posteriors else "point"
    sizes["num_descriptors"] = 0 if descriptors is None else descriptors.shape[1]
    model = MolCMIMModel(MolCMIMConfig.named("tiny", posterior=posterior, **sizes)).train()
    optimizer = build_optimizer(model, lr=7e-3, weight_decay=0.0)
    moving = MovingAverage(model, 0.9, 0.9)
    history = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 7e-3 * min(1, (step + 1) / 10)
        ids, mask = both_views(batch) if needs.views == 2 else (batch["input_ids"], batch["attention_mask"])
        out = model(ids, batch["target_ids"] if needs.decoder else None, mask)
        views = None
        if needs.views == 2:
            first, second = moving.features(ids, mask).chunk(2)
            moment = moving.second_moment(out.mu)
            views = Views(*out.mu.chunk(2), target_first=first, target_second=second, second_moment=moment)
        posterior = Posterior(out.mu[:24], out.logvar[:24])
        parts = needs(Sample(out.log_px, out.num_tokens, out.z[:24], posterior, views=views), Settings(0.3))
        if descriptors is not None:
            parts["log_p_descriptors"] = log_p_descriptors(out.descriptors[:24], descriptors)
        loss = -sum(parts.values()).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        moving.step(model)
        history.append({"loss": loss.item()} | {part: values.mean().item() for part, values in parts.items()})
    with torch.no_grad():
        mu = model.eval().encode(batch["input_ids"], batch["attention_mask"]).mu
    return pd.DataFrame(history), mu


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_it_learns_and_does_not_collapse(objective):
    log, mu = learn(objective)
    assert set(log) == PARTS[objective] | {"loss"}
    assert log["loss"].iloc[-1] < log["loss"].iloc[0] - 0.65 * abs(log["loss"].iloc[0])
    for part in PARTS[objective] & {"log_px", "log_p_view", "alignment", "half_log_pz"}:
        assert log[part].iloc[-1] > log[part].iloc[0], part
    assert effective_rank(mu) > 2  # 1 is collapse to a line


@pytest.mark.parametrize("objective", ["cmim", "infonce"])
def test_the_chemistry_factor_learns_beside_any(objective):
    counts = torch.tensor([[float(smiles.upper().count(letter)) for letter in "CO="] for smiles, _ in SHORTEST])
    descriptors = (counts - counts.mean(0)) / counts.std(0)
    log, mu = learn(objective, descriptors=descriptors)
    assert set(log) == PARTS[objective] | {"loss", "log_p_descriptors"}
    best = log_p_descriptors(descriptors, descriptors).mean().item()
    start, end = best - log["log_p_descriptors"].iloc[0], best - log["log_p_descriptors"].iloc[-1]
    assert end < 0.3 * start  # it explains 70 % of the variance
    assert effective_rank(mu) > 2


@pytest.mark.parametrize("chemistry", [False, True])
def test_without_a_decoder_term_no_decoder_is_run_or_trained(stores, tmp_path, monkeypatch, chemistry):
    monkeypatch.setattr(Decoder, "run", lambda *_: pytest.fail("the decoder ran"))
    output = tmp_path / "run"
    pretrain(*stores, output, recipe("infonce", steps=4, log_every=1, chemistry_factor=chemistry, **EVERY_4))
    log = pd.read_csv(output / "log.csv")
    parts = PARTS["infonce"] | ({"log_p_descriptors"} if chemistry else set())  # the factor adds to any
    assert set(log) >= parts
    assert not set(log) & (set().union(*PARTS.values()) - parts)
    np.testing.assert_allclose(-log[sorted(parts)].sum(axis=1), log["loss"], rtol=1e-3)
    assert "token_accuracy" not in log
    assert log["eval_exact_reconstruction"].isna().all()
    assert log["eval_effective_rank"].notna().any()
    featurizer = Featurizer.from_pretrained(output / "model", "cpu")
    assert featurizer.featurize("CCO").shape == (1, featurizer.dim())
    with pytest.raises(ValueError, match="got 'both': that takes an objective that trains the decoder"):
        featurizer.featurize("CCO", "both")
    with pytest.raises(ValueError, match=r"the objective of .*model trained no decoder: it only embeds"):
        generation.sample("CCO", n=2, checkpoint=output / "model", device="cpu")
    near = generation.neighbours("CCO", ["CCN", "C"], 1, checkpoint=output / "model", device="cpu")
    assert near["log_prob"].isna().all()
    set_seed(3)
    start = MolCMIMModel(MolCMIMConfig.from_pretrained(output / "model")).state_dict()
    end = load_file(output / "model" / "model.safetensors")
    assert all(torch.equal(weight, end[name]) == name.startswith("decoder.") for name, weight in start.items()
               if weight.abs().sum() > 0 and "norm" not in name)  # fmt: skip


def test_minc_resumes_to_the_bit(stores, tmp_path):
    whole = tmp_path / "whole"
    choices = {"steps": 12, "evaluate_every": 12, "save_every": 4}
    pretrain(*stores, whole, recipe("minc", **choices))
    cut = tmp_path / "cut"
    shutil.copytree(whole, cut, ignore=shutil.ignore_patterns("checkpoint-12", "model"))
    assert [path.name for path in cut.glob("checkpoint-*")] == ["checkpoint-8"]
    pretrain(*stores, cut, recipe("minc", **choices))
    for name in ("checkpoint-12/model.safetensors", f"checkpoint-12/{MOVING_AVERAGE}", "model/model.safetensors"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes(), name
    averaged = load_file(whole / "checkpoint-12" / MOVING_AVERAGE)
    assert averaged["average.n_averaged"] == 12
    # The average matters: without it the same four steps end elsewhere.
    forgot = tmp_path / "forgot"
    shutil.copytree(whole, forgot, ignore=shutil.ignore_patterns("checkpoint-12", "model"))
    fresh = load_file(forgot / "checkpoint-8" / MOVING_AVERAGE)
    save_file({n: v * 0 if n in ("moment", "weight") else v for n, v in fresh.items()},
              forgot / "checkpoint-8" / MOVING_AVERAGE)  # fmt: skip
    pretrain(*stores, forgot, recipe("minc", **choices))
    assert (forgot / "model/model.safetensors").read_bytes() != (whole / "model/model.safetensors").read_bytes()


RANK = """
import atexit, os, sys
import torch.distributed as dist
atexit.register(lambda: dist.is_initialized() and os._exit(3))  # runs last: by then a rank has left its group
from molcmim.latent import Posterior
Posterior.rsample = lambda self, noise=None: self.mu  # noise is drawn by rank, so that it cannot be compared
from molcmim.recipe import Recipe
from molcmim.pretrain import pretrain
for recipe in sys.argv[4:]:
    pretrain(*sys.argv[1:3], sys.argv[3] + "/" + recipe.split("/")[-1].removesuffix(".yaml"), Recipe.load(recipe))
"""
COMPARED = {"cmim": {"temperature": 0.1, "posterior": "learned"}, "infonce-x": {}, "minc": {}, "vicreg": {}}


def test_two_processes_train_as_one_with_the_whole_batch(stores, tmp_path, monkeypatch):
    choices = {"steps": 3, "log_every": 1, "warmup_steps": 0, "optimizer": "adamw", "evaluate_every": 3}
    recipes = {name: recipe(name, **choices, **own) for name, own in COMPARED.items()}
    for name, one in recipes.items():
        (tmp_path / f"{name}.yaml").write_text(one.dump())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    arguments = [*map(str, stores), str(tmp_path / "two"), *(str(tmp_path / f"{name}.yaml") for name in COMPARED)]
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, *arguments],
            env={**os.environ, "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
                 "MASTER_PORT": port, "CUDA_VISIBLE_DEVICES": ""},
            stderr=subprocess.PIPE, text=True,
        )
        for rank in ("0", "1")
    ]  # fmt: skip
    errors = [rank.communicate()[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], errors
    monkeypatch.setattr(Posterior, "rsample", lambda self, noise=None: self.mu)
    for name, choice in recipes.items():
        pretrain(*stores, tmp_path / "one" / name, choice)
        one, two = (pd.read_csv(tmp_path / number / name / "log.csv") for number in ("one", "two"))
        for column in ("loss", "grad_norm", *PARTS[name]):
            np.testing.assert_allclose(two[column], one[column], rtol=1e-3, atol=1e-4, err_msg=f"{name} {column}")
    one, two = (load_file(tmp_path / number / "cmim" / "model" / "model.safetensors") for number in ("one", "two"))
    for name, weight in one.items():
        # Adam makes whole steps of gradients that are 0 but for rounding, so single weights may differ by more. Without
        # the negatives' gradients from the other process the mean difference is a hundred times this bound.
        assert (two[name] - weight).abs().mean() < 1e-5, name
    run = tmp_path / "two" / "cmim"
    states = [torch.load(run / "checkpoint-3" / f"rng_state_{rank}.pth", weights_only=False) for rank in (0, 1)]
    assert not torch.equal(states[0]["cpu"], states[1]["cpu"])
    assert checkpoint.read_record(run / "model")["training"]["world_size"] == 2


def test_both_views_are_read_as_they_are_one_by_one():
    torch.manual_seed(0)
    model = MolCMIMModel(MolCMIMConfig.named("tiny", posterior="point")).train()
    inputs = {
        "input_ids": torch.tensor([[1, 5, 6, 2], [1, 7, 2, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]).bool(),
        "input_ids_2": torch.tensor([[1, 6, 5, 9, 8, 2], [1, 7, 8, 2, 0, 0]]),
        "attention_mask_2": torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]]).bool(),
    }
    ids, mask = both_views(inputs)
    together = model(ids, inputs["input_ids"], mask)
    for rows, view in ((slice(0, 2), ""), (slice(2, 4), "_2")):
        alone = model.encode(inputs[f"input_ids{view}"], inputs[f"attention_mask{view}"]).mu
        torch.testing.assert_close(together.mu[rows], alone)
    first = model(inputs["input_ids"], inputs["input_ids"], inputs["attention_mask"])
    torch.testing.assert_close(together.log_px, first.log_px)
    assert torch.equal(together.z, together.mu)  # a point, in training too
    assert model(ids, None, mask).log_px is None


@pytest.mark.parametrize(
    ("objective", "store", "choices", "message"),
    [
        ("infonce", {"spellings": 1}, {}, "'infonce' compares two spellings of a molecule, the store has one"),
        ("minc", {"spellings": 1}, {"mode": "equivariant"}, "prepare it with --spellings"),
        ("mim", {"spellings": 1}, {}, "mode 'invariant' needs random spellings in the store"),
    ],
)
def test_a_store_without_random_spellings_is_refused(tmp_path, monkeypatch, stores, objective, store, choices, message):
    manifest = StoreManifest.load(stores[0])
    monkeypatch.setattr(TokenStore, "__init__", lambda self, path: vars(self).update(path=path, manifest=manifest))
    for name, value in store.items():
        object.__setattr__(manifest, name, value)
    with pytest.raises(ValueError, match=message):
        pretrain(*stores, tmp_path / "run", recipe(objective, **choices))
    assert not (tmp_path / "run").exists()


def test_the_averages_decay_is_part_of_the_run(stores, tmp_path):
    pretrain(*stores, tmp_path / "run", recipe("minc", steps=2, warmup_steps=0, evaluate_every=2, save_every=2))
    with pytest.raises(ValueError, match="holds a run with another encoder_decay"):
        pretrain(
            *stores, tmp_path / "run",
            recipe("minc", steps=4, warmup_steps=0, evaluate_every=2, save_every=2, encoder_decay=0.5),
        )  # fmt: skip
