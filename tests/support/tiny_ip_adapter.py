"""Tiny IP-Adapters of random weights, in the very format of those at h94/IP-Adapter.

Names, shapes and half precision are those of the published files: of the plus form (a resampler of
four layers over CLIP's patches) and of the plain one (a projection of CLIP's embedding), each with
``ip_adapter.N.to_k_ip.weight`` and ``to_v_ip`` for every second attention layer of the UNet.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from mcap.contracts import EncoderInfo
from mcap.runtime.files import sha256_of
from tests.support.tiny import tiny_backbone, tiny_folder

SIDE, PATCH, WIDTH, PROJECTED = 28, 14, 32, 24  # of the image encoder
HEAD = 64  # the resampler's heads have 64 values each; the tiny one has a head
TOKENS = 16


def image_encoder(folder: Path, width: int = WIDTH) -> Path:
    """Write a CLIP vision model with projection, as CLIP ViT-H is kept; return its folder."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=PATCH,
        projection_dim=PROJECTED,
        initializer_factor=5.0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(5)
        CLIPVisionModelWithProjection(config).save_pretrained(folder)
    return folder


def adapter(file: Path, unet: Any, *, plus: bool, seed: int = 0, width: int | None = None) -> Path:
    """Write an adapter of one of the two forms for a UNet; return its file."""
    generator = torch.Generator().manual_seed(seed)
    layers = [
        unet.get_submodule(name.removesuffix(".processor")).to_k
        for name in unet.attn_processors
        if name.endswith("attn2.processor")
    ]
    text = unet.config.cross_attention_dim
    shapes = plus_shapes(width or WIDTH, text) if plus else plain_shapes(width or PROJECTED, text)
    for number, layer in enumerate(layers):
        for kind in ("k", "v"):
            name = f"ip_adapter.{2 * number + 1}.to_{kind}_ip.weight"
            shapes[name] = (layer.out_features, text)
    state = {}
    for name, shape in shapes.items():
        values = torch.randn(*shape, generator=generator) / max(1, shape[-1]) ** 0.5
        norm = "norm" in name or name.endswith((".1.0.weight", ".1.0.bias"))
        if norm and name.endswith("weight"):
            values = 1 + 0.1 * values
        state[name] = (3 * values if "_ip." in name else values).half()
    save_file(state, file)
    return file


def plain_shapes(read: int, text: int) -> dict[str, tuple[int, ...]]:
    """Of ``ip-adapter_sd15.safetensors``: four tokens of one embedding."""
    return {
        "image_proj.norm.bias": (text,),
        "image_proj.norm.weight": (text,),
        "image_proj.proj.bias": (4 * text,),
        "image_proj.proj.weight": (4 * text, read),
    }


def plus_shapes(read: int, text: int) -> dict[str, tuple[int, ...]]:
    """Of ``ip-adapter-plus-face_sd15.safetensors``."""
    shapes: dict[str, tuple[int, ...]] = {
        "image_proj.latents": (1, TOKENS, HEAD),
        "image_proj.norm_out.bias": (text,),
        "image_proj.norm_out.weight": (text,),
        "image_proj.proj_in.bias": (HEAD,),
        "image_proj.proj_in.weight": (HEAD, read),
        "image_proj.proj_out.bias": (text,),
        "image_proj.proj_out.weight": (text, HEAD),
    }
    for number in range(4):
        layer = f"image_proj.layers.{number}"
        for norm in ("0.norm1", "0.norm2", "1.0"):
            shapes |= {f"{layer}.{norm}.{part}": (HEAD,) for part in ("weight", "bias")}
        shapes |= {
            f"{layer}.0.to_q.weight": (HEAD, HEAD),
            f"{layer}.0.to_kv.weight": (2 * HEAD, HEAD),
            f"{layer}.0.to_out.weight": (HEAD, HEAD),
            f"{layer}.1.1.weight": (4 * HEAD, HEAD),
            f"{layer}.1.3.weight": (HEAD, 4 * HEAD),
        }
    return shapes


def steered_folder(folder: Path, kind: str = "sd") -> Path:
    """Copy the tiny model there; SDXL's with two transformers a block, as SDXL has them."""
    from diffusers import UNet2DConditionModel

    shutil.copytree(tiny_folder(kind=kind), folder)
    if kind == "sdxl":
        config = dict(UNet2DConditionModel.load_config(folder / "unet")) | {"layers_per_block": 2}
        with torch.random.fork_rng():
            torch.manual_seed(7)
            UNet2DConditionModel.from_config(config).save_pretrained(folder / "unet")
    return folder


def steered_backbone(folder: Path, kind: str = "sd") -> Any:
    """Load such a model."""
    from mcap_plugins.stable_diffusion.load import load

    place = folder / kind
    if not place.is_dir():
        steered_folder(place, kind)
    facts = {"id": "tiny", "licence": "none", "commercial": True, "needs_safety": False}
    return load("cpu", torch.float32, place, **facts)


def info(kind: str = "sd") -> EncoderInfo:
    return EncoderInfo(steers=True, architecture=kind, reads_style=True)  # type: ignore[arg-type]


def encoder(folder: Path, backbone: Any = None, kind: str = "sd") -> Any:
    """The plugin's encoder over tiny adapters, which are written into ``folder``."""
    from mcap_plugins.stable_diffusion.ip_adapter import Adapter, IpAdapterEncoder

    backbone = backbone or tiny_backbone(kind=kind)
    folder.mkdir(exist_ok=True, parents=True)
    made = {}
    for number, role in enumerate(("identity", "style")):
        file = folder / f"{role}.safetensors"
        if not file.is_file():
            adapter(file, backbone.unet, plus=role == "identity", seed=number)
        made[role] = Adapter(role, sha256_of(file), lambda file=file: file)
    place = folder / "image_encoder"
    if not place.is_dir():
        image_encoder(place)
    return IpAdapterEncoder(f"ip-adapter-{kind}", info(kind), backbone, made, lambda: place)


def unit(seed: int, size: int = 32) -> np.ndarray:
    value = np.random.default_rng(seed).normal(size=size).astype(np.float32)
    return value / np.linalg.norm(value)
