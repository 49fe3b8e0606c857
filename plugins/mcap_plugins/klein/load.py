"""A FLUX.2 klein model in diffusers' layout -> a backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import Flux2KleinPipeline

from mcap.contracts import BackboneInfo
from mcap.diffusion.latents import vae_factor
from mcap_plugins.klein.backbone import KleinBackbone
from mcap_plugins.klein.folder import load_flow_folder


def load(device: Any, dtype: torch.dtype, source: str | Path, **facts: Any) -> KleinBackbone:
    """Load a folder in diffusers' layout as a backbone; ``facts`` are fields of `BackboneInfo`.

    Raises as `mcap_plugins.klein.folder.load_flow_folder`.
    """
    parts = load_flow_folder(Path(source), Flux2KleinPipeline, "FLUX.2 klein", dtype)
    vae = parts.modules["vae"]
    info = BackboneInfo(
        revision=parts.revision,
        sha256=parts.sha256,
        native_size=int(vae.config.sample_size),
        attention_divisor=vae_factor(vae),
        prediction_type="rectified_flow",
        multiple_of=vae_factor(vae),
        **facts,
    )
    distilled = bool(parts.index.get("is_distilled", False))
    return KleinBackbone(info, parts.modules, device, dtype, distilled)
