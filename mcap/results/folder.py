"""An output folder of pictures: which are there already, what a new one is called, their list.

A picture is known by the hash of what it was made with, which its own record holds, or
results.jsonl where the picture was written without one. A folder belongs to one command: another
one's results.jsonl, contact sheet and report would take the place of what lies there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from mcap.errors import InputRejectedError, UsageError
from mcap.images import provenance
from mcap.results.names import RESULTS
from mcap.results.records import is_whole
from mcap.runtime import files
from mcap.runtime.documents import MEBIBYTE, parse_json, read_text
from mcap.runtime.text import json_bytes

COMMANDS = {
    "generate": "mcap generate",
    "edit": "mcap edit",
    "enhance": "mcap enhance",
}
"""A record's ``kind`` -> the command that makes such pictures."""

LARGEST = 256 * MEBIBYTE
"""Of results.jsonl, which has some kilobytes a picture."""


def require_own(out: Path, kind: str) -> None:
    """Raise `UsageError` where ``out`` is a file, takes none, or holds another kind of pictures.

    Reads results.jsonl alone and imports nothing heavy, so a command can ask before it begins.
    """
    files.require_writable(out)
    try:
        entries = parse_results(out)
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        said = files.why(error) if isinstance(error, OSError) else str(error)
        raise UsageError(
            f"--out {out}: {RESULTS} in it is not mcap's, or it is damaged ({said}); move it away "
            "or give another folder, so that it is not lost."
        ) from None
    for entry in entries:
        other = entry.get("kind", "generate")
        if other != kind:
            raise UsageError(
                f"--out {out}: holds the results of {COMMANDS.get(other, f'mcap {other}')}; give "
                "another folder, so that they are not lost."
            )


def read_results(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a folder's results.jsonl; [] where there is none of ours."""
    try:
        return parse_results(folder)
    except (OSError, ValueError, UsageError):
        return []  # none, or somebody else's file of that name, which knows nothing of ours


def parse_results(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a folder's results.jsonl.

    Raises OSError where there is none, `UsageError` where it is too large, ValueError that names
    the line which no command of mcap has written.
    """
    entries = []
    for number, line in enumerate(read_text(folder / RESULTS, LARGEST).split("\n"), start=1):
        if not line:
            continue
        try:
            entry = parse_json(line)
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
        if not isinstance(entry, dict) or not isinstance(entry.get("file", 0), str | None):
            raise ValueError(f"line {number}: says nothing of a file")
        if not isinstance(entry.get("kind", ""), str):
            raise ValueError(f"line {number}: its kind is none")
        entries.append(provenance.with_current_keys(entry))
    return entries


class OutputFolder:
    """Finds, names and lists the pictures of one output folder; each kind of picture has its own.

    ``kind`` is that of the records, a key of `COMMANDS`; ``extension`` one of
    `mcap.images.provenance.FORMATS`. Raises as `require_own`.
    """

    folders: ClassVar[tuple[str, ...]] = (".",)
    """Folders of pictures, relative to ``out``."""
    reserved: ClassVar[frozenset[str]]
    """Names, in lower case, of files that are written beside the pictures."""
    location_keys: ClassVar[frozenset[str]]
    """Keys of a line of results.jsonl that say where the picture lies; the rest is its record."""

    def __init__(self, out: Path, extension: str, kind: str) -> None:
        require_own(out, kind)
        self.out, self.kind, self.suffix = out, kind, provenance.FORMATS[extension]
        self._listed = {entry["file"]: entry for entry in self.listed(out)}
        self._sha256: dict[Path, str] = {}  # a picture of this run is read for it once

    @classmethod
    def listed(cls, folder: Path) -> list[dict[str, Any]]:
        """Return the lines of results.jsonl that hold a whole record of a picture."""
        return [
            entry
            for entry in read_results(folder)
            if set(entry) >= cls.location_keys
            and isinstance(entry["file"], str)
            and files.is_inside(folder, entry["file"])
            and is_whole(entry, entry.get("kind", "generate"))
        ]

    @classmethod
    def record_of(cls, entry: Mapping[str, Any]) -> dict[str, Any]:
        """Return a line of results.jsonl without what says where the picture lies."""
        return {key: value for key, value in entry.items() if key not in cls.location_keys}

    def matching(self, stem: str, wanted: str) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Yield path and record of the pictures called ``stem`` (-2, -3, ...) whose
        ``settings_sha256`` is ``wanted``."""
        for path in self._named(stem):
            try:
                record = provenance.read(path).record
            except InputRejectedError:
                continue  # not a whole picture, and so not one of ours: made anew beside it
            if record is None:  # written without one: results.jsonl knows it by its hash
                entry = self._listed.get(self.file_of(path))
                if entry is None or entry["settings_sha256"] != wanted:
                    continue
                if files.sha256_of(path) != entry["sha256"]:
                    continue
                record = self.record_of(entry)
            if record.get("settings_sha256") == wanted and is_whole(record, self.kind):
                yield path, record

    def _named(self, stem: str) -> list[Path]:
        # Upper and lower case are the same: on some disks they are.
        name = re.compile(re.escape(stem) + r"(-\d+)?" + re.escape(self.suffix), re.IGNORECASE)
        return [
            path
            for folder in self.folders
            if (self.out / folder).is_dir()
            for path in sorted((self.out / folder).iterdir())
            if name.fullmatch(path.name)
        ]

    def free_path(self, stem: str) -> Path:
        """Return a path in ``out`` that no other picture has, nor a file beside the pictures."""
        taken = {path.name.casefold() for path in self._named(stem)} | self.reserved
        name, number = f"{stem}{self.suffix}", 1
        while name.casefold() in taken:
            number += 1
            name = f"{stem}-{number}{self.suffix}"
        return self.out / name

    def sha256_of(self, path: Path) -> str:
        """Return the sha256 of a picture that will not be written again in this run."""
        if path not in self._sha256:
            self._sha256[path] = files.sha256_of(path)
        return self._sha256[path]

    def move(self, path: Path, target: Path) -> None:
        """Rename a picture within ``out``."""
        files.make_folder(target.parent)
        path.replace(target)
        if path in self._sha256:
            self._sha256[target] = self._sha256.pop(path)

    def file_of(self, path: Path) -> str:
        """Return a picture's path as results.jsonl has it: from ``out``, with slashes."""
        return path.relative_to(self.out).as_posix()

    def write_lines(self, entries: Sequence[Mapping[str, Any]]) -> Path:
        """Write results.jsonl: a line an entry, then what it alone knows of earlier runs."""
        listed = {entry["file"] for entry in entries}
        earlier = [
            entry
            for entry in self._listed_alone
            if entry["file"] not in listed and (self.out / entry["file"]).is_file()
        ]
        lines = (
            json.dumps(entry, ensure_ascii=False, allow_nan=False) + "\n"
            for entry in (*entries, *earlier)
        )
        path = self.out / RESULTS
        files.write_bytes(path, json_bytes("".join(lines)))
        return path

    @cached_property
    def _listed_alone(self) -> list[dict[str, Any]]:
        """Lines of earlier runs' pictures that hold no record (``--metadata label`` or ``none``):
        without its line, nothing would know such a picture or could make it again."""
        lines = []
        for file, line in self._listed.items():
            try:
                if provenance.read(self.out / file).record is None:
                    lines.append(line)
            except InputRejectedError:
                continue  # gone, or no longer a picture
        return lines
