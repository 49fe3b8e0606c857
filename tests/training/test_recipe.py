"""Recipes: layers, names, and errors that say what is allowed."""

from __future__ import annotations

import pytest

from mcap.errors import UsageError
from mcap.registry import registry
from mcap.training.recipe import (
    RECIPES,
    SAME_ROWS,
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
    assert released.text_encoder
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
            Layer("the backbone's for this recipe", {"crops": 2, "identity_weight": 3}),
            Layer("profile", {"identity_weight": 2.0}),
            Layer("--set", {"flip": True}),
        ],
    )
    assert (found.crops, found.identity_weight, found.flip) == (2, 2.0, True)
    assert found.attention_weight == recipe(name).attention_weight


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("backbone", ["demo", "sd15", "sdxl"])
def test_a_method_stays_itself_on_every_backbone(name, backbone):
    """What suits a backbone fills up what a recipe leaves open, and no more."""
    overrides = registry().get("backbone", backbone).info.recipe_overrides
    found = recipe(name, backbone=Layer(backbone, overrides))
    for key, value in RECIPES[name].items():
        if value != SAME_ROWS:
            assert getattr(found, key) == value, key
    for key, value in overrides.items():
        if key not in RECIPES[name]:
            assert getattr(found, key) == value, key
    plain = found.masks or found.composed or found.identity or found.attention
    assert plain == (name in ("magicapture", "released", "instant") or name[:3] == "no-")


@pytest.mark.parametrize("backbone", ["demo", "sd15", "sdxl"])
@pytest.mark.parametrize("name", [n for n, keys in RECIPES.items() if SAME_ROWS in keys.values()])
def test_rivals_see_the_photos_as_often(name, backbone):
    own = Layer(backbone, registry().get("backbone", backbone).info.recipe_overrides)

    def rows(found: Recipe) -> float:
        return sum(found.steps_of(phase) * found.photo_rows(phase) for phase in (1, 2))

    ours, theirs = (recipe(each, backbone=own) for each in ("magicapture", name))
    assert rows(ours) <= rows(theirs) < rows(ours) + theirs.photo_rows(2)
    if name != "pivotal-tuning":
        assert 0 in (theirs.phase1_steps, theirs.phase2_steps)


def test_rules_about_two_keys_hold_for_all_layers_together():
    layers = [Layer("one", {"identity_from": 0.5}), Layer("two", {"identity_limit": 0.9})]
    assert recipe(layers=layers).identity_limit == 0.9
    with pytest.raises(UsageError, match=r"^one: identity_from 0\.5 must be below"):
        recipe(layers=layers[:1])
    # Of several recipes that are given the same keys, it says which one they do not suit.
    with pytest.raises(UsageError, match=r"^one: .* \(recipe 'dreambooth-lora'\)\.$"):
        recipe("dreambooth-lora", layers=[Layer("one", {"phase1_steps": 4})])


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"tokens": False}, "needs id_words"),
        ({"tokens": False, "id_words": "sks"}, "needs phase1_steps 0"),
        ({"tokens": False, "id_words": "sks", "phase1_steps": 0}, "needs attention false"),
        ({"text_encoder": True, "learns": "key-value"}, "not with 'key-value'"),
        ({"text_encoder": True, "learns": "unet"}, "needs tokens false"),
        ({"prior": "pictures"}, "none, images, outputs"),
    ],
)
def test_what_cannot_learn_together_is_refused(values, words):
    with pytest.raises(UsageError, match=words):
        recipe(layers=[Layer("--set", values)])


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
        ({"attention_from": 0.5, "attention_to": 0.5}, ["attention_from 0.5", "attention_to 0.5"]),
        ({"attention_to": 0}, ["attention_to"]),
        ({"offload_text": True, "text_encoder": True}, ["offload_text needs text_encoder false"]),
        ({"word_place": "output", "text_encoder": True}, ["word_place 'output' needs"]),
        ({"word_place": "output", "identity_start": "encoder"}, ["word_place 'output' needs"]),
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
    with pytest.raises(UsageError, match=r"magicapture, textual-inversion, .*released"):
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
    # A detector cannot search a window, and without the term there is nothing to decode.
    whole = base.identity_landmarks == "detected" or not base.identity
    assert small.identity_decode == ("auto" if whole else "window")
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
