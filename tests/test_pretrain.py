"""Pretraining: it learns, and survives kill -9 to the bit."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from stores import write_store
from typer.testing import CliRunner

from molcmim import checkpoint
from molcmim.cli import app
from molcmim.data import DESCRIPTORS, StoreManifest
from molcmim.evaluation import evaluate
from molcmim.metrics import bfloat16_pays
from molcmim.pretrain import newest_whole_checkpoint, pretrain
from molcmim.recipe import Recipe
from molcmim.stages import STAGES
from molcmim.trainer import WHOLE

STEPS = 40
CHOICES = {
    "steps": STEPS,
    "batch_size": 8,
    "warmup_steps": 4,
    "chemistry_factor": True,
    "seed": 3,
    "log_every": 4,
    "evaluate_every": 20,
    "evaluate_molecules": 8,
    "save_every": 5,
    "model.width": 32,
    "model.encoder_layers": 1,
    "model.decoder_layers": 1,
}


@pytest.fixture(scope="module")
def run(stores, tmp_path_factory):
    """Return the folder of a run that was never stopped."""
    output = tmp_path_factory.mktemp("whole") / "run"
    assert pretrain(*stores, output, Recipe.load("tiny", **CHOICES)) == output / "model"
    return output


def test_loss_decreases_and_the_log_has_all_parts(run):
    log = pd.read_csv(run / "log.csv")
    assert log["step"].tolist() == [1, *range(4, STEPS + 1, 4)]
    parts = ["log_px", "half_log_qz", "half_log_pz", "log_p_match", "log_p_descriptors"]
    np.testing.assert_allclose(-log[parts].sum(axis=1), log["loss"], rtol=1e-4)
    assert log["loss"].iloc[-1] < 0.7 * log["loss"].iloc[0]
    assert log["token_accuracy"].iloc[-1] > 2 * log["token_accuracy"].iloc[0]
    assert (log[["molecules_per_second", "mfu", "grad_norm"]] > 0).all(axis=None)
    assert log["molecules"].tolist() == (8 * log["step"]).tolist()
    np.testing.assert_allclose(log["epoch"], log["molecules"] / 40)  # passes over the store
    assert not [name for name in log if name.startswith("train_")]  # Trainer's totals, since the last resume
    held_out = log.dropna(subset="eval_token_accuracy")
    assert held_out["step"].tolist() == [20, 40]
    assert held_out["eval_bits_per_character"].is_monotonic_decreasing
    assert held_out["eval_descriptor_r2"].notna().all()
    assert log["learning_rate"].max() == pytest.approx(3e-3)
    assert log["learning_rate"].iloc[0] < log["learning_rate"].max() > log["learning_rate"].iloc[-1]


def test_the_result_is_a_whole_checkpoint_without_pickles(run, stores):
    assert not [path for path in (run / "model").iterdir() if path.suffix not in {".json", ".safetensors"}]
    assert (run / "curves.png").stat().st_size > 10_000
    assert list((run / "tensorboard").rglob("events.*"))
    model, _ = checkpoint.load(run / "model")
    assert (model.config.latent_dim, model.config.width, model.config.num_descriptors) == (32, 32, 3)
    facts = checkpoint.read_record(run / "model")["training"]
    assert (facts["steps"], facts["molecules"], facts["resumed_at_step"]) == (STEPS, 8 * STEPS, 0)
    assert (facts["store"]["num_molecules"], facts["valid"]["num_molecules"]) == (40, 8)
    (stage,) = json.loads((run / STAGES).read_text())
    assert (facts["stages"], stage["store"]) == ([{"from_step": 0}], facts["store"])
    assert Recipe.load(run / "recipe.yaml") == Recipe(**stage["recipe"]) == Recipe.load("tiny", **CHOICES)
    assert [path.name for path in sorted(run.glob("checkpoint-*"))] == ["checkpoint-35", "checkpoint-40"]


def test_descriptors_are_judged_by_the_training_store(run, stores):
    log = pd.read_csv(run / "log.csv")
    seen = evaluate(run / "model", stores[1], progress=False)["descriptor_r2"]
    assert seen == pytest.approx(log["eval_descriptor_r2"].dropna().iloc[-1], abs=1e-3)
    train, valid = (StoreManifest.load(store).descriptor_scale for store in stores)
    facts = checkpoint.read_record(run / "model")["training"]
    assert facts["descriptors"] == train._asdict()
    assert np.abs(np.array(train.mean) - valid.mean).max() > 0.1  # else the two could not be told apart


def test_always_the_canonical_spelling_is_the_canonical_mode(stores, tmp_path):
    def weights(name, **choices):
        short = {**CHOICES, "steps": 8, "evaluate_every": 8, **choices}
        return load_file(pretrain(*stores, tmp_path / name, Recipe.load("tiny", **short)) / "model.safetensors")

    canonical, always, drawn = weights("a", mode="canonical"), weights("b", canonical_share=1.0), weights("c")
    assert all(torch.equal(weight, always[name]) for name, weight in canonical.items())
    assert not all(torch.equal(weight, drawn[name]) for name, weight in canonical.items())
    # It may change within a run: what was trained is gone on with.
    pretrain(*stores, tmp_path / "c", Recipe.load("tiny", **{**CHOICES, "steps": 12, "canonical_share": 0.75}))
    facts = checkpoint.read_record(tmp_path / "c" / "model")["training"]
    assert (facts["resumed_at_step"], facts["recipe"]["canonical_share"]) == (8, 0.75)
    assert facts["stages"] == [
        {"from_step": 0, "canonical_share": None, "steps": 8, "evaluate_every": 8},
        {"from_step": 8, "canonical_share": 0.75, "steps": 12, "evaluate_every": 20},
    ]


def test_killed_at_any_moment_it_ends_with_the_same_weights(run, stores, tmp_path):
    output = tmp_path / "run"
    (tmp_path / "mine.yaml").write_text(Recipe.load("tiny", **CHOICES).dump())
    command = [sys.executable, "-m", "molcmim.cli", "pretrain", str(stores[0]), "--valid", str(stores[1])]
    command += ["-o", str(output), "--recipe", str(tmp_path / "mine.yaml")]
    checkpoints = random.randrange(1, 4)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while (newest := newest_whole_checkpoint(output)) is None or int(newest.name[11:]) < 5 * checkpoints:
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(0.1 * random.random())
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    # What a kill in the middle of writing a checkpoint leaves: no mark of being whole, files that end too soon.
    newest = newest_whole_checkpoint(output)
    cut = output / f"checkpoint-{int(newest.name[11:]) + 5}"
    shutil.rmtree(cut, ignore_errors=True)
    shutil.copytree(newest, cut, ignore=shutil.ignore_patterns(WHOLE, "trainer_state.json"))
    for name in ("model.safetensors", "optimizer.pt"):
        os.truncate(cut / name, 1000)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    record = checkpoint.read_record(output / "model")
    assert record["training"]["resumed_at_step"] == int(newest.name[11:])
    assert (output / "model" / "model.safetensors").read_bytes() == (run / "model" / "model.safetensors").read_bytes()
    lines = done.stdout.splitlines()
    assert lines[-1] == str(output / "model")
    said = [re.fullmatch(r"step (\d+) of 40 \| (loss|held out).*", line).groups() for line in lines[:-1]]
    assert said[-2:] == [("40", "loss"), ("40", "held out")]
    assert len(set(said)) == len(said)  # nothing is measured twice
    assert "Warning" not in done.stderr


@pytest.mark.filterwarnings("ignore:this CPU has no fast bfloat16")
def test_a_finished_run_is_not_trained_again_but_can_go_on(run, stores, tmp_path):
    again = tmp_path / "run"
    shutil.copytree(run, again)
    pretrain(*stores, again, Recipe.load("tiny", **CHOICES))
    weights = (run / "model" / "model.safetensors").read_bytes()
    assert (again / "model" / "model.safetensors").read_bytes() == weights
    assert pd.read_csv(again / "log.csv")["step"].tolist() == pd.read_csv(run / "log.csv")["step"].tolist()
    longer = Recipe.load("tiny", **{**CHOICES, "steps": STEPS + 2, "precision": "bf16"})
    pretrain(*stores, again, longer)
    facts = checkpoint.read_record(again / "model")["training"]
    assert (facts["steps"], facts["resumed_at_step"]) == (STEPS + 2, STEPS)
    pays = bfloat16_pays(torch.device("cpu"))
    assert facts["computed_in"] == ("bfloat16" if pays else "float32")
    assert (again / "model" / "model.safetensors").read_bytes() != weights


def test_training_starts_with_the_weights_of_a_checkpoint(run, stores, tmp_path):
    start, output = tmp_path / "start", tmp_path / "run"
    shutil.copytree(run / "model", start)
    still = {**CHOICES, "start": str(start), "steps": 5, "decay_share": 0.0, "learning_rate": 0.0, "model.dropout": 0.1}
    pretrain(*stores, output, Recipe.load("tiny", **still))
    before, after = (load_file(folder / "model.safetensors") for folder in (start, output / "model"))
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())
    shutil.rmtree(start)  # once a run has begun, its own checkpoints are all it needs
    pretrain(*stores, output, Recipe.load("tiny", **{**still, "steps": 6}))
    facts, before = (checkpoint.read_record(folder / "model") for folder in (output, run))
    assert facts["training"]["start"] == {
        "weights_sha256": before["weights_sha256"],
        "steps": STEPS,
        "molecules": 8 * STEPS,
        "store": before["training"]["store"],
        "start": None,
    }
    assert facts["training"]["stages"] == [{"from_step": 0, "steps": 5}, {"from_step": 5, "steps": 6}]
    with pytest.raises(ValueError, match="holds a run with another start; use its"):
        pretrain(*stores, output, Recipe.load("tiny", **{**still, "start": None}))
    with pytest.raises(FileNotFoundError, match="start"):
        pretrain(*stores, tmp_path / "new", Recipe.load("tiny", **still))


def test_descriptors_keep_the_scale_of_the_checkpoint_that_is_started_from(run, stores, tmp_path):
    names = ["nitrogens", "sulfurs", "carbons", "oxygens"]  # more, in another order, and in other units
    units = {"descriptor_mean": [5.0] * 4, "descriptor_std": [2.0] * 4}
    store = write_store(tmp_path / "store", 0, 40, True, descriptor_names=names, **units)
    counts = np.load(store / DESCRIPTORS)
    np.save(store / DESCRIPTORS, np.stack([counts[:, 1], counts[:, 1], counts[:, 0], counts[:, 2]], 1))
    recipe = {**CHOICES, "start": str(run / "model"), "decay_share": 0.0, "learning_rate": 0.0}
    for steps in (5, 6):
        pretrain(store, store, tmp_path / "run", Recipe.load("tiny", **{**recipe, "steps": steps}))
    ours, theirs = (checkpoint.read_record(folder / "model")["training"] for folder in (tmp_path / "run", run))
    assert ours["descriptors"] == theirs["descriptors"]
    assert evaluate(run / "model", store)["descriptor_r2"] == evaluate(tmp_path / "run/model", store)["descriptor_r2"]
    pretrain(stores[0], stores[0], tmp_path / "same", Recipe.load("tiny", **{**recipe, "steps": 5}))
    here, there = (pd.read_csv(tmp_path / name / "log.csv")["log_p_descriptors"].dropna() for name in ("run", "same"))
    assert here.tolist()[: len(there)] == pytest.approx(there.tolist())


@pytest.mark.parametrize(
    ("choices", "differ"),
    [
        ({"model.latent_dim": 8, "model.heads": 2}, "it has heads 4, the run 2; latent_dim 32, the run 8. Size"),
        ({"posterior": "learned"}, "it has posterior 'sampled', the run 'learned'. Size"),
        ({"chemistry_factor": False}, "it has num_descriptors 3, the run 0. Size"),
    ],
)
def test_training_does_not_start_with_another_model(run, stores, tmp_path, choices, differ):
    recipe = Recipe.load("tiny", **{**CHOICES, "start": str(run / "model"), **choices})
    with pytest.raises(ValueError, match=f"cannot start from {re.escape(recipe.start)}: {differ}"):
        pretrain(*stores, tmp_path / "run", recipe)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("train", "valid", "choices", "message"),
    [
        ({"vocab_hash": "another"}, {}, {}, "prepared with different vocabularies, or their tokenizer was changed"),
        ({}, {"vocab_hash": "another"}, {}, "prepared with different vocabularies"),
        ({"descriptors": False}, {"descriptors": False}, {}, "chemistry_factor needs descriptors"),
        (
            {},
            {"descriptor_names": ["carbons", "b", "c"]},
            {},
            "lacks the descriptors nitrogens, oxygens",
        ),
        ({}, {"max_tokens": 65}, {}, r"up to 72 tokens \(padded\), the model reads 64; raise max_position_embeddings"),
        ({}, {}, {"model.max_position_embeddings": 24}, "the model reads 24"),
        ({}, {}, {"batch_size": 64}, "has 40 molecules, fewer than one batch of 64"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(tmp_path, train, valid, choices, message):
    stores = [
        write_store(tmp_path / name, last=40, **{"descriptors": True, **changes})
        for name, changes in (("train", train), ("valid", valid))
    ]
    with pytest.raises(ValueError, match=message):
        pretrain(*stores, tmp_path / "run", Recipe.load("tiny", **{**CHOICES, **choices}))
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").glob("*"))


@pytest.mark.parametrize(
    ("choices", "changed"),
    [
        ({"objective": "mim"}, "objective"),
        ({"temperature": 0.5, "learning_rate": 1e-3}, "temperature, learning_rate"),
        ({"model.latent_dim": 8}, "model"),
        ({"chemistry_factor": False}, "chemistry_factor, num_descriptors"),
        ({"model.max_position_embeddings": 128}, "model, max_position_embeddings"),
    ],
)
def test_a_run_is_not_continued_by_another(run, stores, choices, changed):
    before = (run / "recipe.yaml").read_text()
    with pytest.raises(ValueError, match=f"holds a run with another {changed}; use its recipe.yaml and store"):
        pretrain(*stores, run, Recipe.load("tiny", **{**CHOICES, **choices}))
    assert (run / "recipe.yaml").read_text() == before


@pytest.fixture
def copied(run, tmp_path):
    """Return a copy of the run's folder."""
    return shutil.copytree(run, tmp_path / "copied")


