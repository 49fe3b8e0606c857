"""Latent diffusion models in diffusers' own classes: those with one text encoder, and loading.

`load` reads a folder in diffusers' layout, a single .safetensors checkpoint or a hub id, and gives
a backbone of its kind; `mcap_plugins.stable_diffusion.sdxl` has the one with two text encoders.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mcap.contracts import BackboneInfo, PromptEmbedding
from mcap.diffusion.attention import cross_attention_layers
from mcap.diffusion.latents import vae_factor
from mcap.weights.model_source import find_model
from mcap_plugins.stable_diffusion.folder import (
    LoadedParts,
    hash_folder,
    load_file,
    load_folder,
    load_hub,
)

__all__ = ["StableDiffusionBackbone", "hash_folder", "load"]

# Watched attention maps have about this side: 16 x 16 at 512 pixels is where cross-attention
# follows objects (Prompt-to-Prompt, arXiv 2208.01626; MagiCapture watches the same layers).
_MAP_SIDE = 16


class StableDiffusionBackbone:
    """`mcap.contracts.Backbone` over the parts of a diffusers pipeline; everything frozen."""

    def __init__(
        self,
        info: BackboneInfo,
        *,
        tokenizer: Any,
        text_encoder: Any,
        vae: Any,
        unet: Any,
        scheduler: Any,
        device: torch.device | str,
        dtype: torch.dtype,
    ) -> None:
        self.info = info
        self.device = torch.device(device)
        self.dtype = dtype
        self.tokenizers = [tokenizer]
        self.text_encoders = [text_encoder]
        self.vae = vae
        self.unet = unet
        self.scheduler = scheduler
        self._freeze()

    def _freeze(self) -> None:
        for module in (*self.text_encoders, self.vae, self.unet):
            module.to(self.device).eval().requires_grad_(False)

    def encode_prompt(self, input_ids: Sequence[torch.Tensor]) -> PromptEmbedding:
        """One int64[B, L] -> the text encoder's last hidden state, as plain diffusers takes it."""
        (ids,) = input_ids
        return PromptEmbedding(self.text_encoders[0](ids.to(self.device), return_dict=False)[0])

    def added_conditions(
        self, embedding: PromptEmbedding, size: tuple[int, int]
    ) -> dict[str, torch.Tensor] | None:
        return None

    def pipeline(self) -> Any:
        """A StableDiffusionPipeline over these very modules, with a scheduler of its own."""
        from diffusers import StableDiffusionPipeline

        return StableDiffusionPipeline(
            vae=self.vae,
            text_encoder=self.text_encoders[0],
            tokenizer=self.tokenizers[0],
            unet=self.unet,
            scheduler=self._own_scheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )

    def _own_scheduler(self) -> Any:
        return type(self.scheduler).from_config(self.scheduler.config)


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
    model's own. ``facts`` are further fields of `BackboneInfo`. Raises `MissingResourceError` where the model
    or parts of it are not there, `UsageError` where it is of another kind.
    """
    place = find_model(source)
    if place.kind == "file":
        parts = load_file(place.path, dtype)
    elif place.kind == "hub":
        parts = load_hub(place, dtype)
    else:
        parts = load_folder(place.path, dtype, vae_folder)
    name = id or (place.repo if place.kind == "hub" else str(source))
    info = _info(parts, id=name, licence=licence, commercial=commercial, **facts)
    given = {"device": device, "dtype": dtype, **parts.modules}
    if parts.architecture == "sdxl":
        from mcap_plugins.stable_diffusion.sdxl import StableDiffusionXLBackbone

        return StableDiffusionXLBackbone(info, zero_empty=parts.zero_empty, **given)
    return StableDiffusionBackbone(info, **given)


def _info(parts: LoadedParts, **facts: Any) -> BackboneInfo:
    unet, vae = parts.modules["unet"], parts.modules["vae"]
    return BackboneInfo(
        revision=parts.revision,
        sha256=parts.sha256,
        native_size=unet.config.sample_size * vae_factor(vae),
        attention_divisor=_attention_divisor(unet, vae),
        prediction_type=parts.modules["scheduler"].config.prediction_type,
        multiple_of=vae_factor(vae) * 2 ** (len(unet.config.block_out_channels) - 1),
        **facts,
    )


def _attention_divisor(unet: Any, vae: Any) -> int:
    """The stride, in pixels, of the cross-attention whose maps come closest to `_MAP_SIDE`."""
    strides = {stride for _, stride in cross_attention_layers(unet).values()}
    latent = unet.config.sample_size
    best = min(strides, key=lambda stride: (abs(latent / stride - _MAP_SIDE), stride))
    return best * vae_factor(vae)
