"""The parts of a rectified-flow transformer's pipeline, from a folder in diffusers' layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mcap.errors import MissingResourceError, UsageError
from mcap.weights.model_source import CONFIG_FILES, ModelSource, read_json
from mcap_plugins.shared.model_files import (
    damage_told,
    hash_files,
    require_plausible,
    revision_of,
    without_progress_bars,
)

PARTS = ("tokenizer", "text_encoder", "transformer", "vae", "scheduler")
WEIGHTS = ("text_encoder", "transformer", "vae")
"""The parts that have weights, in the order in which they are hashed."""


@dataclass(frozen=True)
class FlowParts:
    """The loaded parts by diffusers' names, and what is known of where they come from."""

    modules: Mapping[str, Any]
    index: Mapping[str, Any]
    """model_index.json."""
    revision: str  # a hub commit, or "local"
    sha256: str


def fetch_flow_folder(place: ModelSource) -> Path:
    """Return the folder of a hub id in the hub's cache, fetched where it is not there.

    `MissingResourceError` where it cannot be had.
    """
    from mcap.weights.hub import hub_files, hub_snapshot

    folder = hub_snapshot(place.repo, place.revision, CONFIG_FILES)
    if not all(any((folder / part).glob("*.safetensors")) for part in WEIGHTS):
        wanted = [
            name
            for name in hub_files(place.repo, folder.name)
            if name.split("/")[0] in WEIGHTS and ".safetensors" in name
        ]
        folder = hub_snapshot(place.repo, folder.name, [*CONFIG_FILES, *wanted])
    return folder


def load_flow_folder(folder: Path, pipeline_class: Any, what: str, dtype: torch.dtype) -> FlowParts:
    """Read the parts of ``pipeline_class``, a pipeline of diffusers; messages call it ``what``.

    `MissingResourceError` where parts of it are not there, `UsageError` where it is of another kind
    or cannot be read.
    """
    index = read_json(folder / "model_index.json")
    name = str(index.get("_class_name", ""))
    if index and name != pipeline_class.__name__:
        raise UsageError(f"'{folder}' is no {what}, but of {name or 'an unknown pipeline'}.")
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
    with damage_told(folder), without_progress_bars():
        pipeline = pipeline_class.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, local_files_only=True
        )
    modules = {part: pipeline.components[part] for part in PARTS}
    return FlowParts(modules, index, revision_of(folder), hash_files(files))
