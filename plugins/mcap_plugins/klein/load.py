"""A FLUX.2 klein model -> a backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mcap.diffusion.latents import vae_factor
from mcap_plugins.klein.backbone import KleinBackbone
from mcap_plugins.shared.flow_folder import load_flow


def load(device: Any, dtype: torch.dtype, source: str | Path, **facts: Any) -> KleinBackbone:
    """Load a folder in diffusers' layout, or a hub id, as a backbone; ``facts`` are fields of
    `mcap.contracts.BackboneInfo`.

    Raises as `mcap_plugins.shared.flow_folder.load_flow`.
    """
    parts = load_flow("klein", source, dtype)
    return KleinBackbone(
        parts.info(vae_factor(parts.modules["vae"]), facts), parts.modules, device, dtype
    )
