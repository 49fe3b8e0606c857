"""Shared by models in a folder and in a single file: their parts, precision and hash."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from mcap.errors import McapError, UsageError
from mcap.weights.model_source import Architecture

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


def vae_precision(config: Mapping[str, Any], dtype: torch.dtype) -> torch.dtype:
    """Return the precision to keep an autoencoder in: single where half overflows.

    SDXL's activations pass float16's 65504 and its pictures turn black; a configuration says of an
    autoencoder that was made smaller with ``force_upcast: false``. bfloat16 has the range.
    """
    if dtype == torch.float16 and config.get("force_upcast", True):
        return torch.float32
    return dtype


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Read local files without diffusers' and transformers' progress bars."""
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


@contextmanager
def damage_told(folder: Path) -> Iterator[None]:
    """Raise `UsageError` for whatever the libraries have against the model that is read inside."""
    try:
        yield
    except (McapError, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # each library meets damage with exceptions of its own
        lines = str(error).splitlines() or [""]
        raise UsageError(
            f"'{folder}' cannot be read as a model: {type(error).__name__}: {lines[0][:300]}. "
            "Download or export the model again."
        ) from error


def revision_of(folder: Path) -> str:
    """Return the commit of a folder in the hub's cache, else "local"."""
    # The cache keeps each revision in a folder named by its commit.
    return folder.name if folder.parent.name == "snapshots" else "local"


def hash_files(files: Mapping[str, Path]) -> str:
    """Return the sha256 over each file's own and its name, in the order given.

    ``files``: name in the model -> file.
    """
    digest = hashlib.sha256()
    for name, file in files.items():
        digest.update(f"{hash_file(file)}  {name}\n".encode())
    return digest.hexdigest()


def hash_file(file: Path) -> str:
    """Return a file's sha256, without reading it where the hub's cache says it."""
    # The hub's cache names a large file by its sha256 and links to it.
    target = file.resolve()
    if file.is_symlink() and re.fullmatch(r"[0-9a-f]{64}", target.name):
        return target.name
    status = target.stat()
    return hash_bytes(str(target), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def hash_bytes(path: str, size: int, modified: int) -> str:
    """Return the sha256 of a file's bytes, which are read once a process.

    Size and time are arguments so that a changed file is read again.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
