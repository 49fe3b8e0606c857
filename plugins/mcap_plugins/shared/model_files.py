"""Shared by models in files: how they are read, refused where damaged, and hashed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from mcap.errors import McapError, UsageError
from mcap.runtime.files import sha256_of
from mcap.weights.model_source import read_json

LIBRARIES = (None, "diffusers", "transformers", "stable_diffusion")
"""What parts in a model_index.json are of; the last is diffusers' own safety checker."""
LARGEST_NUMBER = 2**20
MOST_LAYERS = 256
"""No network of the kinds has as many in a row."""


def require_plausible(folder: Path, parts: Sequence[str]) -> None:
    """Raise `UsageError` for a folder whose JSON files, or those of its ``parts``, name libraries
    of their own, weights elsewhere, or networks of a size that none of the kind has.

    diffusers imports the libraries, opens the files and builds the networks.
    """
    for part, names in read_json(folder / "model_index.json").items():
        library = names[0] if isinstance(names, list) and names else None
        if library not in LIBRARIES:
            raise UsageError(
                f"'{folder / 'model_index.json'}': {part} is of the library {str(library)[:80]!r}, "
                "whose program mcap does not run; it reads models of diffusers and transformers."
            )
    for part in parts:
        for path in sorted((folder / part).glob("*.json")):
            if path.name.endswith(".index.json") or ".index." in path.name:
                shards = read_json(path).get("weight_map", {})
                for file in shards.values() if isinstance(shards, dict) else ():
                    if Path(str(file)).name != str(file):
                        raise UsageError(
                            f"'{path}': {str(file)[:80]} leads outside the model's own folder."
                        )
            elif path.name in ("config.json", "scheduler_config.json"):
                for key, value in numbers_in(read_json(path)):
                    most = MOST_LAYERS if "layers" in key else LARGEST_NUMBER
                    if abs(value) > most and not key.endswith("_id"):
                        raise UsageError(
                            f"'{path}': {key} = {value} is more than any model of the kind has; "
                            "it is damaged. Download the model again."
                        )


def numbers_in(value: Any, key: str = "") -> Iterator[tuple[str, int]]:
    """Yield every whole number of a JSON document with the key that it belongs to."""
    if isinstance(value, int):
        yield key, value
    elif isinstance(value, list):
        for inner in value:
            yield from numbers_in(inner, key)
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from numbers_in(inner, name)


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
    return sha256_of(Path(path))
