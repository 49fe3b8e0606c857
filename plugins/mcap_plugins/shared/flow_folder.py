"""The parts of a rectified-flow transformer's pipeline, from a folder in diffusers' layout."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mcap.contracts import BackboneInfo, TransformerKind
from mcap.diffusion.pipeline_tokens import quiet_libraries
from mcap.errors import MissingResourceError, UsageError
from mcap.weights.model_source import (
    CONFIG_FILES,
    FLOWS,
    ModelSource,
    file_architecture,
    find_model,
    is_distilled,
    parts_beside,
    read_json,
)
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
COMFYUI = "model.diffusion_model."
"""How the names begin of a transformer that ComfyUI saved."""


@dataclass(frozen=True)
class FlowParts:
    """The loaded parts by diffusers' names, and what is known of where they come from."""

    modules: Mapping[str, Any]
    id: str  # as it was given
    revision: str  # a hub commit, or "local"
    sha256: str
    distilled: bool

    def info(self, token: int, facts: Mapping[str, Any]) -> BackboneInfo:
        """Return the identity of a backbone over these parts.

        ``token``: side in pixels of what is one of the transformer's tokens; ``facts``: further
        fields, which go before these.
        """
        vae = self.modules["vae"]
        found = {
            "id": self.id,
            "revision": self.revision,
            "sha256": self.sha256,
            "native_size": int(vae.config.sample_size),
            "attention_divisor": token,
            "prediction_type": "rectified_flow",
            "multiple_of": token,
            "distilled": self.distilled,
        }
        return BackboneInfo(**{**found, **facts})


def load_flow(kind: TransformerKind, source: str | Path, dtype: torch.dtype) -> FlowParts:
    """Read the parts of a model of a ``kind`` in `mcap.weights.model_source.FLOWS`.

    ``source`` is a folder in diffusers' layout, a hub id, which is fetched where it is not here, or
    a single file with the transformer, the other parts beside it
    (`mcap.weights.model_source.parts_beside`). `MissingResourceError` where parts of it are not
    there, `UsageError` where it is of another kind or cannot be read.
    """
    import diffusers

    flow, place = FLOWS[kind], find_model(source)
    file = place.path if place.kind == "file" else None
    if file is not None:
        if (found := file_architecture(file)) != kind:
            raise UsageError(f"'{file}' is no {flow.what}, but of the kind {found}.")
        folder = parts_beside(file, kind)
    else:
        folder = place.path or fetch_flow_folder(place)
    index = read_json(folder / "model_index.json")
    name = str(index.get("_class_name", ""))
    if index and name != flow.pipeline:
        raise UsageError(f"'{folder}' is no {flow.what}, but of {name or 'an unknown pipeline'}.")
    lacking = [part for part in PARTS if not (folder / part).is_dir()]
    parts = [part for part in WEIGHTS if file is None or part != "transformer"]
    lacking += [part for part in parts if not is_whole(folder / part)]
    if lacking or not index:
        missing = ", ".join(dict.fromkeys(lacking)) or "model_index.json"
        raise MissingResourceError(
            f"'{folder}' is not a whole model in diffusers' layout: {missing} is not there, or "
            "without its .safetensors weights. Download or export the model again."
        )
    require_plausible(folder, PARTS)
    # diffusers warns of modules to be kept in single precision where there are none.
    given = {}
    if file is not None:
        network = getattr(diffusers, flow.classes["transformer"][0])
        given["transformer"] = read_transformer(file, network, folder, dtype)
    with damage_told(folder), without_progress_bars(), quiet_libraries():
        pipeline = getattr(diffusers, flow.pipeline).from_pretrained(
            folder, dtype=dtype, use_safetensors=True, local_files_only=True, **given
        )
    files = {} if file is None else {file.name: file}
    files |= {
        f"{part}/{its.name}": its
        for part in parts
        for its in sorted((folder / part).glob("*.safetensors"))
    }
    return FlowParts(
        modules={part: pipeline.components[part] for part in PARTS},
        id=place.repo or str(source),
        revision=revision_of(folder),
        sha256=hash_files(files),
        distilled=is_distilled(place, folder),
    )


def read_transformer(file: Path, network: Any, folder: Path, dtype: torch.dtype) -> Any:
    """Return the transformer in a single file, in its makers' names or diffusers'.

    ``network`` is diffusers' class, whose configuration is in ``folder``. `UsageError` for a file
    that is damaged, or of another size than that.
    """
    from safetensors.torch import load_file

    with damage_told(file), without_progress_bars(), quiet_libraries():
        # ComfyUI's prefix, which diffusers' converter of FLUX.2 does not expect.
        state = {key.removeprefix(COMFYUI): value for key, value in load_file(file).items()}
        made = network.from_single_file(
            state, config=str(folder), subfolder="transformer", dtype=dtype, local_files_only=True
        )
        empty = [name for name, value in made.named_parameters() if value.is_meta]
        if empty:
            raise ValueError(f"it lacks {len(empty)} tensors, such as {empty[0]}")
    return made


def fetch_flow_folder(place: ModelSource) -> Path:
    """Return the folder of a hub id in the hub's cache, fetched where it is not there.

    `MissingResourceError` where it cannot be had.
    """
    from mcap.weights.hub import hub_files, hub_snapshot

    folder = hub_snapshot(place.repo, place.revision, CONFIG_FILES)
    if not all(is_whole(folder / part) for part in WEIGHTS):
        wanted = [
            name
            for name in hub_files(place.repo, folder.name)
            if name.split("/")[0] in WEIGHTS and ".safetensors" in name
        ]
        folder = hub_snapshot(place.repo, folder.name, [*CONFIG_FILES, *wanted])
    return folder


def is_whole(part: Path) -> bool:
    """Return whether a part's folder has its weights: of those in several files all that their
    names count ("model-00001-of-00003.safetensors"), as a download may have been interrupted."""
    files = [file.name for file in part.glob("*.safetensors")]
    shards: Counter[tuple[str, int]] = Counter()
    for name in files:
        if match := re.fullmatch(r"(.+)-\d{5}-of-(\d{5})\.safetensors", name):
            shards[match[1], int(match[2])] += 1
    return bool(files) and all(found == count for (_, count), found in shards.items())
