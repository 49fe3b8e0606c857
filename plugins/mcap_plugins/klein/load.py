"""A FLUX.2 klein model in diffusers' layout -> a backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import Flux2KleinPipeline

from mcap.contracts import BackboneInfo
from mcap.diffusion.latents import vae_factor
from mcap.errors import UsageError
from mcap.weights.model_source import find_model
from mcap_plugins.klein.backbone import KleinBackbone
from mcap_plugins.shared.flow_folder import fetch_flow_folder, load_flow_folder


def load(device: Any, dtype: torch.dtype, source: str | Path, **facts: Any) -> KleinBackbone:
    """Load a folder in diffusers' layout, or a hub id, as a backbone; ``facts`` are fields of
    `BackboneInfo`.

    Raises as `mcap_plugins.shared.flow_folder.load_flow_folder`; `UsageError` for a single file,
    which holds the transformer alone.
    """
    place = find_model(source)
    if place.kind == "file":
        raise UsageError(
            f"'{source}' holds klein's transformer alone; give the folder or hub id of the whole "
            "model in diffusers' layout."
        )
    folder = place.path or fetch_flow_folder(place)
    parts = load_flow_folder(folder, Flux2KleinPipeline, "FLUX.2 klein", dtype)
    facts.setdefault("id", place.repo or str(source))
    vae = parts.modules["vae"]
    info = BackboneInfo(
        revision=parts.revision,
        sha256=parts.sha256,
        native_size=int(vae.config.sample_size),
        attention_divisor=vae_factor(vae),
        prediction_type="rectified_flow",
        multiple_of=vae_factor(vae),
        distilled=bool(parts.index.get("is_distilled", False)),
        **facts,
    )
    return KleinBackbone(info, parts.modules, device, dtype)
