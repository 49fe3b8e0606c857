"""examples/library.py runs as it stands: every stage as a function, without the command line."""

from __future__ import annotations

import importlib.util
import sys

import pytest
from PIL import Image

from mcap.enhancement import Enhanced, EnhancementFinished
from mcap.generation.events import GenerationFinished
from mcap.subjects import read_subject
from mcap.training import StepEvent, TrainingFinished
from tests.support import ROOT

EXAMPLE = ROOT / "examples" / "library.py"


@pytest.fixture(scope="module")
def library():
    spec = importlib.util.spec_from_file_location("library_example", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_from_selfies_to_enlarged_portraits_with_progress(library, weights, tmp_path):
    weights("yunet")
    weights("sface")
    few = {"phase1_steps": 2, "phase2_steps": 2, "crops": 1}
    events = list(library.portraits(ROOT / "examples" / "selfies", "passport", tmp_path, **few))
    steps = [event.step for event in events if isinstance(event, StepEvent)]
    assert steps == [1, 2, 3, 4]
    (trained,) = [event for event in events if isinstance(event, TrainingFinished)]
    (generated,) = [event for event in events if isinstance(event, GenerationFinished)]
    assert trained.steps == 4
    assert read_subject(tmp_path / "me.mcap").manifest.profile.name == "passport"
    assert len(generated.pictures) == 2

    done = [event for event in events if isinstance(event, Enhanced)]
    assert isinstance(events[-1], EnhancementFinished)
    for before, after in zip(generated.pictures, done, strict=True):
        small, large = Image.open(before.path).size, Image.open(after.path).size
        assert large == (4 * small[0], 4 * small[1])


def test_it_needs_no_command_line(library):
    assert "mcap.cli" not in EXAMPLE.read_text(encoding="utf-8")
    assert "typer" not in EXAMPLE.read_text(encoding="utf-8")
