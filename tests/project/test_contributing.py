"""The examples of CONTRIBUTING.md do what the page says: each is registered and used once."""

from __future__ import annotations

import json
import re
import sys
import types
from importlib.metadata import EntryPoint

import numpy as np
import pytest
import torch

from mcap.errors import RenamedKeyWarning
from mcap.registry import Registry
from tests.support import ROOT
from tests.support.tiny import tiny_backbone, tiny_folder

PAGE = ROOT / "CONTRIBUTING.md"
KINDS = (
    "detector",
    "identity",
    "restorer",
    "backbone",
    "transformer",
    "encoder",
    "safety",
    "watermark",
    "recipe",
    "engine",
)


def block(first_line: str) -> str:
    """The code block of the page that begins with a line."""
    blocks = re.findall(r"^```\w+\n(.*?)^```", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    (found,) = (text for text in blocks if text.startswith(first_line))
    return found


def module(name: str, text: str, monkeypatch) -> types.ModuleType:
    """The text as an importable module."""
    made = types.ModuleType(name)
    monkeypatch.setitem(sys.modules, name, made)
    exec(compile(text, f"CONTRIBUTING.md: {name}", "exec"), vars(made))
    return made


def plugin(kind: str, monkeypatch) -> Registry:
    """A registry that has loaded the page's plugin of a kind, and nothing else."""
    name = f"example_{kind}"
    module(name, block(f'"""plugin: {kind}"""'), monkeypatch)
    registry = Registry([EntryPoint(name, name, "mcap")])
    assert registry.failures == []
    assert registry.plugins == [name]
    return registry


def portrait(size: int = 64) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (size, size + 16, 3), dtype=np.uint8)


def test_every_kind_of_thing_has_its_example():
    text = PAGE.read_text("utf-8")
    assert re.findall(r'^"""plugin: (\w+)"""$', text, re.MULTILINE) == list(KINDS)
    assert re.findall(r"^## Add an? (.+)$", text, re.MULTILINE) == [
        "detector",
        "identity network",
        "restorer",
        "backbone",
        "backbone of another transformer",
        "identity encoder",
        "safety classifier",
        "watermark",
        "recipe",
        "engine",
        "style",
        "command",
    ]


def test_the_detector(monkeypatch):
    from mcap.faces.masks import LandmarkMasker

    detector = plugin("detector", monkeypatch).create("detector", "booth")
    image = portrait()
    (face,) = detector.detect(image)
    assert face.landmarks.shape == (5, 2) and face.landmarks.dtype == np.float32
    assert (face.box[0] + face.box[2], face.box[1] + face.box[3]) == (80, 64)
    assert LandmarkMasker().mask(image, face).shape == (64, 80)


def test_the_transformer(monkeypatch, tmp_path):
    from mcap.contracts import ID_TOKEN
    from mcap.subjects.subject import read_subject
    from tests.support.tiny import sample
    from tests.support.tiny_run import run, tiny_data, tiny_recipe
    from tests.support.tiny_transformers import tiny_klein, tiny_klein_folder

    registry = plugin("transformer", monkeypatch)
    folder = str(tiny_klein_folder())
    backbone = registry.create("backbone", "other", "cpu", torch.float32, source=folder)
    few = tiny_recipe(phase1_steps=1, phase2_steps=1)
    list(run(tmp_path / "me.mcap", few, backbone=backbone, data=tiny_data(1, 1)))
    ours, known = (
        sample(each, "a photo of a person", [1], steps=2)[0] for each in (backbone, tiny_klein())
    )
    assert np.abs(ours.astype(int) - known).max() <= 1
    pipeline = backbone.pipeline()
    read_subject(tmp_path / "me.mcap").load_into(pipeline)
    sample(backbone, f"a photo of a {ID_TOKEN} person", [1], pipeline=pipeline, steps=1)


def test_the_watermark(monkeypatch):
    watermark = plugin("watermark", monkeypatch).create("watermark", "even")
    image = portrait()
    assert watermark.score(image) < watermark.info.threshold
    marked = image.copy()
    watermark.embed(marked)
    assert watermark.score(marked) == 1 and np.abs(marked.astype(int) - image).max() == 1


def test_the_identity_network(monkeypatch):
    from mcap.losses.identity import identity

    network = plugin("identity", monkeypatch).create("identity", "colours")
    faces = torch.rand(2, 3, 112, 112, requires_grad=True)
    found = network.embed(faces)
    assert found.shape == (2, network.info.dimensions)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(2))
    loss = identity(found, network.embed(torch.rand(2, 3, 112, 112)))
    loss.mean().backward()
    assert faces.grad.abs().sum() > 0


def test_the_restorer(monkeypatch):
    from mcap.enhancement.tiling import Tiling, restore_tiled

    registry = plugin("restorer", monkeypatch)
    restorer = registry.create("restorer", "bicubic")
    image = portrait()
    whole = restorer.restore(torch.from_numpy(image / 255).permute(2, 0, 1)[None].float())
    assert whole.shape == (1, 3, 128, 160)
    tiled = restore_tiled(restorer, image, Tiling(tile=32))
    assert tiled.tiles > 1
    whole = (255 * whole[0].permute(1, 2, 0)).round().numpy()
    assert np.abs(tiled.image.astype(int) - whole).max() <= 1  # no seams


