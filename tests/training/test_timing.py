"""A run's time, measured on a few of its own steps, and the time that is left of it."""

from __future__ import annotations

import gc
import random

import numpy as np
import pytest
import torch

from mcap.diffusion.lora import has_lora
from mcap.errors import McapError
from mcap.training import timing
from mcap.training.events import StepEvent
from mcap.training.identity_guide import GuideNetworks
from mcap.training.options import Options
from mcap.training.timing import (
    RunTime,
    TimeLeft,
    estimated_time,
    is_light,
    is_worth_timing,
    time_pictures,
    time_run,
)
from tests.support.tiny import tiny_backbone, tiny_identity
from tests.support.tiny_run import run, tiny_data, tiny_recipe
from tests.training.test_backbone_facts import FACTS, entry
from tests.training.test_loop import results

HOW = Options()


def timed(backbone, recipe, how=HOW, **given):
    networks = GuideNetworks(tiny_identity())
    return time_run(tiny_data(), recipe, backbone, networks, how, images=9, **given)


def number_of_tensors() -> int:
    return sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects())


def step(phase: int, number: int, seconds: float) -> StepEvent:
    return StepEvent(phase, number, 300, {"loss": 1.0}, {}, {}, seconds, 0.0)


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"identity_every": 2, "flip": True, "text_encoder": True},
        {"batching": "alternating", "identity_rows": "data", "gradient_checkpointing": True},
    ],
)
def test_a_run_that_was_timed_gives_the_same_weights(tmp_path, keys):
    recipe = tiny_recipe(**keys)
    plain, after = tiny_backbone(), tiny_backbone()
    list(run(tmp_path / "plain.mcap", recipe, backbone=plain))
    found = timed(after, recipe, draws=True)
    list(run(tmp_path / "timed.mcap", recipe, backbone=after))
    assert found.timed and found.steps[1] > 0 and found.steps[2] > 0
    assert len(results(tmp_path / "plain.mcap")) == 4
    assert results(tmp_path / "timed.mcap") == results(tmp_path / "plain.mcap")


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    backbone = tiny_backbone()
    weights = {
        name: value.clone()
        for part in (backbone.unet, backbone.vae, *backbone.text_encoders)
        for name, value in part.state_dict().items()
    }
    tokenizers = list(backbone.tokenizers)
    timed(backbone, tiny_recipe())  # what libraries keep, they keep now
    gc.collect()
    torch.manual_seed(5)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    tensors = number_of_tensors()
    timed(backbone, tiny_recipe(), Options(preview_every=2))
    gc.collect()
    assert number_of_tensors() <= tensors
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert (np.random.get_state()[1] == states[2]).all()
    assert not has_lora(backbone.unet)
    assert backbone.tokenizers == tokenizers
    for part in (backbone.unet, backbone.vae, *backbone.text_encoders):
        assert all(torch.equal(weights[name], value) for name, value in part.state_dict().items())
    assert list(tmp_path.iterdir()) == []


def test_it_takes_no_more_memory_than_the_run(tmp_path, monkeypatch):
    """Counted as the values that autograd keeps at a time, in the steps of both."""
    kept = {"now": 0, "most": 0}

    def pack(tensor):
        kept["now"] += tensor.numel()
        kept["most"] = max(kept["most"], kept["now"])
        return tensor

    def unpack(tensor):
        return tensor

    def most(work):
        kept.update(now=0, most=0)
        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            work()
        return kept["most"]

    real = timing.take_step

    def one_step(*given):
        kept["now"] = 0
        return real(*given)

    monkeypatch.setattr(timing, "take_step", one_step)
    monkeypatch.setattr("mcap.training.loop.take_step", one_step)
    recipe = tiny_recipe(identity_decode="full")
    trained = most(lambda: list(run(tmp_path / "run.mcap", recipe)))
    assert 0 < most(lambda: timed(tiny_backbone(), recipe)) <= trained


def test_a_step_is_the_mean_over_its_kinds(monkeypatch):
    """With an identity row every fourth step, a step of phase 2 is one such and three others."""
    taken = []

    def fake_step(models, terms, phase, state):
        roles = state.sampler.roles(phase.number, state.done - phase.first)
        taken.append((phase.number, len(roles)))
        return step(phase.number, 1, 3.0 if "identity" in roles else float(phase.number) / 2)

    monkeypatch.setattr(timing, "take_step", fake_step)
    found = timed(tiny_backbone(), tiny_recipe(identity_every=4, phase2_steps=40))
    assert found.steps == pytest.approx({1: 0.5, 2: (3.0 + 3 * 1.0) / 4})
    assert {(1, 2), (2, 3), (2, 4)} == set(taken)
    alternating = tiny_recipe(
        batching="alternating", identity_rows="data", phase1_steps=40, phase2_steps=40
    )
    assert timed(tiny_backbone(), alternating).steps == pytest.approx({1: 0.5, 2: 1.0})


