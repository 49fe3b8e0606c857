"""An output folder of pictures: which are there already, what a new one is called, their list.

A picture is known by the hash of what it was drawn with, which its own record holds, or
results.jsonl where the picture was written without one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mcap import atomic, provenance
from mcap.errors import InputRefused, UsageError
from mcap.ranking import ranked

RESULTS = "results.jsonl"
REST = "rest"
_PLACE = {"rank", "file", "kept", "sha256"}
_KEY = {"settings_sha256", "similarity"}


@dataclass(frozen=True)
class Picture:
    """One written picture; ``rank`` counts from 1 and is 0 until all are there."""

    path: Path
    record: dict[str, Any]
    """What its metadata holds; see `mcap.provenance`."""
    new: bool
    """False: it was there already."""
    rank: int = 0
    kept: bool = True
    """False: it lies in ``rest/``."""

    @property
    def similarity(self) -> float | None:
        """Cosine in [-1, 1]; None where no face was found."""
        return self.record["similarity"]

    @property
    def style(self) -> str:
        return self.record["profile"]


class Shelf:
    """The output folder: finds, names, sorts and lists pictures."""

    def __init__(self, out: Path, extension: str) -> None:
        self.out = out
        self.suffix = provenance.FORMATS[extension]
        if out.exists() and not out.is_dir():
            raise UsageError(f"--out {out}: is a file; give a folder.")
        self._listed = {entry["settings_sha256"]: entry for entry in read_results(out)}

    def _candidates(self, stem: str) -> list[Path]:
        name = re.compile(re.escape(stem) + r"(-\d+)?" + re.escape(self.suffix))
        return [
            path
            for folder in (self.out, self.out / REST)
            if folder.is_dir()
            for path in sorted(folder.iterdir())
            if name.fullmatch(path.name)
        ]

    def find(self, stem: str, wanted: str) -> Picture | None:
        """The picture called ``stem`` (-2, -3, ...) whose ``settings_sha256`` is ``wanted``."""
        for path in self._candidates(stem):
            try:
                record = provenance.read(path).record
            except InputRefused:
                continue  # not a whole picture, and so not one of ours: drawn anew beside it
            if record is None:
                record = self._listed_record(path, wanted)
            if record is not None and record.get("settings_sha256") == wanted:
                return Picture(path, record, new=False, kept=path.parent == self.out)
        return None

    def _listed_record(self, path: Path, wanted: str) -> dict[str, Any] | None:
        entry = self._listed.get(wanted)
        if entry is None or self.out / entry["file"] != path:
            return None
        if atomic.sha256_of(path) != entry["sha256"]:
            return None
        return own_record(entry)

    def free(self, stem: str) -> Path:
        """A name that no other picture has, in the folder or in its ``rest``."""
        taken = {path.name for path in self._candidates(stem)}
        name, number = f"{stem}{self.suffix}", 1
        while name in taken:
            number += 1
            name = f"{stem}-{number}{self.suffix}"
        return self.out / name

    def sort(self, pictures: Sequence[Picture], best: int | None) -> list[Picture]:
        """Rank the pictures and move those that are not among the K best of their style."""
        counts: dict[str, int] = {}
        ordered = []
        for rank, picture in enumerate(ranked(pictures, lambda item: item.similarity), start=1):
            place = counts[picture.style] = counts.get(picture.style, 0) + 1
            kept = best is None or place <= best
            target = (self.out if kept else self.out / REST) / picture.path.name
            if target != picture.path:
                target.parent.mkdir(parents=True, exist_ok=True)
                picture.path.replace(target)
            ordered.append(replace(picture, path=target, rank=rank, kept=kept))
        return ordered

    def write_results(self, pictures: Sequence[Picture]) -> Path:
        path = self.out / RESULTS
        lines = []
        for picture in pictures:
            entry = {
                "rank": picture.rank or None,
                "file": picture.path.relative_to(self.out).as_posix(),
                "kept": picture.kept,
                "sha256": atomic.sha256_of(picture.path),
                **picture.record,
            }
            lines.append(json.dumps(entry, ensure_ascii=False, allow_nan=False) + "\n")
        atomic.write_bytes(path, "".join(lines).encode())
        return path


def read_results(folder: Path) -> list[dict[str, Any]]:
    """The entries of a folder's results.jsonl; [] where there is none of ours."""
    try:
        lines = (folder / RESULTS).read_text(encoding="utf-8").splitlines()
        entries = [json.loads(line) for line in lines]
    except (OSError, ValueError):
        return []  # none, or somebody else's file of that name, which knows nothing of ours
    return [e for e in entries if isinstance(e, dict) and set(e) >= _PLACE | _KEY]


def own_record(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry of results.jsonl without what says where the picture lies."""
    return {key: value for key, value in entry.items() if key not in _PLACE}
