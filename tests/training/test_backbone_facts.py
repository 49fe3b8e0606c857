"""What is known of a backbone without loading it."""

from __future__ import annotations

import pytest

from mcap.contracts import BackbonePlan
from mcap.errors import MissingResourceError
from mcap.registry import Entry, registry
from mcap.training.backbone_facts import backbone_facts
from mcap.training.recipe import Layer, recipe
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
