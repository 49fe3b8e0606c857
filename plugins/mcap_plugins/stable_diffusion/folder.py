"""Models in diffusers' layout -> the parts of a pipeline: from a folder or the hub."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mcap.errors import MissingResourceError, UsageError
from mcap.weights.model_source import (
    CONFIG_FILES,
    Architecture,
    ModelSource,
    folder_architecture,
    read_json,
)
from mcap_plugins.shared.model_files import (
    damage_told,
    hash_files,
    require_plausible,
    revision_of,
    without_progress_bars,
)
from mcap_plugins.stable_diffusion.parts import PARTS, WEIGHTS, LoadedParts, vae_precision


def load_folder(folder: Path, dtype: torch.dtype, vae_folder: Path | None = None) -> LoadedParts:
    """A folder in diffusers' layout; ``vae_folder`` replaces its autoencoder.

    Raises `MissingResourceError` where parts are not there, `UsageError` for a model of another
    kind.
    """
    folder = Path(folder)
    architecture = folder_architecture(folder)
    _check_whole(folder, architecture, vae_folder)
    parts = [part for part in WEIGHTS if part in PARTS[architecture]]
    if vae_folder is not None:
        parts.remove("vae")
    files = weight_files(folder, parts)
    lacking = [part for part, found in files.items() if not found]
    if lacking:
        raise MissingResourceError(
            f"'{folder}' is not a whole model: {', '.join(lacking)} has no .safetensors weights. "
            "Download or export the model again, with safetensors."
        )
    require_plausible(folder, PARTS[architecture])
    hashed = {f"{part}/{file.name}": file for part, found in files.items() for file in found}
    if vae_folder is not None:
        hashed |= {f"vae/{file.name}": file for file in weights_in(vae_folder, "vae")}
    with damage_told(folder):
        modules = _read_folder(folder, architecture, dtype, variant_of(folder, parts), vae_folder)
    _check_channels(folder, modules)
    index = read_json(folder / "model_index.json")
    return LoadedParts(
        architecture,
        modules,
        revision_of(folder),
        hash_files(hashed),
        zero_empty=bool(index.get("force_zeros_for_empty_prompt", True)),
    )


def load_hub(place: ModelSource, dtype: torch.dtype) -> LoadedParts:
    """A hub repository in diffusers' layout, fetched where it is not in the hub's cache.

    Of weights in two precisions those that are here already are taken, else half precision: half
    the download. `MissingResourceError` where it cannot be had.
    """
    from mcap.weights.hub import hub_files, hub_snapshot

    folder = hub_snapshot(place.repo, place.revision, CONFIG_FILES)
    architecture = folder_architecture(folder)
    parts = [part for part in WEIGHTS if part in PARTS[architecture]]
    if not all(weight_files(folder, parts).values()):
        commit = folder.name
        names = hub_files(place.repo, commit)
        wanted = [
            name
            for part in parts
            for name in (choose_weights(names, part, "fp16") or choose_weights(names, part))
        ]
        # What shards there are stands in a JSON file beside them.
        sharded = {name.split("/")[0] for name in wanted if "-of-" in name}
        indexes = [
            name
            for name in names
            if name.split("/")[0] in sharded
            and re.search(r"\.safetensors\.index[\w.]*\.json", name)
        ]
        hub_snapshot(place.repo, commit, [*CONFIG_FILES, *wanted, *indexes])
    return load_folder(folder, dtype)


def hash_folder(folder: Path) -> str:
    """sha256 over the per-file sha256 of the weights that are read, each with its path."""
    found = weight_files(folder, [part for part in WEIGHTS if (folder / part).is_dir()])
    return hash_files(
        {f"{part}/{file.name}": file for part, files in found.items() for file in files}
    )


def weight_files(folder: Path, parts: Sequence[str]) -> dict[str, list[Path]]:
    """part -> the .safetensors files that it is read from; [] where there are none.

    Where each part has full precision that is read, else half wherever there is half.
    """
    variant = variant_of(folder, parts)
    return {part: weights_in(folder / part, part, variant) for part in parts}


def variant_of(folder: Path, parts: Sequence[str]) -> str:
    """ "fp16" where some part has no other weights, as diffusers calls it."""
    if all(weights_in(folder / part, part) for part in parts):
        return ""
    return "fp16" if any(weights_in(folder / part, part, "fp16") for part in parts) else ""


def weights_in(folder: Path, part: str, variant: str = "") -> list[Path]:
    names = [f"{part}/{file.name}" for file in folder.glob("*.safetensors")]
    chosen = (variant and choose_weights(names, part, variant)) or choose_weights(names, part)
    return [folder / name.split("/")[1] for name in chosen]


def choose_weights(names: Iterable[str], part: str, variant: str = "") -> list[str]:
    """Out of ``part/file`` names the weights of one precision, in one file or in shards."""
    stem = "diffusion_pytorch_model" if part in ("unet", "vae") else "model"
    shard = r"(-\d+-of-\d+)?"
    # Both places of the variant's name have been diffusers' own.
    middle = rf"(\.{variant}{shard}|{shard}\.{variant})" if variant else shard
    pattern = re.compile(rf"{part}/{stem}{middle}\.safetensors")
    return sorted(name for name in names if pattern.fullmatch(name))


def _check_whole(folder: Path, architecture: Architecture, vae_folder: Path | None) -> None:
    missing = [name for name in PARTS[architecture] if not (folder / name).is_dir()]
    if vae_folder is not None and "vae" in missing:
        missing.remove("vae")
    if not (folder / "model_index.json").is_file():
        missing.insert(0, "model_index.json")
    if missing:
        raise MissingResourceError(
            f"'{folder}' is not a whole model in diffusers' layout: {', '.join(missing)} is not "
            "there. Download or export the model again."
        )


def _check_channels(folder: Path, modules: Mapping[str, Any]) -> None:
    channels = modules["unet"].config.in_channels
    latent = modules["vae"].config.latent_channels
    if channels != latent:
        raise UsageError(
            f"'{folder}': its UNet takes {channels} channels and its autoencoder gives {latent}, "
            "as inpainting and editing models do. Use the text to picture model that it was made "
            "from."
        )


def _read_folder(
    folder: Path,
    architecture: Architecture,
    dtype: torch.dtype,
    variant: str,
    vae_folder: Path | None,
) -> dict[str, Any]:
    from diffusers import AutoencoderKL, StableDiffusionPipeline, StableDiffusionXLPipeline

    precisions = {"default": dtype}
    given: dict[str, Any] = {}
    if architecture == "sdxl":
        pipeline_class: Any = StableDiffusionXLPipeline
        given["add_watermarker"] = False
        precisions["vae"] = vae_precision(read_json(folder / "vae" / "config.json"), dtype)
    else:
        pipeline_class = StableDiffusionPipeline
        given |= {
            "safety_checker": None,
            "feature_extractor": None,
            "requires_safety_checker": False,
        }
    with without_progress_bars():
        if vae_folder is not None:
            precision = vae_precision(read_json(vae_folder / "config.json"), dtype)
            given["vae"] = AutoencoderKL.from_pretrained(
                vae_folder, torch_dtype=precision, use_safetensors=True, local_files_only=True
            )
        # Without dtype a half-precision folder loads with its text encoder in half precision and
        # the rest in single.
        pipeline = pipeline_class.from_pretrained(
            folder,
            dtype=precisions,
            variant=variant or None,
            use_safetensors=True,
            local_files_only=True,
            **given,
        )
    return {name: pipeline.components[name] for name in PARTS[architecture]}
