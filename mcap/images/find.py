"""Which files are meant by what a user names, and what each photo's output files are called."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from mcap.errors import InputRejectedError, UsageError
from mcap.images import provenance
from mcap.runtime.documents import MEBIBYTE, parse_json, read_text
from mcap.runtime.text import file_stem

if TYPE_CHECKING:
    from mcap.images.photo import Photo

LARGEST = 256 * MEBIBYTE
"""Of a report.json or results.jsonl that is looked into."""

LONGEST_LIST = 64_000_000
"""Bytes of a list of paths on standard input."""

LONGEST_PATH = 4096  # bytes; Linux opens none that is longer

PICTURE_BEGINS = re.compile(
    rb"\xff\xd8\xff|\x89PNG|RIFF.{4}WEBP|II\*\0|MM\0\*|GIF8|BM.{4}\0\0\0\0|.{4}ftyp", re.DOTALL
)
"""The first bytes of the pictures that mcap reads."""

OWN_FILE = re.compile(
    r"(contact-sheet(-\d+)?|attention-maps)\.jpg|report\.(json|html)|results\.jsonl", re.IGNORECASE
)
"""What mcap writes into a folder beside its pictures; none of the photos of one that has a report
of mcap's own."""


def find_photos(
    sources: Sequence[Path | str],
    *,
    stdin: TextIO | None = None,
    results: bool = False,
    left_out: list[Path] | None = None,
) -> list[Path]:
    """Files, folders and ``-`` (paths on standard input) -> files, each once.

    A folder stands for the files that lie directly in it, in natural order (2 before 10), hidden
    ones left out, and what mcap itself has written there (`own_files`): its sheets, reports and,
    unless ``results`` are asked for, its pictures. These are added to ``left_out``. Nothing else is
    opened: a path that does not exist or is no picture stays in the list and is refused, with its
    reason, by `mcap.images.photo.read_photo`.

    On standard input paths have a line each or, as ``find -print0`` writes them, NUL behind each;
    `UsageError` where something else than paths comes.
    """
    found: dict[Path, Path] = {}
    for path in expand(sources, stdin, results, [] if left_out is None else left_out):
        found.setdefault(path.resolve(), path)
    return list(found.values())


def people_in(
    sources: Sequence[Path], option: str, is_person: Callable[[Path], bool] = Path.is_dir
) -> dict[str, Path]:
    """Return person -> folder of photos: the subfolders, or the folder itself where it has none.

    ``option`` stands before a path in messages: "--source "; ``is_person`` says of what lies in a
    folder whether it is one. Raises `UsageError` for what is no folder or is there twice,
    `InputRejectedError` for an empty one.
    """
    people: dict[str, Path] = {}
    for source in sources:
        if not source.is_dir():
            raise UsageError(
                f"{option}{source}: is no folder; give one with a subfolder of photos a person."
            )
        inner = sorted(
            (path for path in source.iterdir() if path.name[0] != "." and is_person(path)),
            key=natural_order,
        )
        if not inner and not find_photos([source]):
            raise InputRejectedError(
                f"{option}{source}: the folder is empty; put a subfolder of photos a person there."
            )
        for folder in inner or [source]:
            name = file_stem(folder.resolve().name)
            if name in people:
                raise UsageError(
                    f"{option}{people[name]} and {folder} would both be called '{name}'."
                )
            people[name] = folder
    return people


def expand(
    sources: Sequence[Path | str], stdin: TextIO | None, results: bool, left_out: list[Path]
) -> Iterator[Path]:
    """Yield the files of `find_photos`, those that are named twice twice."""
    for source in sources:
        if str(source) == "-":
            named = [path for path in listed_paths(stdin or sys.stdin) if path != "-"]
            yield from expand(named, stdin, results, left_out)
            continue
        path = Path(source).expanduser()
        if not path.is_dir():
            yield path
            continue
        try:
            children = [child for child in path.iterdir() if not child.name.startswith(".")]
        except OSError:
            yield path  # read_photo says why
            continue
        # A link to nowhere stays in the list, and is refused by its name.
        children = [child for child in children if not child.is_dir()]
        own = own_files(path, children, results)
        left_out += sorted(own, key=natural_order)
        yield from sorted((child for child in children if child not in own), key=natural_order)


def listed_paths(stdin: TextIO | None) -> list[str]:
    """Return the paths that come on standard input; `UsageError` where it is no list of paths."""
    if stdin is None:
        raise UsageError("-: there is no standard input to read paths from.")
    # Bytes, where there are any: names are not always in the terminal's encoding.
    raw = getattr(stdin, "buffer", None)
    data = os.fsencode(stdin.read(LONGEST_LIST)) if raw is None else raw.read(LONGEST_LIST)
    data = data.removeprefix(b"\xef\xbb\xbf")
    paths = [path for path in re.split(rb"\0" if b"\0" in data else rb"[\r\n]+", data) if path]
    if PICTURE_BEGINS.match(data):
        raise UsageError(
            "-: a picture came on standard input, and a list of paths is needed, one a line: give "
            "the file itself, mcap COMMAND FILE, or pipe its name."
        )
    if any(len(path) > LONGEST_PATH for path in paths):
        raise UsageError(
            "-: what came on standard input is no list of paths, one a line or with NUL behind "
            "each (find -print0)."
        )
    return [os.fsdecode(path) for path in paths]


def own_files(folder: Path, children: Sequence[Path], results: bool) -> set[Path]:
    """Return which files of a folder mcap has written into it.

    Sheets, reports and, unless ``results`` are wanted, pictures that it has generated; an
    enhanced photograph is a photograph. Empty where the folder has no report.json or results.jsonl
    of mcap's.
    """
    names = {child.name for child in children}
    listed = read_lines(folder / "results.jsonl") if "results.jsonl" in names else []
    reports = read_lines(folder / "report.json", whole=True) if "report.json" in names else []
    listed = [entry for entry in listed if isinstance(entry.get("file", ...), str | None)]
    if not listed and not any({"schema", "request"} <= set(report) for report in reports):
        return set()
    own = {child for child in children if OWN_FILE.fullmatch(child.name)}
    if listed and not results:
        drawn = {str(entry["file"]) for entry in listed if entry.get("kind") != "enhance"}
        own |= {child for child in children if child.name in drawn or is_generated(child)}
    return own


def read_lines(path: Path, *, whole: bool = False) -> list[dict[str, Any]]:
    """Return the JSON objects of a file, one a line or, ``whole``, one in all; [] for another's."""
    try:
        text = read_text(path, LARGEST)
        values = [parse_json(line) for line in ([text] if whole else text.splitlines())]
    except (OSError, ValueError, UsageError):
        return []
    return [value for value in values if isinstance(value, dict)]


def is_generated(path: Path) -> bool:
    """Return whether a file is a picture with mcap's record that is marked as generated."""
    if path.suffix.lower() not in provenance.FORMATS.values():
        return False
    try:
        found = provenance.read(path)
    except InputRejectedError:
        return False
    return found.generated and found.record is not None


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
        stem = file_stem(photo.path.stem).casefold()
        counts[stem] = counts.get(stem, 0) + 1
    taken = {earlier[photo.sha256].casefold() for photo in photos if photo.sha256 in earlier}
    named = []
    for photo in photos:
        name = earlier.get(photo.sha256)
        if name is None:
            name = file_stem(photo.path.stem)
            if counts[name.casefold()] > 1 or name.casefold() in taken:
                name = f"{name}-{photo.sha256[:8]}"
        named.append(photo.called(name))
    return named
