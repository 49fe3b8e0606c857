"""A Z-Image model -> a backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mcap.diffusion.joint_attention import PATCH
from mcap.diffusion.latents import vae_factor
from mcap_plugins.shared.flow_folder import load_flow
from mcap_plugins.zimage.backbone import ZImageBackbone


def load(device: Any, dtype: torch.dtype, source: str | Path, **facts: Any) -> ZImageBackbone:
    """Load a folder in diffusers' layout, or a hub id, as a backbone; ``facts`` are fields of
    `mcap.contracts.BackboneInfo`.

    Raises as `mcap_plugins.shared.flow_folder.load_flow`.
    """
    parts = load_flow("zimage", source, dtype)
    token = PATCH * vae_factor(parts.modules["vae"])  # pixels on its side
    return ZImageBackbone(parts.info(token, facts), parts.modules, device, dtype)
