"""Recipes: layers, names, and errors that say what is allowed."""

from __future__ import annotations

import pytest

from mcap.errors import UsageError
from mcap.training.recipe import (
    RECIPES,
    Layer,
    Recipe,
    decided_by,
    low_memory,
    parse_override,
    recipe,
    recipe_names,
)


def test_magicapture_is_the_papers_form():
    paper = recipe("magicapture")
    assert (paper.phase1_steps, paper.phase2_steps) == (1200, 1500)
    assert (paper.phase1_token_lr, paper.phase2_lora_lr, paper.phase2_token_lr) == (
        5e-4,
        1e-4,
        1e-5,
    )
    assert (paper.identity_weight, paper.attention_weight, paper.identity_limit) == (1.0, 2.5, 0.4)
    assert paper.lora_targets == "cross-attention"
    assert paper.lr_schedule == "linear"


def test_released_differs_where_the_released_code_does():
    released = recipe("released")
    assert released.name == "released"
    assert (released.lora_rank, released.lora_targets) == (4, "released")
    assert released.lora_text_encoder
    assert released.identity_weight == 0.25
    assert released.identity_rows == "data"
    assert released.timestep_limit == 0.8
    assert released.early_style_weight == 2
    assert released.mask_form == "weighted"
    assert released.batching == "alternating"
    assert released.phase1_token_lr == pytest.approx(2e-3)
    assert released.phase2_token_lr == pytest.approx(1e-4)


@pytest.mark.parametrize("name", RECIPES)
def test_later_layers_win(name):
    found = recipe(
        name,
        [
            Layer("backbone", {"phase1_steps": 10, "identity_weight": 3}),
            Layer("profile", {"identity_weight": 2.0}),
            Layer("--set", {"masks": False}),
        ],
    )
    assert (found.phase1_steps, found.identity_weight, found.masks) == (10, 2.0, False)
    assert found.attention_weight == recipe(name).attention_weight


@pytest.mark.parametrize("term", ["masks", "composed", "identity", "attention", "token_norms"])
def test_every_term_can_be_switched_off(term):
    assert getattr(recipe(layers=[Layer("--set", {term: False})]), term) is False


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"identity_wieght": 1}, ["profile passport", "'identity_wieght'", "'identity_weight'"]),
        ({"identity_decode": "half"}, ["'half'", "full, window, tiny"]),
        ({"batch": 0}, ["'batch'", "from 1 to 64"]),
        ({"batch": 1.5}, ["'batch'", "whole number"]),
        ({"masks": "no"}, ["'masks'", "true, false"]),
        ({"phase2_lora_lr": float("nan")}, ["'phase2_lora_lr'", "from 0 to 1"]),
        ({"identity_decode": "window", "identity_landmarks": "detected"}, ["detector"]),
        ({"identity_from": 0.4}, ["identity_from 0.4", "identity_limit 0.4"]),
        ({"name": "mine"}, ["--recipe"]),
    ],
)
def test_errors_name_layer_key_and_what_is_allowed(values, words):
    with pytest.raises(UsageError) as caught:
        recipe(layers=[Layer("profile passport", values)])
    assert "profile passport" in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_the_layer_that_is_wrong_is_blamed():
    layers = [Layer("first", {"batch": 2}), Layer("second", {"batch": "x"}), Layer("third", {})]
    with pytest.raises(UsageError, match=r"^second: "):
        recipe(layers=layers)


def test_unknown_recipe_lists_the_names():
    with pytest.raises(UsageError, match="magicapture, released"):
        recipe("dreamboot")


def test_steps_shrink_with_few_photos_and_never_grow():
    base = Recipe(phase1_steps=100, phase2_steps=200, photos_for_all_steps=6, least_steps=0.5)
    steps = {count: base.for_photos(count) for count in (1, 3, 4, 6, 40)}
    assert [(r.phase1_steps, r.phase2_steps) for r in steps.values()] == [
        (50, 100),
        (50, 100),
        (67, 134),
        (100, 200),
        (100, 200),
    ]
    assert steps[4].steps == 201


def test_what_scaling_did_to_a_number_that_was_given_is_said():
    base = Recipe(phase1_steps=10, phase2_steps=20, photos_for_all_steps=6, least_steps=0.5)
    note = base.scaling_note(3, {"phase2_steps"})
    assert note is not None and note.startswith("phase2_steps=20 became 10,")
    assert "(3, and all steps from 6 on)" in note and "--set photos_for_all_steps=1" in note
    both = base.scaling_note(4, {"phase1_steps", "phase2_steps"})
    assert both is not None and "phase1_steps=10 became 7 and phase2_steps=20 became 14," in both
    assert base.scaling_note(3, {"batching"}) is None  # the recipe's own numbers
    assert base.scaling_note(6, {"phase2_steps"}) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("identity_weight=0.5", ("identity_weight", 0.5)),
        ("batch = 2", ("batch", 2)),
        ("masks=false", ("masks", False)),
        ("identity_decode=full", ("identity_decode", "full")),
        ('id_words="a man"', ("id_words", "a man")),
        ("id_words=a man", ("id_words", "a man")),
    ],
)
def test_overrides_of_the_command_line(text, expected):
    assert parse_override(text) == expected


@pytest.mark.parametrize("text", ["batch", "=2", ""])
def test_overrides_need_a_key_and_a_value(text):
    with pytest.raises(UsageError, match="key=value"):
        parse_override(text)


@pytest.mark.parametrize("name", RECIPES)
def test_low_memory_is_a_valid_layer_of_every_recipe(name):
    base = recipe(name)
    small = recipe(name, [Layer("--low-memory", low_memory(base))])
    assert small.gradient_checkpointing
    assert small.batching in ("sequential", "alternating")
    detects = base.identity_landmarks == "detected"  # it cannot search a window
    assert small.identity_decode == ("auto" if detects else "window")
    # It is computed otherwise and is the same run.
    assert decided_by(small) == decided_by(base)


def test_low_memory_takes_no_more_than_it_takes_to_fit():
    base = recipe()
    tried = []

    def fits(found):
        tried.append(found)
        return found.batching == "sequential"

    assert low_memory(base, fits) == {"identity_decode": "window", "batching": "sequential"}
    assert [found.batching for found in tried] == ["joint", "joint", "sequential"]
    assert low_memory(base, lambda _: True) == {}
    assert low_memory(base, lambda _: False) == low_memory(base)


def test_a_recipe_of_before_is_filled_up_with_defaults():
    now = decided_by(recipe())
    before = recipe().model_dump()
    for key in ("patience", "optimiser", "compile"):
        del before[key]
    assert decided_by(before) == now
    assert decided_by({**before, "batch": 2}) != now


def test_a_plugins_recipe_is_laid_over_magicapture_and_named_where_it_is_wrong(monkeypatch):
    from mcap.registry import RegisteredRecipe, registry

    keys = {"gentle": {"phase1_steps": 800}, "wrong": {"phase1_stepz": 800}}
    for name, values in keys.items():
        monkeypatch.setitem(registry().recipes, name, RegisteredRecipe(name, values, "studio"))
    found = recipe("gentle", [Layer("--set", {"batch": 2})])
    assert (found.name, found.phase1_steps, found.batch) == ("gentle", 800, 2)
    assert found.phase2_steps == recipe().phase2_steps
    assert recipe_names() == [*RECIPES, "gentle", "wrong"]
    with pytest.raises(
        UsageError, match="recipe 'wrong' of the plugin 'studio': key 'phase1_stepz'"
    ):
        recipe("wrong")
