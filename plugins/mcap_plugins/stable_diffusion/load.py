"""Load a backbone from a folder, a single file or the hub, whatever its kind."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mcap.contracts import BackboneInfo
from mcap.diffusion.attention import cross_attention_layers
from mcap.diffusion.latents import vae_factor
from mcap.weights.model_source import find_model
from mcap_plugins.stable_diffusion.folder import load_folder, load_hub
from mcap_plugins.stable_diffusion.identity_encoder import load_identity_encoder
from mcap_plugins.stable_diffusion.parts import LoadedParts
from mcap_plugins.stable_diffusion.sd15 import StableDiffusionBackbone
from mcap_plugins.stable_diffusion.sdxl import StableDiffusionXLBackbone
from mcap_plugins.stable_diffusion.single_file import load_file

MAP_SIDE = 16
"""Watched attention maps have about this side: 16 x 16 at 512 pixels is where cross-attention
follows objects (Prompt-to-Prompt, arXiv 2208.01626; MagiCapture watches the same layers)."""


def load(
    device: Any,
    dtype: torch.dtype,
    source: str | Path,
    *,
    id: str | None = None,
    licence: str = "the model's own",
    commercial: bool = False,
    vae_folder: Path | None = None,
    **facts: Any,
) -> StableDiffusionBackbone:
    """Load a folder in diffusers' layout, a .safetensors checkpoint or a hub id as a backbone.

    ``vae_folder`` holds another autoencoder for the same latents, to be used instead of the
    model's own. ``facts`` are further fields of `BackboneInfo`. Raises `MissingResourceError` where
    the model or parts of it are not there, `UsageError` where it is of another kind.
    """
    place = find_model(source)
    if place.path is None:
        parts = load_hub(place, dtype)
    elif place.kind == "file":
        parts = load_file(place.path, dtype)
    else:
        parts = load_folder(place.path, dtype, vae_folder)
    name = id or (place.repo if place.kind == "hub" else str(source))
    info = backbone_info(parts, id=name, licence=licence, commercial=commercial, **facts)
    if parts.architecture == "sdxl":
        return StableDiffusionXLBackbone(info, parts.modules, device, dtype, parts.zero_empty)
    encoder = None
    if place.kind == "folder" and place.path is not None:
        table = parts.modules["text_encoder"].get_input_embeddings()
        encoder = load_identity_encoder(place.path, table.embedding_dim)
    if encoder is not None:
        info = replace(info, identity_encoder=encoder.config.embedding)
    return StableDiffusionBackbone(info, parts.modules, device, dtype, encoder)


def backbone_info(parts: LoadedParts, **facts: Any) -> BackboneInfo:
    """Return what the parts' own configuration says, with ``facts`` as further fields."""
    unet, vae = parts.modules["unet"], parts.modules["vae"]
    return BackboneInfo(
        revision=parts.revision,
        sha256=parts.sha256,
        native_size=unet.config.sample_size * vae_factor(vae),
        attention_divisor=attention_divisor(unet, vae),
        prediction_type=parts.modules["scheduler"].config.prediction_type,
        multiple_of=multiple_of(unet, vae),
        **facts,
    )


def multiple_of(unet: Any, vae: Any) -> int:
    """Return what the sides of a picture are multiples of, in pixels.

    No block halves an odd side; full-size models were trained at multiples of 64 besides.
    """
    halved: int = vae_factor(vae) * 2 ** (len(unet.config.block_out_channels) - 1)
    full_size = unet.config.sample_size * vae_factor(vae) >= 512
    return math.lcm(halved, 64) if full_size else halved


def attention_divisor(unet: Any, vae: Any) -> int:
    """The stride, in pixels, of the cross-attention whose maps come closest to `MAP_SIDE`."""
    strides = {stride for _, stride in cross_attention_layers(unet).values()}
    latent = unet.config.sample_size
    best = min(strides, key=lambda stride: (abs(latent / stride - MAP_SIDE), stride))
    return best * vae_factor(vae)
