"""A FLUX.2 klein model in diffusers' layout -> a backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import Flux2KleinPipeline

from mcap.contracts import BackboneInfo
from mcap.diffusion.latents import vae_factor
from mcap.errors import MissingResourceError, UsageError
from mcap.weights.model_source import read_json
from mcap_plugins.klein.backbone import KleinBackbone
from mcap_plugins.stable_diffusion.folder import require_plausible
from mcap_plugins.stable_diffusion.parts import hash_files, without_progress_bars

PARTS = ("tokenizer", "text_encoder", "transformer", "vae", "scheduler")
WEIGHTS = ("text_encoder", "transformer", "vae")
"""The parts that have weights, in the order in which they are hashed."""
PIPELINE = "Flux2KleinPipeline"


def load(device: Any, dtype: torch.dtype, source: str | Path, **facts: Any) -> KleinBackbone:
    """Load a folder in diffusers' layout as a backbone; ``facts`` are fields of `BackboneInfo`.

    `MissingResourceError` where parts of it are not there, `UsageError` where it is of another kind
    or cannot be read.
    """
    folder = Path(source)
    index = read_json(folder / "model_index.json")
    name = str(index.get("_class_name", ""))
    if index and name != PIPELINE:
        raise UsageError(f"'{folder}' is no FLUX.2 klein, but of {name or 'an unknown pipeline'}.")
    files = {
        f"{part}/{file.name}": file
        for part in WEIGHTS
        for file in sorted((folder / part).glob("*.safetensors"))
    }
    lacking = [part for part in PARTS if not (folder / part).is_dir()]
    lacking += [part for part in WEIGHTS if not any(key.startswith(f"{part}/") for key in files)]
    if lacking or not index:
        missing = ", ".join(dict.fromkeys(lacking)) or "model_index.json"
        raise MissingResourceError(
            f"'{folder}' is not a whole model in diffusers' layout: {missing} is not there, or "
            "without .safetensors weights. Download or export the model again."
        )
    require_plausible(folder, PARTS)
    try:
        with without_progress_bars():
            pipeline = Flux2KleinPipeline.from_pretrained(
                folder, dtype=dtype, use_safetensors=True, local_files_only=True
            )
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # each library meets damage with exceptions of its own
        lines = str(error).splitlines() or [""]
        raise UsageError(
            f"'{folder}' cannot be read as a model: {type(error).__name__}: {lines[0][:300]}. "
            "Download or export the model again."
        ) from error
    modules = {part: pipeline.components[part] for part in PARTS}
    vae = modules["vae"]
    info = BackboneInfo(
        revision=folder.name if folder.parent.name == "snapshots" else "local",
        sha256=hash_files(files),
        native_size=int(vae.config.sample_size),
        attention_divisor=vae_factor(vae),
        prediction_type="rectified_flow",
        multiple_of=vae_factor(vae),
        **facts,
    )
    return KleinBackbone(info, modules, device, dtype, bool(index.get("is_distilled", False)))
