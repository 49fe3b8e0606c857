"""Recipe ``instant`` on klein: the photos are the pictures that the transformer is given."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import Flux2KleinPipeline
from PIL import Image

from mcap.cli import run
from mcap.contracts import EncodedIdentity
from mcap.errors import InputRejectedError, UsageError
from mcap.registry import registry
from mcap.subjects.subject import read_subject
from mcap_plugins.klein.references import MOST_PICTURES, SIDE, ReferencePictures
from tests.cli.conftest import tiny_classifier, tiny_safety  # noqa: F401
from tests.cli.test_train import command, place, plugins, printed  # noqa: F401
from tests.support.tiny import sample
from tests.support.tiny_run import tiny_crop
from tests.support.tiny_transformers import SIZE, tiny_klein, tiny_klein_folder

PROMPT = "a photo of a person"

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def encoder():
    entry = registry().get("encoder", "klein-references")
    return ReferencePictures(entry.name, entry.info)


def draw(backbone, pipeline=None, **settings) -> np.ndarray:
    (found,) = sample(backbone, PROMPT, [3], pipeline=pipeline, steps=2, **settings)
    return found


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_a_picture_is_that_of_the_pipeline_with_these_pictures(encoder, guidance):
    from mcap.diffusion.steering import release, steer

    person = [tiny_crop(f"me-{i}", i) for i in range(2)]
    encoded = encoder.encode(person, [])
    backbone = tiny_klein()
    pipeline = backbone.pipeline()
    plain = draw(backbone, pipeline, guidance_scale=guidance)
    steer(pipeline, encoder.attach(pipeline, encoded, 1.0, 0.0), encoder.detach)
    found = draw(backbone, pipeline, guidance_scale=guidance)
    theirs = Flux2KleinPipeline.from_pretrained(tiny_klein_folder())
    theirs.set_progress_bar_config(disable=True)
    expected = theirs(
        image=[Image.fromarray(each.image) for each in person],
        prompt=[PROMPT],
        num_inference_steps=2,
        guidance_scale=guidance,
        height=SIZE,
        width=SIZE,
        generator=[torch.Generator("cpu").manual_seed(3)],
        output_type="np",
    ).images[0]
    assert np.abs(found / 255.0 - expected).max() <= 1.01 / 255
    assert np.abs(found.astype(int) - plain).max() > 1
    release(pipeline)
    assert np.array_equal(draw(backbone, pipeline, guidance_scale=guidance), plain)
    assert encoder.attach(pipeline, encoded, 0.0, 1.0)(True) == {}


def test_the_most_typical_photos_are_kept_and_no_larger_than_needed(encoder):
    many = [
        replace(tiny_crop(f"me-{i}", i), image=np.full((900, 600, 3), i, np.uint8))
        for i in range(MOST_PICTURES + 1)
    ]
    far = np.eye(32, dtype=np.float32)[5]
    many[1] = replace(many[1], embedding=far)
    kept = encoder.encode(many, []).tensors
    assert [int(kept[name][0, 0, 0]) for name in sorted(kept)] == [0, 2, 3, 4]
    assert all(each.dtype == torch.uint8 for each in kept.values())
    assert kept["picture_0"].shape == (SIDE, round(SIDE * 600 / 900), 3)
    with pytest.raises(InputRejectedError, match="no photo of the person"):
        encoder.encode([], [])


def test_what_another_encoder_made_is_refused(encoder):
    other = EncodedIdentity(metadata={"form": "ip-adapter"})
    with pytest.raises(UsageError, match="not of reference pictures"):
        encoder.attach(None, other, 1.0, 0.0)


def test_from_photos_to_pictures(place, capsys, monkeypatch):  # noqa: F811
    """Of the distilled variant, too, which nothing is trained on."""
    monkeypatch.setenv("MCAP_DETECTOR", "tiny")
    instant = command("--recipe", "instant", "--backbone", str(tiny_klein_folder()))
    assert run(["--json", *instant]) == 0
    capsys.readouterr()
    subject = read_subject(place / "me.mcap")
    assert subject.manifest.encoder == "klein-references"
    assert subject.manifest.recipe["phase1_steps"] == subject.manifest.recipe["phase2_steps"] == 0
    assert len(subject.read_encoded().tensors) == 3
    pictures = []
    for out, extra in (("with", []), ("without", ["--adapter-scale", "0"])):
        draw = ["generate", "me.mcap", "--count", "1", "--steps", "2", "--style", "./plain.toml"]
        options = ["--prompt", "a {id} {noun}", "--device", "cpu", "--out", out, *extra]
        assert run(["--json", *draw, *options]) == 0
        (one,) = printed(capsys)["pictures"]
        pictures.append(np.asarray(Image.open(one["file"])).astype(int))
    assert np.abs(pictures[0] - pictures[1]).max() > 1
    for program in ("comfyui", "diffusers"):
        assert run(["export", "me.mcap", "--format", program]) == 2
    assert "reference pictures" in capsys.readouterr().err
