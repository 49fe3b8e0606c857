"""The names of single files, against the tests' own, which share no line with these."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers import UNet2DConditionModel as UNet
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from mcap.subjects.original_layout import original_state
from mcap_plugins.stable_diffusion.single_file import LAYOUTS
from tests.support import original_names
from tests.support.tiny import tiny_backbone


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_every_tensor_has_its_name_and_values(kind):
    pipeline = tiny_backbone(kind=kind).pipeline()
    ours, theirs = original_state(pipeline), original_names.original_state(pipeline)
    missing = theirs.keys() - ours.keys()  # a buffer of earlier versions of transformers
    assert ours.keys() <= theirs.keys()
    assert all(key.endswith("embeddings.position_ids") for key in missing)
    for key, tensor in ours.items():
        assert torch.allclose(tensor, theirs[key], atol=0.01 if "logit_scale" in key else 0), key


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_the_published_architectures(kind):
    """Without values: SD1.5 and SDXL as their configurations have them."""
    folder = LAYOUTS / kind

    def text(part: str, made):
        config = json.loads((folder / part / "config.json").read_text())
        return made(CLIPTextConfig.from_dict(config))

    def of_diffusers(made, part: str):
        return made.from_config(json.loads((folder / part / "config.json").read_text()))

    with torch.device("meta"):
        parts = {"unet": of_diffusers(UNet, "unet"), "vae": of_diffusers(AutoencoderKL, "vae")}
        parts["text_encoder"] = text("text_encoder", CLIPTextModel)
        if kind == "sdxl":
            parts["text_encoder_2"] = text("text_encoder_2", CLIPTextModelWithProjection)
        class_ = {"sd": StableDiffusionPipeline, "sdxl": StableDiffusionXLPipeline}[kind]
        pipeline = class_.__new__(class_)
        for name, module in parts.items():
            object.__setattr__(pipeline, name, module)
        ours, theirs = original_state(pipeline), original_names.original_state(pipeline)
    shapes = {key: tuple(tensor.shape) for key, tensor in theirs.items()}
    shapes = {key: shape for key, shape in shapes.items() if not key.endswith("position_ids")}
    assert {key: tuple(tensor.shape) for key, tensor in ours.items()} == shapes
    if kind == "sd":
        assert ours["model.diffusion_model.output_blocks.5.2.conv.weight"].shape == (
            1280,
            1280,
            3,
            3,
        )
    else:
        place = "conditioner.embedders.1.model.transformer.resblocks.31.attn.in_proj_weight"
        assert ours[place].shape == (3840, 1280)


def test_a_layer_that_the_original_code_does_not_have():
    pipeline = tiny_backbone().pipeline()
    pipeline.unet.register_parameter("another", torch.nn.Parameter(torch.zeros(1)))
    with pytest.raises(ValueError, match="no place for another"):
        original_state(pipeline)
