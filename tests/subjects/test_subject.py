"""The subject folder: what plain diffusers loads draws the picture that training saw."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors import safe_open

from mcap.diffusion.tokens import install
from mcap.errors import InputRejectedError, UsageError
from mcap.subjects.manifest import MANIFEST
from mcap.subjects.subject import read_subject
from mcap.training.events import StepEvent
from tests.support.subjects import make_subject
from tests.support.tiny import tiny_backbone
from tests.support.tiny_run import run, tiny_recipe

PROMPT = "a photo of a <mcap-id> person in the <mcap-style> style"


def draw(pipeline, prompt=PROMPT) -> np.ndarray:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        prompt,
        num_inference_steps=3,
        guidance_scale=3.0,
        height=64,
        width=64,
        generator=torch.Generator().manual_seed(5),
        output_type="np",
    ).images[0]


@pytest.fixture(scope="module", params=["magicapture", "released"])
def trained(request, tmp_path_factory):
    """A subject, and the picture that the model in memory drew after the last step."""
    folder = tmp_path_factory.mktemp("subject") / f"{request.param}.mcap"
    # Rates that move every value far enough for a picture to show it.
    keys = {"phase1_token_lr": 0.5, "phase2_token_lr": 0.1, "phase2_lora_lr": 0.2}
    if request.param == "released":
        keys |= {"lora_targets": "released", "text_encoder": True, "phase2_text_lr": 0.2}
    backbone = tiny_backbone()
    for event in run(folder, tiny_recipe(**keys), backbone=backbone):
        if isinstance(event, StepEvent) and event.step == event.steps:
            picture = draw(backbone.pipeline())
    return folder, picture


def test_plain_diffusers_draws_the_same_picture(trained):
    from diffusers import StableDiffusionPipeline

    from tests.support.tiny import tiny_folder

    folder, expected = trained
    pipeline = StableDiffusionPipeline.from_pretrained(
        tiny_folder(), torch_dtype=torch.float32, local_files_only=True
    )
    untrained = draw(pipeline)
    pipeline.load_lora_weights(str(folder), weight_name="adapter.safetensors")
    pipeline.load_textual_inversion(
        [
            str(folder / "embeddings/mcap-id.safetensors"),
            str(folder / "embeddings/mcap-style.safetensors"),
        ]
    )
    assert np.abs(draw(pipeline) - expected).max() < 1e-4
    assert np.abs(untrained - expected).max() > 1e-2  # there was something to get right


def test_load_into_and_unload(trained):
    folder, expected = trained
    subject = read_subject(folder)
    pipeline = tiny_backbone().pipeline()
    plain = draw(pipeline, "a photo of a person")
    words = pipeline.text_encoder.config.vocab_size
    subject.load_into(pipeline)
    assert np.abs(draw(pipeline) - expected).max() < 1e-4
    subject.unload_from(pipeline)
    assert pipeline.text_encoder.config.vocab_size == words
    assert np.abs(draw(pipeline, "a photo of a person") - plain).max() < 1e-6


def test_strengths_reach_from_untrained_to_trained(trained):
    folder, expected = trained
    subject = read_subject(folder)
    pictures = {}
    for scales in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (0.5, 0.5)):
        pipeline = tiny_backbone().pipeline()
        subject.load_into(pipeline, adapter_scale=scales[0], token_scale=scales[1])
        pictures[scales] = draw(pipeline)
    backbone = tiny_backbone()
    install(backbone, {"<mcap-id>": "person", "<mcap-style>": "photo"})
    untrained = draw(backbone.pipeline())
    assert np.abs(pictures[0.0, 0.0] - untrained).max() < 1e-4
    for scales in ((1.0, 0.0), (0.0, 1.0), (0.5, 0.5)):
        assert np.abs(pictures[scales] - untrained).max() > 1e-4
        assert np.abs(pictures[scales] - expected).max() > 1e-4


def test_loading_leaves_the_global_random_state_alone(trained):
    subject = read_subject(trained[0])
    pipeline = tiny_backbone().pipeline()
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    subject.load_into(pipeline)
    assert torch.equal(torch.rand(2), expected)


def test_what_is_in_the_folder(trained):
    folder, _ = trained
    subject = read_subject(folder)
    assert subject.name == folder.stem
    assert subject.identity_network == "tiny"
    assert subject.identity_embedding.dtype == np.float32
    assert np.linalg.norm(subject.identity_embedding) == pytest.approx(1)
    assert set(subject.embeddings) == {"<mcap-id>", "<mcap-style>"}
    with safe_open(subject.embeddings["<mcap-id>"], framework="pt") as file:
        assert list(file.keys()) == ["<mcap-id>"]
    with safe_open(subject.adapter, framework="pt") as file:
        header = file.metadata()
    config = json.loads(header["lora_adapter_metadata"])
    assert config["unet.r"] == config["unet.lora_alpha"] == 2
    assert header["ss_network_dim"] == header["ss_network_alpha"] == "2"
    assert not [path for path in folder.rglob("*.part")]


def test_what_is_not_complete_is_refused(tmp_path):
    folder = tmp_path / "half.mcap"
    events = run(folder, tiny_recipe())
    next(events)
    events.close()
    with pytest.raises(InputRejectedError, match="--resume"):
        read_subject(folder)


def test_altered_missing_and_unknown_are_refused(tmp_path):
    folder = tmp_path / "a.mcap"
    list(run(folder, tiny_recipe(phase1_steps=1, phase2_steps=1)))
    adapter = folder / "adapter.safetensors"
    whole = adapter.read_bytes()
    adapter.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(InputRejectedError, match=r"adapter\.safetensors.*sha256"):
        read_subject(folder)
    adapter.unlink()
    with pytest.raises(InputRejectedError, match=r"adapter\.safetensors: is missing"):
        read_subject(folder)
    adapter.write_bytes(whole)
    read_subject(folder)

    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "schema": 2}))
    with pytest.raises(UsageError, match=r"schema 2.*reads schema 1"):
        read_subject(folder)
    (folder / "manifest.json").write_text(json.dumps({**manifest, "colour": "red"}))
    with pytest.raises(UsageError, match="colour"):
        read_subject(folder)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(UsageError, match="cannot be read"):
        read_subject(folder)
    with pytest.raises(UsageError, match="not a subject folder"):
        read_subject(tmp_path)


def test_tokens_only_subjects_have_no_adapter(tmp_path):
    folder = tmp_path / "tokens.mcap"
    list(run(folder, tiny_recipe(phase1_steps=1, phase2_steps=0)))
    subject = read_subject(folder)
    assert subject.adapter is None
    subject.load_into(tiny_backbone().pipeline())


@pytest.mark.parametrize("way", ["dots", "absolute", "link"])
def test_a_name_that_leads_outside_its_folder_is_refused(tmp_path, way):
    """Also where the file is there and its hash is right."""
    folder = make_subject(tmp_path / "a.mcap").path
    manifest = json.loads((folder / MANIFEST).read_text())
    outside = tmp_path / "out.safetensors"
    token = manifest["tokens"][0]
    inside = folder / token["file"]
    shutil.move(inside, outside)
    name = {"dots": "../out.safetensors", "absolute": str(outside), "link": token["file"]}[way]
    if way == "link":
        inside.symlink_to(outside)
    manifest["files"][name] = manifest["files"].pop(token["file"])
    token["file"] = name
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(InputRejectedError, match="leads outside the subject's own folder"):
        read_subject(folder)
