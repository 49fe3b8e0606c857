"""The plan: what is known of a backbone without loading it, and what a run will cost."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys

import pytest
import torch

from mcap.contracts import BackbonePlan
from mcap.errors import MissingResourceError
from mcap.registry import Entry, registry
from mcap.training.plan import (
    backbone_facts,
    decodes_per_step,
    differing,
    estimate_memory_mb,
    estimate_seconds,
    measure_gflops,
    rows_per_step,
)
from mcap.training.recipe import Layer, low_memory, recipe
from tests.support import ROOT
from tests.support.tiny import tiny_folder

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


def with_keys(**keys):
    return recipe("magicapture", [Layer("test", keys)])


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


def test_rows_and_decodes_of_a_step():
    assert rows_per_step(with_keys()) == {1: 2.0, 2: 4.0}
    assert rows_per_step(with_keys(identity_every=4, batch=2)) == {1: 4.0, 2: 6.5}
    assert rows_per_step(with_keys(composed=False, identity=False)) == {1: 2.0, 2: 2.0}
    assert rows_per_step(recipe("released")) == {1: 1.0, 2: 1.0}
    assert decodes_per_step(with_keys(identity_every=4)) == 0.25
    assert decodes_per_step(with_keys(identity=False)) == 0.0
    assert decodes_per_step(recipe("released")) == pytest.approx(2 / 3)


def test_estimates_grow_with_what_is_asked():
    found = backbone_facts(entry(**FACTS), None)
    plain = with_keys()
    seconds = estimate_seconds(plain, found, 1e4)
    assert seconds > 0
    assert estimate_seconds(plain, found, 2e4) == pytest.approx(seconds / 2)
    assert estimate_seconds(with_keys(identity_every=5), found, 1e4) < seconds
    assert estimate_seconds(with_keys(gradient_checkpointing=True), found, 1e4) > seconds
    window = estimate_seconds(with_keys(identity_decode="window"), found, 1e4)
    assert estimate_seconds(with_keys(identity_decode="tiny"), found, 1e4) < window < seconds
    assert estimate_memory_mb(plain, found) == 6000
    assert 3000 <= estimate_memory_mb(plain, found, half=True) < 6000
    small = recipe("magicapture", [Layer("--low-memory", low_memory(plain))])
    assert estimate_memory_mb(small, found) < 4000
    assert estimate_memory_mb(with_keys(batch=4), found) > 6000


@pytest.mark.parametrize(
    ("keys", "measured"),
    [
        ({"phase2_steps": 0}, 8765),
        ({"identity_decode": "full"}, 18635),
        (
            {"identity_decode": "window", "batching": "sequential", "gradient_checkpointing": True},
            7627,
        ),
    ],
)
def test_memory_counted_agrees_with_what_sd15_took_on_a_cpu(keys, measured):
    found = backbone_facts(registry().get("backbone", "sd15"), None)
    assert estimate_memory_mb(with_keys(**keys), found) == pytest.approx(measured, rel=0.06)


def test_what_the_consumer_cards_hold_in_half_precision():
    def half(name, **keys):
        found = backbone_facts(registry().get("backbone", name), None)
        chosen = recipe("magicapture", [Layer(name, {**found.recipe_overrides, **keys})])
        return estimate_memory_mb(chosen, found, half=True, device="cuda")

    assert half("sd15", gradient_checkpointing=True) < 8000
    assert half("sd15") < 12_000
    assert half("sdxl", **low_memory(with_keys())) < 16_000


def test_the_numbers_are_those_of_the_architecture():
    folder = ROOT / "benchmarks"
    if not folder.is_dir():
        pytest.skip("benchmarks/ is not in this copy")
    spec = importlib.util.spec_from_file_location("count_memory", folder / "count_memory.py")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(folder))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(folder))
    found = dataclasses.asdict(registry().get("backbone", "sd15").info.memory)
    assert module.count("sd15") == pytest.approx(found, rel=0.01)


def test_what_is_not_known_is_not_guessed():
    found = backbone_facts(entry(), None)
    assert estimate_seconds(with_keys(), found, 1e4) is None
    assert estimate_memory_mb(with_keys(), found) is None


def test_speed_is_measured():
    assert 0.1 < measure_gflops(torch.device("cpu"), torch.float32) < 1e5


def test_differing_names_what_changed():
    before = {"photos": {"a": "1", "b": "2"}, "seed": 0}
    assert differing(before, before) == []
    after = {"photos": {"a": "1", "b": "3", "c": "4"}, "seed": 1}
    assert differing(before, after) == ["photos (b, c)", "seed"]
