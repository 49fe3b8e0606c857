"""TOML and JSON that somebody else may have written: read up to a size and a depth.

Without these two limits a file of a few megabytes takes all memory, and brackets in brackets end
the interpreter's stack. A file that breaks one is refused by its name.
"""

from __future__ import annotations

import json
import math
import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mcap.errors import UsageError
from mcap.runtime.files import open_to_read, private_opener

MEBIBYTE = 2**20
DEEPEST = 64
"""Tables and lists in each other; what mcap writes has at most eight."""


def read_toml(path: Path, largest: int = MEBIBYTE) -> dict[str, Any]:
    """Return the tables of a TOML file, with or without a byte order mark.

    Raises `UsageError` where it is larger than ``largest`` bytes or nested too deeply, OSError
    where it cannot be read, ValueError where it is no TOML in UTF-8.
    """
    text = read_text(path, largest)
    # A header of many thousand parts, [a.a.a...], takes the parser quadratic time.
    if any(line.count(".") > 10 * DEEPEST and '"' not in line for line in text.splitlines()):
        raise too_deep(path)
    try:
        found = tomllib.loads(text)
    except RecursionError:
        raise too_deep(path) from None
    require_shallow(found, path)
    return found


def read_json(path: Path, largest: int = MEBIBYTE) -> Any:
    """Return what a JSON file holds; raises as `read_toml`, ValueError where it is no JSON."""
    try:
        found = json.loads(read_text(path, largest))
    except RecursionError:
        raise too_deep(path) from None
    require_shallow(found, path)
    return found


def parse_json(text: str | bytes) -> Any:
    """Return what JSON text holds; ValueError where it is none or nested too deeply.

    ``NaN``, ``Infinity`` and numbers beyond a float are none: nobody could write them again.
    """

    def finite(text: str) -> float:
        value = float(text)
        if not math.isfinite(value):
            raise ValueError(f"{text} is no number that JSON has")
        return value

    try:
        return json.loads(text, parse_float=finite, parse_constant=finite)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_json_lines(path: Path, largest: int = MEBIBYTE) -> Iterator[Any]:
    """Yield what each line of a JSON Lines file holds, but of lines that are torn or no JSON.

    Nothing where there is no such file, it cannot be read, or is larger than ``largest`` bytes.
    """
    try:
        lines = read_text(path, largest).split("\n")
    except (OSError, ValueError, UsageError):
        return
    for line in lines:
        try:
            entry = parse_json(line)
        except ValueError:
            continue
        yield entry


def append_json_line(path: Path, entry: Mapping[str, Any]) -> None:
    """Write one line of a JSON Lines file and have it on the disk; OSError where that takes none.

    A single call writes it: other threads write theirs.
    """
    line = json.dumps(entry) + "\n"
    with open(path, "ab", buffering=0, opener=private_opener) as file:
        file.write(line.encode("ascii"))
        os.fsync(file.fileno())


def read_text(path: Path, largest: int) -> str:
    """Return a file's UTF-8 text without a byte order mark, its lines ending as on Unix."""
    with open_to_read(path) as file:
        data = file.read(largest + 1)  # a device or a pipe has no size to ask for
    if len(data) > largest:
        raise UsageError(
            f"{path}: is larger than {largest // MEBIBYTE} MiB, and no file of its kind is; look "
            "whether it is the right one."
        )
    return data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")


def require_shallow(value: Any, path: Path) -> None:
    """Raise `UsageError` where tables and lists lie in each other more than `DEEPEST` deep."""
    level = [value]
    for _ in range(DEEPEST):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return
    raise too_deep(path)


def too_deep(path: Path) -> UsageError:
    """Return the refusal of a file that is nested too deeply."""
    return UsageError(
        f"{path}: tables or lists in it lie more than {DEEPEST} deep in each other, and no file "
        "of its kind does so; look whether it is the right one."
    )
