"""The cost of a run, estimated before it begins."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys

import pytest
import torch

from mcap.errors import OutOfMemory
from mcap.registry import registry
from mcap.training.backbone_facts import backbone_facts
from mcap.training.costs import (
    decodes_per_step,
    estimate_disk_mb,
    estimate_memory_mb,
    estimate_step_seconds,
    measure_gflops,
    networks_mb,
    require_memory,
    rows_per_step,
)
from mcap.training.memory_advice import less_memory
from mcap.training.recipe import Layer, low_memory, recipe
from tests.support import ROOT
from tests.training.test_backbone_facts import FACTS, entry


def with_keys(**keys):
    return recipe("magicapture", [Layer("test", keys)])


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

    def seconds(recipe, gflops=1e4):
        return estimate_step_seconds(recipe, found, gflops)[2]

    whole = seconds(plain)
    assert whole > estimate_step_seconds(plain, found, 1e4)[1] > 0
    assert seconds(plain, 2e4) == pytest.approx(whole / 2)
    assert seconds(with_keys(identity_every=5)) < whole
    assert seconds(with_keys(gradient_checkpointing=True)) > whole
    window = seconds(with_keys(identity_decode="window"))
    assert seconds(with_keys(identity_decode="tiny")) < window < whole
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


@pytest.mark.parametrize(
    ("quantised", "measure"), [(None, 19_604), ("int8", 13_495), ("nf4", 10_540)]
)
def test_quantised_weights_are_planned_with(quantised, measure):
    """As docs/transformers.md says of klein at 1024 pixels."""
    found = backbone_facts(registry().get("backbone", "klein"), None)
    found = dataclasses.replace(found, quantised=quantised)
    chosen = recipe("magicapture", [Layer("klein", found.recipe_overrides)])
    chosen = chosen.model_copy(update=low_memory(chosen))
    needed = estimate_memory_mb(chosen, found, half=True, device="cuda")
    assert needed == pytest.approx(measure, abs=2)
    networks = networks_mb(found, half=True)
    require_memory(found, half=True, room=networks + 1)
    with pytest.raises(OutOfMemory, match="nothing was fetched") as told:
        require_memory(found, half=True, room=networks - 1)
    assert ("--precision nf4 needs 4.4 GB" in str(told.value)) == (quantised != "nf4")


def test_a_run_that_may_not_fit_is_told_of_the_measures_that_help():
    found = backbone_facts(registry().get("backbone", "klein"), None)
    chosen = recipe("magicapture", [Layer("klein", found.recipe_overrides)])
    needed = estimate_memory_mb(chosen, found, half=True, device="cuda")
    told = less_memory(chosen, found, needed, half=True, device="cuda")
    assert "--low-memory needs about 19.6 GB." in told
    assert "With --set offload_text=true, too, it needs about 16.5 GB." in told
    smallest = chosen.model_copy(update={**low_memory(chosen), "offload_text": True})
    assert less_memory(smallest, found, 16_520, half=True, device="cuda") == ""
    assert "offload_text" not in less_memory(chosen, found, 2 * needed, half=False, device="cpu")


OFFLOADED_MB = {"klein": 16_520, "zimage": 23_601}
"""While a word is learned and the text encoder is away in a step."""


@pytest.mark.parametrize(("name", "measure"), [("klein", 14_126), ("zimage", 20_206)])
def test_a_text_encoder_that_embeds_once_is_not_planned_with_in_a_step(name, measure):
    """As docs/transformers.md says at 1024 pixels; on a CPU it stays where it is."""
    found = backbone_facts(registry().get("backbone", name), None)
    chosen = recipe("magicapture", [Layer(name, found.recipe_overrides)])
    chosen = chosen.model_copy(update=low_memory(chosen))
    plain = chosen.model_copy(update={"tokens": False})
    gpu = {"half": True, "device": "cuda"}
    less = estimate_memory_mb(chosen, found, **gpu) - estimate_memory_mb(plain, found, **gpu)
    text = (found.memory.weights - found.memory.unet) / 2
    assert 0 < less <= text + 1
    assert estimate_memory_mb(plain, found, **gpu) > networks_mb(found, half=True)
    assert estimate_memory_mb(plain, found, **gpu) == pytest.approx(measure, abs=2)
    behind = chosen.model_copy(update={"word_place": "output"})
    assert estimate_memory_mb(behind, found, **gpu) == estimate_memory_mb(plain, found, **gpu)
    away = chosen.model_copy(update={"offload_text": True})
    between = [estimate_memory_mb(one, found, **gpu) for one in (plain, away, chosen)]
    assert between == sorted(set(between))
    assert between[1] == pytest.approx(OFFLOADED_MB[name], abs=2)
    same = [estimate_memory_mb(one, found, half=True) for one in (chosen, plain, away)]
    assert len(set(same)) == 1


@pytest.mark.parametrize("name", ["sd15", "klein", "zimage"])
def test_the_numbers_are_those_of_the_architecture(name):
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
    found = dataclasses.asdict(registry().get("backbone", name).info.memory)
    assert module.count(name) == pytest.approx(found, rel=0.01)


def test_what_is_not_known_is_not_guessed():
    found = backbone_facts(entry(), None)
    assert estimate_step_seconds(with_keys(), found, 1e4) is None
    assert estimate_memory_mb(with_keys(), found) is None


def test_speed_is_measured():
    assert 0.1 < measure_gflops(torch.device("cpu"), torch.float32) < 1e5


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_a_whole_unet_takes_gradients_moments_and_disk(name):
    found = backbone_facts(registry().get("backbone", name), None)
    weights = found.unet_mb
    values = {"sd15": 859_520_964, "sdxl": 2_567_463_684}[name]
    assert weights == pytest.approx(4 * values / 2**20, rel=1e-3)
    lora, whole = recipe("dreambooth-lora"), recipe("dreambooth")
    outputs = recipe("dreambooth", [Layer("test", {"prior": "outputs"})])

    def memory(chosen, **where):
        return estimate_memory_mb(chosen, found, **where)

    # Gradients, two moments, and on a CPU the untouched one.
    assert memory(whole) - memory(lora) == pytest.approx(4 * weights)
    gpu = {"half": True, "device": "cuda"}
    assert memory(whole, **gpu) - memory(lora, **gpu) == pytest.approx(3.5 * weights)
    images = recipe("dreambooth", [Layer("test", {"prior": "none"})])
    kept = memory(outputs, **gpu) - memory(images, **gpu)
    assert kept > 0.5 * weights  # the frozen copy, and the row's own part
    kept, disk = estimate_disk_mb(whole, found, half=True, checkpoints=1)
    assert kept == pytest.approx(weights / 2)
    assert disk == pytest.approx(weights / 2 + 2 * 3 * weights)
    assert estimate_disk_mb(lora, found, half=True, checkpoints=2) == (0, 0)


def test_a_prior_is_a_row_more():
    keys = {"composed": False, "identity": False}
    assert rows_per_step(with_keys(prior="images", **keys)) == {1: 2.0, 2: 3.0}
    assert rows_per_step(with_keys(prior="outputs", batch=2, **keys)) == {1: 4.0, 2: 7.0}
    assert rows_per_step(with_keys(prior="outputs", prior_weight=0, **keys)) == {1: 2.0, 2: 2.0}