def test_a_finished_model_without_checkpoints_is_not_trained_over(copied, stores):
    weights = (copied / "model" / "model.safetensors").read_bytes()
    for path in copied.glob("checkpoint-*"):
        shutil.rmtree(path)
    with pytest.raises(FileExistsError, match="copied holds a finished model, and no checkpoint to go on from"):
        pretrain(*stores, copied, Recipe.load("tiny", **CHOICES))
    assert (copied / "model" / "model.safetensors").read_bytes() == weights


@pytest.mark.parametrize("lost", ["recipe.yaml", STAGES])
def test_a_run_without_its_record_does_not_go_on(copied, stores, lost):
    (copied / lost).unlink()
    with pytest.raises(FileNotFoundError, match=rf"copied has checkpoints, and no {lost}, which says .*; put it back"):
        pretrain(*stores, copied, Recipe.load("tiny", **CHOICES))


@pytest.mark.parametrize("damaged", ["model.safetensors", "optimizer.pt"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(copied, stores, damaged):
    newest = newest_whole_checkpoint(copied)
    os.truncate(newest / damaged, 1000)
    with pytest.raises(ValueError, match=rf"{newest.name} is damaged \(.*; remove it, and the same command goes on"):
        pretrain(*stores, copied, Recipe.load("tiny", **CHOICES))
    shutil.rmtree(newest)
    pretrain(*stores, copied, Recipe.load("tiny", **CHOICES))
    assert checkpoint.read_record(copied / "model")["training"]["resumed_at_step"] == STEPS - 5


def test_two_processes_do_not_train_in_one_folder(stores, tmp_path):
    command = [sys.executable, "-m", "molcmim.cli", "pretrain", str(stores[0]), "--valid", str(stores[1])]
    command += ["-o", str(tmp_path / "run"), "--recipe", "tiny", "--set", "batch_size=8", "--set", "steps=100000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout.readline().startswith("step 1 of")
        with pytest.raises(
            FileExistsError, match=r"another process is writing .*run now; wait for it, or name another"
        ):
            pretrain(*stores, tmp_path / "run", Recipe.load("tiny", **CHOICES))
        process.kill()


def test_a_run_that_is_further_is_not_called_shorter(run, stores):
    before = (run / "recipe.yaml").read_text()
    with pytest.raises(ValueError, match=r"is at step \d+, beyond the 1 of the recipe; raise steps"):
        pretrain(*stores, run, Recipe.load("tiny", **{**CHOICES, "steps": 1, "warmup_steps": 0}))
    assert (run / "recipe.yaml").read_text() == before


def test_command_line(stores, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("molcmim.pretrain.pretrain", lambda *arguments: seen.append(arguments) or tmp_path)
    command = ["pretrain", str(stores[0]), "--valid", str(stores[1]), "-o", str(tmp_path), "--recipe", "tiny"]
    done = CliRunner().invoke(app, [*command, "--set", "steps=50", "--set", "model.width=128", "--set", "compile=yes"])
    assert done.output.strip() == str(tmp_path)
    (arguments,) = seen
    assert arguments[:3] == (*stores, tmp_path)
    assert arguments[3] == Recipe.load("tiny", steps=50, compile=True, **{"model.width": 128})
    CliRunner().invoke(app, [*command, "--objective", "vae", "--set", "posterior=learned", "--start", "some"])
    assert seen[1][3] == Recipe.load("tiny", objective="vae", posterior="learned", start="some")
    refused = CliRunner().invoke(app, [*command, "--objective", "vae"])
    assert (refused.exit_code, len(seen)) == (1, 2)
    assert "objective 'vae' needs posterior 'learned', not 'sampled'" in refused.output
    refused = CliRunner().invoke(app, [*command, "--objective", "bert"])
    assert (refused.exit_code, len(seen)) == (1, 2)
    assert "unknown objective 'bert'; known are mim, cmim, cmim-sum, ae," in refused.output
    assert CliRunner().invoke(app, [*command, "--set", "steps"]).exit_code == 2
    assert "--set" in CliRunner().invoke(app, ["pretrain", "--help"]).output
