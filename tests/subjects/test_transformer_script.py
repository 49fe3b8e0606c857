"""Subjects of transformers for diffusers and ComfyUI: as those programs read them."""

from __future__ import annotations

import json
import runpy
import sys
from dataclasses import replace

import diffusers
import numpy as np
import pytest
import torch
from diffusers.loaders import single_file_utils
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from mcap import cli
from mcap.diffusion.lora import add_lora
from mcap.errors import UsageError
from mcap.subjects.export import export
from tests.support.original_transformers import original_layer, original_state
from tests.support.subjects import make_profile, make_subject
from tests.support.tiny import SIZE, sample
from tests.support.tiny_transformers import (
    tiny_klein,
    tiny_klein_folder,
    tiny_zimage_backbone,
    tiny_zimage_folder,
)

BACKBONES = {"klein": tiny_klein, "zimage": tiny_zimage_backbone}
FOLDERS = {"klein": tiny_klein_folder, "zimage": tiny_zimage_folder}
PIPELINES = {"klein": diffusers.Flux2KleinPipeline, "zimage": diffusers.ZImagePipeline}
CONVERTERS = {
    "klein": single_file_utils.convert_flux2_transformer_checkpoint_to_diffusers,
    "zimage": single_file_utils.convert_z_image_transformer_checkpoint_to_diffusers,
}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", params=["klein", "zimage"])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def subject(kind, tmp_path_factory):
    return make_subject(tmp_path_factory.mktemp(kind) / "Jane Doe.mcap", kind=kind)


def plain_state(kind: str) -> dict[str, torch.Tensor]:
    return BACKBONES[kind]().unet.state_dict()


def test_the_original_names_are_those_that_diffusers_converts(kind):
    plain = plain_state(kind)
    found = CONVERTERS[kind](original_state(kind, plain))
    assert found.keys() == plain.keys()
    assert all(torch.equal(found[key], plain[key]) for key in plain)


def added_as_comfyui_does(kind: str, state, lora) -> dict[str, torch.Tensor]:
    """A LoRA on weights in the original names, by ``flux_to_diffusers`` and
    ``z_image_to_diffusers`` of ComfyUI: for each layer of diffusers' names, behind "transformer.",
    they say which rows of which weight it is; without an alpha its strength is 1."""
    found, read = dict(state), set()
    for key in lora:
        if not key.endswith(".lora_A.weight"):
            continue
        name = key.removesuffix(".lora_A.weight")
        assert name.startswith("transformer.")
        layer, third = original_layer(kind, name.removeprefix("transformer."))
        delta = lora[f"{name}.lora_B.weight"] @ lora[key]
        weight = found[f"{layer}.weight"].clone()
        rows = weight if third is None else weight.chunk(3)[third]
        rows += delta
        found[f"{layer}.weight"] = weight
        read |= {key, f"{name}.lora_B.weight"}
    assert read == lora.keys()
    return found


def test_comfyui_computes_with_the_same_weights(kind, subject, tmp_path):
    done = export(subject, "comfyui", tmp_path)
    file = tmp_path / "models/loras/jane-doe.safetensors"
    assert file in done.files
    lora = load_file(file)
    original = added_as_comfyui_does(kind, original_state(kind, plain_state(kind)), lora)
    found = CONVERTERS[kind](original)
    backbone = BACKBONES[kind]()
    subject.load_words_into(backbone.pipeline())
    changed = 0
    for name, module in backbone.unet.named_modules():
        if hasattr(module, "get_delta_weight"):
            expected = module.base_layer.weight + module.get_delta_weight("mcap")
            torch.testing.assert_close(found[f"{name}.weight"], expected, rtol=1e-5, atol=1e-6)
            changed += 1
    assert changed == len(lora) // 2 > 0
    with safe_open(file, framework="pt") as opened:
        header = opened.metadata()
    assert header["modelspec.title"] == "jane-doe"
    assert "ss_base_model_version" not in header  # which would say Stable Diffusion


@pytest.mark.parametrize(("full", "tensors"), [("klein", 160), ("zimage", 240)])
def test_every_key_at_full_size_is_a_layer_of_the_original_code(full, tensors):
    """klein 4B and Z-Image without values: each LoRA is as large as its rows there."""
    with torch.device("meta"):
        network = diffusers.ZImageTransformer2DModel()
        if full == "klein":
            network = diffusers.Flux2Transformer2DModel(
                num_layers=5,
                num_single_layers=20,
                num_attention_heads=24,
                joint_attention_dim=7680,
                guidance_embeds=False,
            )
    original = {
        key: tensor.shape for key, tensor in original_state(full, network.state_dict()).items()
    }
    network.requires_grad_(False)
    assert len(add_lora(network, 16)) == tensors
    seen = 0
    for name, module in network.named_modules():
        if hasattr(module, "lora_B"):
            layer, third = original_layer(full, name)
            rows, columns = original[f"{layer}.weight"]
            down, up = module.lora_A["default"].weight, module.lora_B["default"].weight
            assert down.shape == (16, columns) and up.shape == (
                rows // (3 if third is not None else 1),
                16,
            )
            seen += 2
    assert seen == tensors


