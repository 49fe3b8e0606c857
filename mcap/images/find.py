"""Which files are meant by what a user names, and what each photo's output files are called."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from mcap.images.photo import Photo


def find_photos(sources: Sequence[Path | str], *, stdin: TextIO | None = None) -> list[Path]:
    """Files, folders and ``-`` (paths on standard input, one a line) -> files, each once.

    A folder stands for the files that lie directly in it, in natural order (2 before 10), hidden
    ones left out. Nothing is opened: a path that does not exist or is no picture stays in the list
    and is refused, with its reason, by `mcap.images.photo.read_photo`.
    """
    found: dict[Path, Path] = {}
    for path in expand(sources, stdin or sys.stdin):
        found.setdefault(path.resolve(), path)
    return list(found.values())


def expand(sources: Sequence[Path | str], stdin: TextIO) -> Iterator[Path]:
    """Yield the files of `find_photos`, those that are named twice twice."""
    for source in sources:
        if str(source) == "-":
            lines = (line.rstrip("\r\n") for line in stdin)
            yield from expand([line for line in lines if line and line != "-"], stdin)
            continue
        path = Path(source).expanduser()
        if not path.is_dir():
            yield path
            continue
        try:
            children = [child for child in path.iterdir() if not child.name.startswith(".")]
            yield from sorted((child for child in children if child.is_file()), key=natural_order)
        except OSError:
            yield path  # read_photo says why


def natural_order(path: Path) -> list[tuple[bool, int, str]]:
    """Return the key by which file names sort as people count: 2 before 10."""
    parts = re.split(r"(\d+)", path.name)
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def unique_names(photos: Sequence[Photo], earlier: dict[str, str] | None = None) -> list[Photo]:
    """Return the same photos with names that differ, also where case does not count.

    A photo keeps its file's stem where no other has it; the others get eight digits of their hash
    behind it, so that a name does not depend on the order. ``earlier`` (sha256 -> name) are names
    that an earlier run has given, which stay.
    """
    earlier = earlier or {}
    counts: dict[str, int] = {}
    for photo in photos:
        stem = photo.path.stem.casefold()
        counts[stem] = counts.get(stem, 0) + 1
    taken = {earlier[photo.sha256].casefold() for photo in photos if photo.sha256 in earlier}
    named = []
    for photo in photos:
        name = earlier.get(photo.sha256)
        if name is None:
            name = photo.path.stem
            if counts[name.casefold()] > 1 or name.casefold() in taken:
                name = f"{name}-{photo.sha256[:8]}"
        named.append(photo.called(name))
    return named
