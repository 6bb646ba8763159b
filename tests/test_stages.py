"""Stages of a run: a changed choice or store begins one, a crash does not, and what was never trained leaves none."""

from __future__ import annotations

import json
import warnings

import pytest
from stores import write_store

from molcmim.data import StoreManifest
from molcmim.recipe import Recipe
from molcmim.stages import STAGES, begin_stage, changes


@pytest.fixture
def store(tmp_path):
    return StoreManifest.load(write_store(tmp_path / "store"))


def test_a_changed_choice_begins_a_stage_and_a_crash_does_not(tmp_path, store):
    short, long = (Recipe.load("tiny", steps=steps) for steps in (300, 400))
    for step, recipe in ((0, short), (200, short), (300, long), (350, long)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            stages = begin_stage(tmp_path, step, recipe, store)
    assert [stage["from_step"] for stage in stages] == [0, 300]
    assert json.loads((tmp_path / STAGES).read_text()) == stages
    assert [Recipe(**stage["recipe"]) for stage in stages] == [short, long]
    assert changes(stages) == [{"from_step": 0, "steps": 300}, {"from_step": 300, "steps": 400}]
    assert changes(stages[:1]) == [{"from_step": 0}]


def test_what_was_never_trained_leaves_no_stage(tmp_path, store):
    recipes = [Recipe.load("tiny", steps=steps) for steps in (300, 400, 500, 600)]
    begin_stage(tmp_path, 0, recipes[0], store)
    begin_stage(tmp_path, 300, recipes[1], store)
    begin_stage(tmp_path, 380, recipes[2], store)
    stages = begin_stage(tmp_path, 300, recipes[3], store)  # the checkpoint of step 380 is gone
    assert changes(stages) == [{"from_step": 0, "steps": 300}, {"from_step": 300, "steps": 600}]
    stages = begin_stage(tmp_path, 300, recipes[0], store)  # and back: as if nothing had changed
    assert changes(stages) == [{"from_step": 0}]


def test_another_store_is_said_and_recorded(tmp_path, store):
    recipe = Recipe.load("tiny")
    other = StoreManifest.load(write_store(tmp_path / "other", last=40))
    begin_stage(tmp_path, 0, recipe, store)
    with pytest.warns(UserWarning, match=f"{tmp_path.name} goes on from step 200 on another store"):
        stages = begin_stage(tmp_path, 200, recipe, other)
    assert [stage["store"]["num_molecules"] for stage in changes(stages)] == [48, 40]
