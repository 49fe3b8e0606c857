"""Backbones of full size with random weights, for benchmarks: nothing is downloaded.

What a step or a picture costs does not depend on the values of the weights, so the modules are
made from the published configurations of Stable Diffusion 1.5 and SDXL that the package carries.
``demo`` is the one in the package, with the weights it has.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from mcap.contracts import BackboneInfo
from mcap_plugins.stable_diffusion import SDXL_RECIPE
from mcap_plugins.stable_diffusion.sd15 import StableDiffusionBackbone
from mcap_plugins.stable_diffusion.sdxl import StableDiffusionXLBackbone
from mcap_plugins.stable_diffusion.single_file import LAYOUTS

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.support.tiny import tiny_tokenizer

MODELS = ("demo", "sd15", "sdxl")


def random_backbone(name: str, device: torch.device, dtype: torch.dtype, size: int | None = None):
    """``demo``, ``sd15`` or ``sdxl``; ``size``: the side of its training pictures in pixels."""
    if name == "demo":
        from mcap_plugins.demo import load_demo

        return load_demo(device, dtype)
    kind = {"sd15": "sd", "sdxl": "sdxl"}[name]
    layout = LAYOUTS / kind
    torch.manual_seed(0)
    # On the device and in the right precision from the start: SDXL in single precision does not
    # fit everywhere, and half of it may.
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            unet = UNet2DConditionModel.from_config(
                UNet2DConditionModel.load_config(layout / "unet")
            )
            vae = AutoencoderKL.from_config(AutoencoderKL.load_config(layout / "vae"))
            first = CLIPTextModel(CLIPTextConfig.from_pretrained(layout / "text_encoder"))
            second = None
            if kind == "sdxl":
                config = CLIPTextConfig.from_pretrained(layout / "text_encoder_2")
                second = CLIPTextModelWithProjection(config)
    finally:
        torch.set_default_dtype(default)
    parts: dict[str, Any] = {
        "tokenizer": tiny_tokenizer(),
        "text_encoder": first,
        "vae": vae,
        "unet": unet,
        "scheduler": _scheduler(layout),
    }
    native = size or unet.config.sample_size * 8
    info = BackboneInfo(
        id=f"{name}-random",
        revision="local",
        sha256="0" * 64,
        licence="none",
        commercial=True,
        native_size=native,
        attention_divisor=32,
        prediction_type="epsilon",
        recipe_overrides=SDXL_RECIPE if second is not None else {},
    )
    if second is None:
        return StableDiffusionBackbone(info, parts, device, dtype)
    parts |= {"tokenizer_2": tiny_tokenizer(pad_token="!"), "text_encoder_2": second}
    return StableDiffusionXLBackbone(info, parts, device, dtype)


def random_tiny_vae(device: torch.device, dtype: torch.dtype) -> AutoencoderTiny:
    """taesd's shape, which is AutoencoderTiny's default."""
    torch.manual_seed(0)
    made = AutoencoderTiny().eval().requires_grad_(False)
    return torch.nn.Module.to(made, device, dtype)  # without diffusers' warning for loaded ones


def _scheduler(layout: Path) -> Any:
    import diffusers

    file = layout / "scheduler"
    name = diffusers.DDIMScheduler.load_config(file)["_class_name"]
    return getattr(diffusers, name).from_pretrained(file)
