"""Recipes: those that the package carries, what overrides them, what is refused."""

from __future__ import annotations

import math

import pytest
import yaml

from molcmim.config import SIZES
from molcmim.objectives import OBJECTIVES, Settings
from molcmim.recipe import Recipe


@pytest.mark.parametrize("name", ["tiny", "small", "base"])
def test_carried_recipes_are_sound_and_survive_a_round_trip(tmp_path, name):
    recipe = Recipe.load(name)
    assert recipe.size == name
    (tmp_path / "mine.yaml").write_text(recipe.dump())
    assert Recipe.load(tmp_path / "mine.yaml") == recipe
    assert set(SIZES) == {"tiny", "small", "base"}


def test_overrides():
    recipe = Recipe.load("tiny", steps=50, objective="mim", **{"model.width": 32, "model.dropout": 0.1})
    assert (recipe.steps, recipe.objective, recipe.batch_size) == (50, "mim", Recipe.load("tiny").batch_size)
    assert recipe.model == {"width": 32, "dropout": 0.1}
    more = Recipe(model={"width": 32})
    assert more.model == {"width": 32}


def test_settings_of_the_objective():
    recipe = Recipe(temperature=0.1, reduction="sum", positive="mu", beta=2.0)
    assert recipe.settings == Settings(0.1, "sum", "mu", 2.0)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("posterior", ["sampled", "learned", "point"])
def test_an_objective_takes_the_posteriors_that_it_means_something_under(objective, posterior):
    if posterior in OBJECTIVES[objective].posteriors:
        assert Recipe.load("tiny", objective=objective, posterior=posterior).objective == objective
    else:
        with pytest.raises(ValueError, match=f"objective '{objective}' needs posterior .*, not '{posterior}'"):
            Recipe.load("tiny", objective=objective, posterior=posterior)


def test_decay_steps():
    assert Recipe(steps=1000, decay_share=0.3).decay_steps == 300
    assert Recipe(steps=7, decay_share=0.5, warmup_steps=3).decay_steps == 4


def test_numbers_that_yaml_takes_for_strings(tmp_path):
    (tmp_path / "mine.yaml").write_text("learning_rate: 1e-3\ntemperature: 1\n")
    assert yaml.safe_load((tmp_path / "mine.yaml").read_text())["learning_rate"] == "1e-3"
    recipe = Recipe.load(tmp_path / "mine.yaml", weight_decay="5e-2")
    assert (recipe.learning_rate, recipe.temperature, recipe.weight_decay) == (1e-3, 1, 0.05)


def test_what_may_be_left_open(tmp_path):
    assert Recipe.load("tiny").canonical_share is None
    recipe = Recipe.load("tiny", canonical_share=1)
    assert recipe.canonical_share == 1
    (tmp_path / "mine.yaml").write_text(recipe.dump())
    assert Recipe.load(tmp_path / "mine.yaml", canonical_share=None) == Recipe.load("tiny")


def test_an_empty_file_is_the_defaults(tmp_path):
    (tmp_path / "mine.yaml").write_text("")
    assert Recipe.load(tmp_path / "mine.yaml") == Recipe()


