"""Model files -> the parts of a diffusers pipeline: from a folder, a single file, the hub."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
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
    vae_beside,
)

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


def load_folder(folder: Path, dtype: torch.dtype, vae_folder: Path | None = None) -> LoadedParts:
    """A folder in diffusers' layout; ``vae_folder`` replaces its autoencoder.

    Raises `MissingResourceError` where parts are not there, `UsageError` for a model of another kind.
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
    hashed = {f"{part}/{file.name}": file for part, found in files.items() for file in found}
    if vae_folder is not None:
        hashed |= {f"vae/{file.name}": file for file in _in_folder(vae_folder, "vae")}
    modules = _read_folder(folder, architecture, dtype, _variant(folder, parts), vae_folder)
    _check_channels(folder, modules)
    # The hub's cache keeps each revision in a folder named by its commit.
    revision = folder.name if folder.parent.name == "snapshots" else "local"
    index = read_json(folder / "model_index.json")
    return LoadedParts(
        architecture,
        modules,
        revision,
        _hash(hashed),
        zero_empty=bool(index.get("force_zeros_for_empty_prompt", True)),
    )


def load_hub(place: ModelSource, dtype: torch.dtype) -> LoadedParts:
    """A hub repository in diffusers' layout, fetched where it is not in the hub's cache.

    Of weights in two precisions those that are here already are taken, else half precision: half
    the download. `MissingResourceError` where it cannot be had.
    """
    from mcap.weights.fetch import hub_files, hub_snapshot

    folder = hub_snapshot(place.repo, place.revision, CONFIG_FILES)
    architecture = folder_architecture(folder)
    parts = [part for part in WEIGHTS if part in PARTS[architecture]]
    if not all(weight_files(folder, parts).values()):
        commit = folder.name
        names = hub_files(place.repo, commit)
        wanted = [
            name
            for part in parts
            for name in (_choose(names, part, "fp16") or _choose(names, part))
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


def load_file(path: Path, dtype: torch.dtype) -> LoadedParts:
    """A single .safetensors checkpoint; see `mcap_plugins.stable_diffusion.single_file`."""
    from mcap_plugins.stable_diffusion.single_file import read_checkpoint

    # It warns of parts to be kept in single precision, and lists none; and of weights with EMA, as
    # if one could ask for them.
    names = ("diffusers.models.modeling_utils", "diffusers.loaders.single_file_utils")
    noisy = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in noisy]
    for logger in noisy:
        logger.setLevel(logging.ERROR)
    try:
        with _quiet():
            architecture, modules = read_checkpoint(path, dtype)
    finally:
        for logger, level in zip(noisy, levels, strict=True):
            logger.setLevel(level)
    vae = vae_beside(path)
    sha256 = _hash_file(path) if vae is None else _hash({"model": path, "vae": vae})
    return LoadedParts(architecture, modules, "local", sha256)


def hash_folder(folder: Path) -> str:
    """sha256 over the per-file sha256 of the weights that are read, each with its path."""
    found = weight_files(folder, [part for part in WEIGHTS if (folder / part).is_dir()])
    return _hash({f"{part}/{file.name}": file for part, files in found.items() for file in files})


def weight_files(folder: Path, parts: Sequence[str]) -> dict[str, list[Path]]:
    """part -> the .safetensors files that it is read from; [] where there are none.

    Where each part has full precision that is read, else half wherever there is half.
    """
    variant = _variant(folder, parts)
    return {part: _in_folder(folder / part, part, variant) for part in parts}


def _variant(folder: Path, parts: Sequence[str]) -> str:
    """ "fp16" where some part has no other weights, as diffusers calls it."""
    if all(_in_folder(folder / part, part) for part in parts):
        return ""
    return "fp16" if any(_in_folder(folder / part, part, "fp16") for part in parts) else ""


def _in_folder(folder: Path, part: str, variant: str = "") -> list[Path]:
    names = [f"{part}/{file.name}" for file in folder.glob("*.safetensors")]
    chosen = (variant and _choose(names, part, variant)) or _choose(names, part)
    return [folder / name.split("/")[1] for name in chosen]


def _choose(names: Iterable[str], part: str, variant: str = "") -> list[str]:
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
    with _quiet():
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
    return {name: getattr(pipeline, name) for name in PARTS[architecture]}


def vae_precision(config: Mapping[str, Any], dtype: torch.dtype) -> torch.dtype:
    """What SDXL's autoencoder is kept in: single precision where half overflows.

    Its activations pass float16's 65504 and its pictures turn black; a configuration says of an
    autoencoder that was made smaller with ``force_upcast: false``. bfloat16 has the range.
    """
    if dtype == torch.float16 and config.get("force_upcast", True):
        return torch.float32
    return dtype


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars for reading local files; put back as they were."""
    import diffusers.utils.logging
    import transformers.utils.logging

    libraries = (diffusers.utils.logging, transformers.utils.logging)
    shown = [library for library in libraries if library.is_progress_bar_enabled()]
    for library in shown:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in shown:
            library.enable_progress_bar()


def _hash(files: Mapping[str, Path]) -> str:
    """``files``: name in the model -> file, in the order in which they are hashed."""
    digest = hashlib.sha256()
    for name, file in files.items():
        digest.update(f"{_hash_file(file)}  {name}\n".encode())
    return digest.hexdigest()


def _hash_file(file: Path) -> str:
    # The hub's cache names a large file by its sha256 and links to it.
    target = file.resolve()
    if file.is_symlink() and re.fullmatch(r"[0-9a-f]{64}", target.name):
        return target.name
    status = target.stat()
    return _hash_bytes(str(target), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _hash_bytes(path: str, size: int, modified: int) -> str:
    """Read once a process; size and time are arguments so that a changed file is read again."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
