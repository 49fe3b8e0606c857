"""Subjects and checkpoints that version 0.1.0 wrote: tests/data/0.1.0, trained on the tiny model
with the keys that are called otherwise now."""

from __future__ import annotations

import json
import shutil

import pytest

from mcap.cli import run as mcap
from mcap.errors import RenamedKeyWarning, UsageError
from mcap.subjects.subject import read_subject
from mcap.training.events import StepEvent, TrainingFinished
from mcap.training.recipe import Layer, Recipe, recipe
from tests.support import ROOT
from tests.support.tiny import tiny_backbone
from tests.support.tiny_run import run, tiny_recipe

EARLIER = ROOT / "tests" / "data" / "0.1.0"
KEYS = {"batching": "sequential", "attention_min_range": 0.1, "min_delta": 0.02, "eval_every": 50}


def test_a_finished_subject_is_read_and_its_recipe_has_present_names():
    found = read_subject(EARLIER / "finished")
    known = Recipe.model_validate(found.manifest.recipe)
    assert {key: getattr(known, key) for key in KEYS} == KEYS
    assert found.manifest.mcap == "0.1.0"


def test_an_interrupted_run_goes_on(tmp_path):
    folder = shutil.copytree(EARLIER / "interrupted", tmp_path / "me")
    backbone = tiny_backbone()
    # The tiny model's weights depend on torch's version: they are not what is tested here.
    (path,) = folder.glob("checkpoints/*/checkpoint.json")
    stored = json.loads(path.read_text())
    stored["belongs_to"]["backbone weights"] = backbone.info.sha256
    path.write_text(json.dumps(stored))
    events = list(run(folder, tiny_recipe(**KEYS), backbone=backbone, resume=True))
    assert [event.step for event in events if isinstance(event, StepEvent)] == [7, 8]
    assert isinstance(events[-1], TrainingFinished)


def test_an_interrupted_run_on_sdxl_pools_as_it_began(tmp_path):
    """Version 0.1.0 had no ``pooling`` in its manifest, and pooled at the learned tokens."""
    recipe_ = tiny_recipe(phase1_steps=2, phase2_steps=0)
    backbone = tiny_backbone(kind="sdxl")
    losses = {}
    for version in ("now", "0.1.0"):
        folder, seen = tmp_path / version, []
        for event in run(folder, recipe_, backbone=backbone, should_stop=lambda seen=seen: seen):
            seen += [event] if isinstance(event, StepEvent) else []
        manifest = json.loads((folder / "manifest.json").read_text())
        assert manifest.pop("pooling") == "end"
        if version == "0.1.0":
            (folder / "manifest.json").write_text(json.dumps(manifest))
        events = run(folder, recipe_, backbone=backbone, resume=True)
        (losses[version],) = [event.losses for event in events if isinstance(event, StepEvent)]
        assert read_subject(folder).manifest.pooling == ("end" if version == "now" else "config")
    assert losses["now"] != losses["0.1.0"]


def test_what_changed_since_is_still_refused(tmp_path):
    folder = shutil.copytree(EARLIER / "interrupted", tmp_path / "me")
    changed = tiny_recipe(**{**KEYS, "attention_min_range": 0.2})
    with pytest.raises(UsageError, match=r"recipe attention_min_range \(was '0.1', is '0.2'\)"):
        list(run(folder, changed, resume=True))


def test_keys_and_values_under_earlier_names_work_and_are_told():
    given = {"rows": "in-turn", "least_rise": 0.5}
    with pytest.warns(RenamedKeyWarning) as told:
        found = recipe("magicapture", [Layer("--set", given)])
    assert (found.batching, found.min_delta) == ("alternating", 0.5)
    assert [str(item.message) for item in told] == [
        "--set: rows=in-turn is called batching=alternating now",
        "--set: least_rise=0.5 is called min_delta=0.5 now",
    ]


def test_the_present_name_wins_over_the_earlier_one():
    with pytest.warns(RenamedKeyWarning):
        found = recipe("magicapture", [Layer("--set", {"rows": "apart", "batching": "joint"})])
    assert found.batching == "joint"


def test_the_program_tells_it_in_a_line(tmp_path, capsys):
    command = ["train", "--source", str(tmp_path), "--style", "passport", "--dry-run"]
    mcap([*command, "--set", "rows=apart", "--out", str(tmp_path / "a.mcap")])
    err = capsys.readouterr().err
    assert "note: --set rows=apart: rows=apart is called batching=sequential now" in err