def test_what_code_sets_is_checked_as_well():
    with pytest.raises(ValueError, match="steps must be finite, and at least 1, got 0"):
        Recipe(steps=0)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"objective": "bert"}, "unknown objective 'bert'; known are mim, cmim"),
        ({"mode": "random"}, "unknown mode 'random'; known are canonical, equivariant, invariant"),
        ({"optimizer": "sgd"}, "optimizer must be 'muon' or 'adamw', got 'sgd'"),
        ({"precision": "fp16"}, "precision must be 'bf16' or 'fp32', got 'fp16'"),
        ({"temperature": 0}, "temperature must be above 0"),
        ({"reduction": "max"}, "reduction must be"),
        ({"beta": -1}, "beta must be at least 0"),
        ({"encoder_decay": 1.0}, r"encoder_decay must be in \[0, 1\), got 1.0"),
        ({"moment_decay": -0.1}, r"moment_decay must be in \[0, 1\), got -0.1"),
        ({"objective": "vae"}, "objective 'vae' needs posterior 'learned', not 'sampled'"),
        ({"objective": "infonce-x", "posterior": "learned"}, "needs posterior 'point' or 'sampled', not 'learned'"),
        (
            {"objective": "infonce", "posterior": "point", "mode": "canonical"},
            "objective 'infonce' compares two spellings of a molecule, mode 'canonical' reads one",
        ),
        ({"positive": "x"}, "positive must be"),
        ({"posterior": "fixed"}, "posterior must be"),
        ({"size": "huge"}, "unknown size 'huge'"),
        ({"model.widht": 64}, "unknown setting widht"),
        ({"model.width": 65}, "width must be a multiple of heads"),
        ({"model.vocab_size": 65}, "model sets vocab_size, which the store or another choice of the recipe decides"),
        ({"model": None}, "model must be dict"),
        ({"batch_size": 0}, "batch_size must be finite, and at least 1, got 0"),
        ({"steps": 2.5}, "steps must be int, got 2.5"),
        ({"steps": True}, "steps must be int, got True"),
        ({"compile": "maybe"}, "compile must be bool, got 'maybe'"),
        ({"learning_rate": "fast"}, "learning_rate must be float, got 'fast'"),
        ({"learning_rate": math.nan}, "learning_rate must be finite, and at least 0, got nan"),
        ({"learning_rate": math.inf}, "learning_rate must be finite, and at least 0, got inf"),
        ({"decay_share": math.inf}, "decay_share must be finite, and at least 0, got inf"),
        ({"seed": -1}, "seed must be finite, and at least 0"),
        ({"seed": 2**32}, r"seed must be less than 2\*\*32, got 4294967296"),
        ({"canonical_share": 1.5}, r"canonical_share must be in \[0, 1\], got 1.5"),
        ({"canonical_share": "most"}, "canonical_share must be float, got 'most'"),
        ({"canonical_share": 0.5, "mode": "canonical"}, "canonical_share is for modes that read random spellings"),
        ({"decay_share": 1.2}, "do not fit into 200 steps; lower warmup_steps or decay_share"),
        ({"steps": 25}, "20 warm-up steps and a decay over 0.3 of the run do not fit into 25 steps"),
        ({"temprature": 1.0, "setps": 3}, "recipe tiny sets unknown setps, temprature; known are size, model"),
    ],
)
def test_bad_choices_are_refused(choices, message):
    with pytest.raises(ValueError, match=message):
        Recipe.load("tiny", **choices)


@pytest.mark.parametrize(
    ("text", "message"),
    [("steps: [", "mine.yaml is no YAML"), ("- steps", "mine.yaml holds no choices"), ("steps", "holds no choices")],
)
def test_a_file_that_is_no_recipe(tmp_path, text, message):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        Recipe.load(tmp_path / "mine.yaml")


def test_a_file_with_nothing_where_the_models_choices_stand(tmp_path):
    (tmp_path / "mine.yaml").write_text("size: tiny\nmodel:\nwarmup_steps: 5\n")
    assert Recipe.load(tmp_path / "mine.yaml", **{"model.width": 64}).model == {"width": 64}
    with pytest.raises(ValueError, match="model must be dict"):
        Recipe.load(tmp_path / "mine.yaml")
    (tmp_path / "mine.yaml").write_text("1: 2\nno: 3\n")  # which YAML reads as false
    with pytest.raises(ValueError, match="sets unknown 1, False; known are size"):
        Recipe.load(tmp_path / "mine.yaml")


def test_choices_of_the_model_are_typed():
    assert Recipe.load("tiny", **{"model.dropout": "1e-1"}).model == {"dropout": 0.1}
    with pytest.raises(ValueError, match=r"model\.width must be int, got 'abc'"):
        Recipe.load("tiny", **{"model.width": "abc"})
    with pytest.raises(ValueError, match=r"only the model has choices of its own, as model\.width; got size\.foo"):
        Recipe.load("tiny", **{"size.foo": 1})


def test_an_unknown_recipe_names_the_known_ones():
    with pytest.raises(FileNotFoundError, match="no recipe 'large'; known are base, small, tiny, or a YAML file"):
        Recipe.load("large")