def test_comfyui_finds_the_words(kind, subject, tmp_path):
    profile = make_profile(prompts={"composed": ["a photo ({style}) of a {id} {noun}, {style}."]})
    done = export(subject, "comfyui", tmp_path, profile=profile)
    # Behind a blank, up to a blank or comma; as ``_try_get_embedding`` splits.
    assert " embedding:jane-doe-id person" in done.prompt
    words = [part.split()[0].strip(",") for part in done.prompt.split(" embedding:")[1:]]
    for word in words:
        (vector,) = load_file(tmp_path / f"models/embeddings/{word}.safetensors").values()
        assert vector.shape == (1, 16)
    assert set(words) == {"jane-doe-id", "jane-doe-style"}
    text = (tmp_path / "models/loras/jane-doe.txt").read_text()
    assert f"CFG scale: {'4.0' if kind == 'klein' else '5.0'}" in text and "Steps: 50" in text
    assert ("looks for no embeddings" in text) == (kind == "zimage")


def test_diffusers_own_loader_reads_it(kind, subject, tmp_path):
    export(subject, "diffusers", tmp_path)
    pipeline = PIPELINES[kind].from_pretrained(FOLDERS[kind]())
    pipeline.load_lora_weights(str(tmp_path), weight_name="jane-doe.safetensors")
    backbone = BACKBONES[kind]()
    subject.load_words_into(backbone.pipeline())
    theirs = dict(pipeline.transformer.named_parameters())
    ours = {
        key.replace(".mcap.", ".default_0."): value
        for key, value in backbone.unet.named_parameters()
    }
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[key], value) for key, value in ours.items())


def test_the_script_draws_the_subject(kind, subject, tmp_path, monkeypatch):
    profile = make_profile(prompts={"composed": ["a photo of a {id} {noun} in the {style} style"]})
    done = export(subject, "diffusers", tmp_path, profile=profile)
    script = tmp_path / "jane-doe.py"
    size = f"num_inference_steps=2, width={SIZE}, height={SIZE}"
    script.write_text(script.read_text().replace("num_inference_steps=50", size))
    monkeypatch.setattr(sys, "argv", [script.name, str(FOLDERS[kind]())])
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(script))
    backbone = BACKBONES[kind]()
    pipeline = backbone.pipeline()
    prompt = done.prompt
    for word in ("id", "style"):
        prompt = prompt.replace(f"<jane-doe-{word}>", f"<mcap-{word}>")
    untouched = sample(backbone, "a photo of a person", [0], pipeline=pipeline, steps=2)
    subject.load_into(pipeline)
    (expected,) = sample(
        backbone,
        prompt,
        [0],
        pipeline=pipeline,
        steps=2,
        guidance_scale=4.0,
        negative_prompt=done.negative if kind == "zimage" else "",
    )
    shown = np.asarray(Image.open(tmp_path / "jane-doe.png")).astype(int)
    assert np.abs(shown - expected.astype(int)).max() <= 1
    assert np.abs(untouched[0].astype(int) - expected).max() > 1


def test_programs_without_such_models_are_refused(subject, tmp_path, capsys):
    for format in ("a1111", "kohya"):
        with pytest.raises(UsageError, match=r"a transformer\. Export it"):
            export(subject, format, tmp_path)
    assert cli.run(["export", str(subject.path), "--format", "kohya", "--out", str(tmp_path)]) == 2
    assert not list(tmp_path.iterdir())
    capsys.readouterr()


def test_the_command_tells_what_differs(kind, subject, tmp_path, capsys):
    code = cli.run(
        ["--json", "export", str(subject.path), "--format", "comfyui", "--out", str(tmp_path)]
    )
    (done,) = json.loads(capsys.readouterr().out)["exported"]
    assert code == 0 and done["words"]["<mcap-id>"] == "embedding:jane-doe-id"
    assert any("blank behind an embedding" in note for note in done["notes"])


def test_what_a_word_alone_was_learned_on_is_told_by_its_backbone(subject, kind):
    record = subject.manifest.backbone.model_copy(update={"name": kind})
    manifest = subject.manifest.model_copy(update={"backbone": record})
    assert replace(subject, adapter=None, manifest=manifest).transformer == kind
    assert subject.transformer == kind
