"""What is known of a backbone without loading it."""

from __future__ import annotations

import shutil

import pytest
from safetensors.torch import save_file

from mcap.contracts import BackbonePlan
from mcap.errors import MissingResourceError
from mcap.registry import Entry, registry
from mcap.training.backbone_facts import backbone_facts, unet_mb
from mcap.training.recipe import Layer, recipe
from mcap.training.request import requested_recipe
from tests.support.foreign_files import pipeline
from tests.support.original_names import original_state
from tests.support.subjects import make_profile
from tests.support.tiny import tiny_backbone, tiny_folder

FACTS = {
    "native_size": 512,
    "memory_mb": 6000,
    "gflop_row": 800.0,
    "decode_rows": 2.75,
    "recipe_overrides": {"phase1_steps": 7},
}


def entry(**facts) -> Entry:
    return Entry(
        "backbone", "big", lambda: None, "tests", licence="OpenRAIL", info=BackbonePlan(**facts)
    )


def test_an_entrys_own_weights_are_described_by_its_plan():
    found = backbone_facts(entry(**FACTS), None)
    assert (found.native_size, found.memory_mb, found.gflop_row) == (512, 6000, 800.0)
    assert found.recipe_overrides == {"phase1_steps": 7}
    assert found.face_height == 0.45
    assert found.licence == "OpenRAIL"
    assert not found.local


def test_a_folder_is_described_by_its_own_files():
    found = backbone_facts(entry(**FACTS), str(tiny_folder()))
    assert found.native_size == 64
    assert found.memory_mb is None  # another size, another cost
    assert found.recipe_overrides == {}
    assert not found.commercial
    assert found.local
    assert found.weights_key != backbone_facts(entry(**FACTS), str(tiny_folder(seed=1))).weights_key


def test_what_is_not_there_is_missing(tmp_path):
    with pytest.raises(MissingResourceError, match="no such folder"):
        backbone_facts(entry(), str(tmp_path / "gone"))
    with pytest.raises(MissingResourceError, match="install it again"):
        backbone_facts(entry(folder=tmp_path / "gone"), None)
    assert backbone_facts(entry(), "owner/name").source == "owner/name"  # the hub knows


@pytest.mark.parametrize("name", registry().names("backbone"))
def test_what_backbones_like_is_a_valid_layer(name):
    overrides = registry().get("backbone", name).info.recipe_overrides
    recipe("magicapture", [Layer(name, overrides)])


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_a_unets_size_is_read_off_its_file(kind, tmp_path):
    counted = sum(p.numel() for p in tiny_backbone(kind=kind).unet.parameters()) * 4 / 2**20
    folder = shutil.copytree(tiny_folder(kind=kind), tmp_path / "model")
    assert unet_mb(folder) == pytest.approx(counted)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    shutil.copy(weights, weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
    assert unet_mb(folder) == pytest.approx(counted)
    single = tmp_path / "model.safetensors"
    save_file({k: v.contiguous() for k, v in original_state(pipeline(kind)).items()}, single)
    assert unet_mb(single) == pytest.approx(counted)
    weights.write_bytes(b"damaged")
    assert unet_mb(folder) is None
    assert unet_mb(tmp_path) is None


def test_what_suits_a_recipe_is_named_by_the_plan():
    found = backbone_facts(entry(recipes={"dreambooth": {"phase2_lora_lr": 1e-3}}), None)
    profile = make_profile(train={"phase1_steps": 9, "phase2_steps": 50, "crops": 2})
    chosen = requested_recipe("dreambooth", profile, found)
    assert (chosen.phase1_steps, chosen.phase2_steps) == (0, 50)  # no phase comes back
    assert (chosen.phase2_lora_lr, chosen.crops) == (1e-3, 2)
    assert requested_recipe("dreambooth-lora", profile, found).phase2_lora_lr == 1e-4
    words = requested_recipe("textual-inversion", profile, found, ["phase1_steps=3"])
    assert (words.phase1_steps, words.phase2_steps) == (3, 0)


PERSON = {"magicapture": {"identity_start": "encoder", "subject_region": "head", "crops": 3}}


def test_a_thing_takes_nothing_of_a_person_from_its_backbone():
    found = backbone_facts(entry(recipes=PERSON), None)
    chosen = requested_recipe("magicapture", make_profile(), found)
    assert (chosen.identity_start, chosen.subject_region) == ("encoder", "head")
    thing = requested_recipe("magicapture", make_profile(), found, subject_kind="object")
    assert (thing.identity_start, thing.subject_region, thing.crops) == ("words", "face", 3)


def test_what_suits_a_start_from_the_encoder_is_laid_where_there_is_one():
    kept = {"phase1_steps": 0, "phase2_token_lr": 0.0}
    found = backbone_facts(entry(recipes=PERSON, recipe_from_encoder=kept), None)
    profile = make_profile(train={"phase1_steps": 9, "phase2_steps": 50})

    def chosen(*overrides, recipe="magicapture", kind="face"):
        it = requested_recipe(recipe, profile, found, overrides, subject_kind=kind)
        return it.phase1_steps, it.phase2_steps, it.phase2_token_lr

    assert chosen() == (0, 50, 0)  # the style does not bring the phase back
    assert chosen("phase1_steps=7", "phase2_token_lr=1e-4") == (7, 50, 1e-4)  # the user does
    plain = (9, 50, 1e-5)
    assert chosen("identity_start=words") == plain
    assert chosen(kind="object") == plain
    worded = make_profile(train={"phase1_steps": 9, "identity_start": "words"})
    assert requested_recipe("magicapture", worded, found).phase1_steps == 9
    assert chosen(recipe="no-refocusing") == plain  # starts from words on this backbone ...
    assert chosen("identity_start=encoder", recipe="no-refocusing") == (0, 50, 0)  # ... until told


@pytest.mark.parametrize("brings", [True, False])
def test_a_model_without_an_identity_encoder_starts_from_words(tmp_path, brings):
    (tmp_path / "model").mkdir()
    if brings:
        (tmp_path / "model" / "identity_encoder").mkdir()
    recipes = {**PERSON, "instant": {"identity_start": "encoder", "identity_encoder": "another"}}
    found = backbone_facts(entry(folder=tmp_path / "model", recipes=recipes), None)
    chosen = requested_recipe("magicapture", make_profile(), found)
    assert chosen.identity_start == ("encoder" if brings else "words")
    assert (chosen.subject_region, chosen.crops) == ("head", 3)
    other = requested_recipe("instant", make_profile(), found)
    assert other.identity_encoder == ("word" if brings else "another")


@pytest.mark.parametrize("name", registry().names("backbone"))
def test_what_backbones_say_of_a_recipe_is_a_valid_layer(name):
    info = registry().get("backbone", name).info
    for chosen, keys in info.recipes.items():
        own = Layer(name, info.recipe_overrides)
        found = recipe(chosen, [Layer(name, keys)], own)
        assert {key: getattr(found, key) for key in keys} == keys
