"""Shared by models in a folder and in a single file: their parts and precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from mcap.weights.model_source import Architecture

PARTS: Mapping[str, tuple[str, ...]] = {
    "sd": ("tokenizer", "text_encoder", "unet", "vae", "scheduler"),
    "sdxl": (
        "tokenizer",
        "tokenizer_2",
        "text_encoder",
        "text_encoder_2",
        "unet",
        "vae",
        "scheduler",
    ),
}
"""What a model of each kind consists of, by diffusers' names."""

WEIGHTS = ("text_encoder", "text_encoder_2", "unet", "vae")
"""The parts that have weights, in the order in which they are hashed."""


@dataclass(frozen=True)
class LoadedParts:
    """The loaded parts, by diffusers' names, and what is known of where they come from."""

    architecture: Architecture
    modules: Mapping[str, Any]
    revision: str  # a hub commit, or "local"
    sha256: str
    zero_empty: bool = True
    """``force_zeros_for_empty_prompt``, which only SDXL has."""


def vae_precision(config: Mapping[str, Any], dtype: torch.dtype) -> torch.dtype:
    """Return the precision to keep an autoencoder in: single where half overflows.

    SDXL's activations pass float16's 65504 and its pictures turn black; a configuration says of an
    autoencoder that was made smaller with ``force_upcast: false``. bfloat16 has the range.
    """
    if dtype == torch.float16 and config.get("force_upcast", True):
        return torch.float32
    return dtype