def test_the_backbone(monkeypatch):
    monkeypatch.setenv("STUDIO_MODEL", str(tiny_folder()))
    registry = plugin("backbone", monkeypatch)
    backbone = registry.create("backbone", "studio", torch.device("cpu"), torch.float32)
    assert backbone.info.id == "studio"
    pipeline = backbone.pipeline()
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("a person", num_inference_steps=1, height=64, width=64, output_type="np")
    assert image.images.shape == (1, 64, 64, 3)


def test_the_identity_encoder(monkeypatch, tmp_path):
    from mcap.diffusion.steering import release
    from mcap.errors import UsageError
    from mcap.subjects.export import export
    from mcap.subjects.subject import read_subject
    from tests.support.tiny import sample
    from tests.support.tiny_run import run, tiny_recipe

    backbone = tiny_backbone()
    tint = plugin("encoder", monkeypatch).create("encoder", "tint", backbone)
    words = {"tokens": False, "id_words": "single", "attention": False}
    steps = {"phase1_steps": 0, "phase2_steps": 0, "identity_start": "encoder"}
    recipe = tiny_recipe(**words, **steps, identity_encoder="tint", identity_scale=2.0)
    for _ in run(tmp_path / "me.mcap", recipe, backbone=backbone, parts={"encoder": tint}):
        pass
    subject = read_subject(tmp_path / "me.mcap")
    assert subject.manifest.encoder == "tint"
    assert subject.read_encoded().metadata["made_by"] == "tint 1"
    pipeline = backbone.pipeline()
    before = sample(backbone, "a person", [0], pipeline=pipeline, steps=2)[0]
    subject.steer(pipeline, tint)
    assert (sample(backbone, "a person", [0], pipeline=pipeline, steps=2)[0] != before).any()
    release(pipeline)
    assert (sample(backbone, "a person", [0], pipeline=pipeline, steps=2)[0] == before).all()
    with pytest.raises(UsageError, match="encoder 'tint' of a plugin"):
        export(subject, "diffusers", tmp_path / "exported")


def test_the_safety_classifier(monkeypatch):
    from mcap.generation.safety import look

    classifier = plugin("safety", monkeypatch).create("safety", "blank")
    info = tiny_backbone(needs_safety=True).info
    assert not look(np.full((8, 8, 3), 90, np.uint8), info, classifier).passed
    assert look(portrait(), info, classifier).passed


def test_the_recipe(monkeypatch):
    from mcap.training.recipe import recipe

    registry = plugin("recipe", monkeypatch)
    monkeypatch.setattr("mcap.registry.registry", lambda: registry)
    found = recipe("gentle", [])
    assert (found.phase1_steps, found.identity_weight) == (800, 0.5)
    assert found.phase2_steps == recipe("magicapture", []).phase2_steps


def test_the_engine(monkeypatch, tmp_path):
    from mcap.batch import BatchSettings, Job, run_batch
    from mcap.contracts import WorkerPlan

    here = plugin("engine", monkeypatch).create("engine", "here")
    jobs = [Job(name, tmp_path, "passport", seed=1) for name in ("anna", "ends with 3", "raises")]
    plan = WorkerPlan("tests.support.simulated_jobs:make_runner", tmp_path)
    *_, ended = run_batch(
        jobs, tmp_path / "studio", here, settings=BatchSettings(min_free_mb=0), plan=plan
    )
    assert (ended.done, ended.failed, ended.waiting) == (1, 2, 0)


def test_the_style(tmp_path, capsys):
    from mcap import cli
    from mcap.style import find_profile

    path = tmp_path / "lamp.toml"
    path.write_text(block("# style: lamp.toml"), encoding="utf-8")
    assert find_profile(path).framing.head_height == (0.4, 0.5)
    assert cli.run(["profiles", "check", str(path), "--backbone", str(tiny_folder())]) == 0


def test_the_command(monkeypatch, tmp_path, capsys):
    from PIL import Image

    from mcap import cli

    made = module("example_command", block('"""command: mcap/cli/faces.py"""'), monkeypatch)
    monkeypatch.setattr(cli.app, "registered_commands", list(cli.app.registered_commands))
    cli.app.command("faces")(made.faces)
    detector = plugin("detector", monkeypatch)
    monkeypatch.setattr("mcap.registry.registry", lambda: detector)
    photo = tmp_path / "a.png"
    Image.fromarray(portrait()).save(photo)
    assert cli.run(["faces", str(photo), "--detector", "booth", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["faces"] == {str(photo): 1}


@pytest.fixture(autouse=True)
def no_earlier_names(recwarn):
    """The examples use the names of today."""
    yield
    assert [str(w.message) for w in recwarn if issubclass(w.category, RenamedKeyWarning)] == []