def test_pictures_are_told_from_two_short_drawings(monkeypatch):
    clock = [0.0]

    def fake_images(backbone, prompt, seeds, settings):
        clock[0] += 2.0 + 0.5 * settings.steps * len(seeds)

    monkeypatch.setattr(timing, "generate_images", fake_images)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    assert time_pictures(tiny_backbone(), "a face", 3, 20) == pytest.approx(2 + 0.5 * 20 * 3)


TIME = RunTime(
    {1: 0.1, 2: 0.5},
    timed=True,
    once={"encoding": 4.0, "identity decode": 1.0, "style photos": 30.0},
    preview=2.0,
    checkpoint=0.25,
)


def test_the_parts_of_a_run_and_of_what_is_left_of_it():
    recipe = tiny_recipe(phase1_steps=100, phase2_steps=200, patience=3, eval_every=50)
    how = Options(preview_every=150, checkpoint_every=100)
    parts = TIME.parts(recipe, how)
    assert parts == {
        "encoding": 4.0,
        "identity decode": 1.0,
        "style photos": 30.0,
        "phase 1": pytest.approx(10.0),
        "phase 2": 100.0,
        "previews": 2.0 * (2 + 4),
        "checkpoints": 0.25 * 4,
    }
    assert TIME.left(recipe, how) == pytest.approx(sum(parts.values()))
    late = TIME.parts(recipe, how, done=250)
    assert "encoding" not in late
    assert late["phase 1"] == 0 and late["phase 2"] == 25.0
    assert late["previews"] == 2.0 * (1 + 1)
    assert TIME.left(recipe, how, done=300) < 2


def test_time_left_begins_with_the_plan_and_follows_the_machine():
    recipe, how = tiny_recipe(phase1_steps=100, phase2_steps=200), HOW
    left = TimeLeft(TIME, recipe, how)
    assert left.after(step(1, 1, 0.1)) == pytest.approx(9.9 + 100 + 1 + 1, abs=0.3)
    # Another program takes half of the machine: every step lasts twice as long as timed.
    for number in range(2, 101):
        last = left.after(step(1, number, 0.2))
    assert last == pytest.approx(2 * (100 + 1 + 1), rel=0.3)
    for number in range(101, 201):
        last = left.after(step(2, number, 1.0))
    assert last == pytest.approx(2 * (50 + 0.5), rel=0.1)


def test_without_a_timing_the_first_step_says_how_long():
    recipe = tiny_recipe(phase1_steps=100, phase2_steps=200)
    expected = estimated_time(recipe, None)
    assert expected.left(recipe, HOW) is None
    # Two rows took 3 s, and four rows, of phase 2, take twice as long.
    assert TimeLeft(expected, recipe, HOW).after(step(1, 1, 3.0)) == pytest.approx(99 * 3 + 200 * 6)
    known = estimated_time(recipe, {1: 1.0, 2: 2.0})
    assert known.left(recipe, HOW) == 500 and not known.timed


def test_a_model_is_timed_where_that_takes_seconds(tmp_path):
    from mcap.training.backbone_facts import backbone_facts

    large = backbone_facts(entry(**FACTS), None)
    folder = tmp_path / "model" / "unet"
    folder.mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes(b"0" * 1000)
    light = backbone_facts(entry(**{**FACTS, "folder": tmp_path / "model"}), None)
    assert is_light(light) and not is_light(large)
    recipe = tiny_recipe(phase1_steps=100, phase2_steps=200)
    quick, slow = ({1: 0.1, 2: 0.2}, {1: 10.0, 2: 20.0})
    times = {
        name: estimated_time(recipe, each)
        for name, each in {"quick": quick, "slow": slow, "unknown": None}.items()
    }
    assert is_worth_timing(recipe, light, times["slow"], dry_run=True)
    assert not is_worth_timing(recipe, large, times["quick"], dry_run=True)
    assert is_worth_timing(recipe, large, times["quick"])
    assert not is_worth_timing(recipe, large, times["slow"])
    assert not is_worth_timing(recipe, large, times["unknown"])
    # A run of a few steps has shown it as soon; a plan of one has not.
    few = tiny_recipe()
    assert not is_worth_timing(few, light, times["quick"])
    assert is_worth_timing(few, light, times["quick"], dry_run=True)
    assert not is_worth_timing(tiny_recipe(compile=True), light, times["quick"], dry_run=True)


def test_what_would_end_the_run_ends_the_timing_and_leaves_nothing(monkeypatch):
    def not_finite(*_):
        raise McapError("The loss is not finite")

    backbone = tiny_backbone()
    state = torch.get_rng_state()
    monkeypatch.setattr(timing, "take_step", not_finite)
    with pytest.raises(McapError, match="not finite"):
        timed(backbone, tiny_recipe())
    assert not has_lora(backbone.unet)
    assert torch.equal(torch.get_rng_state(), state)
