"""The bytes of weights against what is known of them; no network."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from mcap.runtime.files import sha256_of
from mcap.weights.catalogue import LibrarySource, Weight
from mcap.weights.locate import local_path, weight


@dataclass(frozen=True)
class WeightCheck:
    """The result of looking at one weight's bytes."""

    name: str
    path: Path | None
    ok: bool
    problem: str = ""


def verify_weight(name: str | Weight) -> WeightCheck:
    """Read the weight's bytes and compare them with what is known of them."""
    entry = weight(name)
    path = local_path(name)
    if path is None:
        return WeightCheck(entry.name, None, False, "not on this machine")
    source = entry.sources[0]
    if path.is_dir():
        if isinstance(source, LibrarySource):
            problem = import_module(source.module).check(path)
        else:
            problem = folder_problem(path)
        return WeightCheck(entry.name, path, not problem, problem)
    if not entry.sha256:  # a file of an installed package, which has its own record of it
        return WeightCheck(entry.name, path, True)
    found = sha256_of(path)
    if found != entry.sha256:
        return WeightCheck(entry.name, path, False, f"sha256 is {found}, not {entry.sha256}")
    return WeightCheck(entry.name, path, True)


def matches(path: Path, entry: Weight) -> bool:
    """Return whether a file has the size and the hash of a weight."""
    if not path.is_file() or path.stat().st_size != entry.bytes:
        return False
    return sha256_of(path) == entry.sha256


def require_match(path: Path, entry: Weight) -> None:
    """Raise ValueError where a file has not the size and the hash of a weight."""
    size = path.stat().st_size
    if size != entry.bytes:
        raise ValueError(f"got {size} bytes, not {entry.bytes}: refused")
    found = sha256_of(path)
    if found != entry.sha256:
        raise ValueError(f"sha256 is {found}, not {entry.sha256}: refused")


def folder_problem(folder: Path) -> str:
    """Return what is wrong with a folder of the hub's cache, "" for nothing.

    The hub names large files by their sha256; the rest has nothing to check.
    """
    wrong = []
    for path in sorted(folder.rglob("*")):
        expected = path.resolve().name
        if (
            path.is_file()
            and re.fullmatch(r"[0-9a-f]{64}", expected)
            and sha256_of(path) != expected
        ):
            wrong.append(str(path.relative_to(folder)))
    return f"damaged: {', '.join(wrong)}" if wrong else ""
