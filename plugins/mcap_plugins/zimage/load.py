"""A Z-Image model in diffusers' layout -> a backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import ZImagePipeline

from mcap.contracts import BackboneInfo
from mcap.diffusion.joint_attention import PATCH
from mcap.diffusion.latents import vae_factor
from mcap_plugins.shared.flow_folder import load_flow_folder
from mcap_plugins.zimage.backbone import ZImageBackbone


def load(device: Any, dtype: torch.dtype, source: str | Path, **facts: Any) -> ZImageBackbone:
    """Load a folder in diffusers' layout as a backbone; ``facts`` are fields of `BackboneInfo`.

    Raises as `mcap_plugins.shared.flow_folder.load_flow_folder`.
    """
    parts = load_flow_folder(Path(source), ZImagePipeline, "Z-Image", dtype)
    vae = parts.modules["vae"]
    token = PATCH * vae_factor(vae)  # pixels on its side
    info = BackboneInfo(
        revision=parts.revision,
        sha256=parts.sha256,
        native_size=int(vae.config.sample_size),
        attention_divisor=token,
        prediction_type="rectified_flow",
        multiple_of=token,
        **facts,
    )
    return ZImageBackbone(info, parts.modules, device, dtype)
