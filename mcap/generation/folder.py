"""The output folder of generated and edited pictures: the best in it, others in ``rest/``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mcap.generation.ranking import Picture, rank_pictures
from mcap.results.folder import OutputFolder
from mcap.results.names import ATTENTION_MAPS, CONTACT_SHEET
from mcap.runtime import files

REST = "rest"


class RankedFolder(OutputFolder):
    """Finds, names, sorts and lists pictures of ``kind`` "generate" or "edit"."""

    folders = (".", REST)
    reserved = frozenset({CONTACT_SHEET, ATTENTION_MAPS})
    location_keys = frozenset({"rank", "file", "kept", "sha256"})

    def find(self, stem: str, wanted: str) -> Picture | None:
        """Return the picture called ``stem`` (-2, ...) whose ``settings_sha256`` is ``wanted``."""
        found = (
            Picture(path, record, new=False, kept=path.parent == self.out)
            for path, record in self.matching(stem, wanted)
        )
        return next(found, None)

    def sort(self, pictures: Sequence[Picture], best: int | None) -> list[Picture]:
        """Rank the pictures and move those that are not among the ``best`` of their style."""
        ordered = []
        for picture in rank_pictures(pictures, best):
            target = (self.out if picture.kept else self.out / REST) / picture.path.name
            if target != picture.path:
                self.move(picture.path, target)
            ordered.append(replace(picture, path=target))
        return ordered

    def write_results(self, pictures: Sequence[Picture]) -> Path:
        """Write results.jsonl: a line a picture, with its rank and its whole record."""
        return self.write_lines(
            [
                {
                    "rank": picture.rank or None,
                    "file": self.file_of(picture.path),
                    "kept": picture.kept,
                    "sha256": self.sha256_of(picture.path),
                    **picture.record,
                }
                for picture in pictures
            ]
        )


def listed_record(path: Path) -> dict[str, Any] | None:
    """Return the record that results.jsonl has of a picture without one; None where it has none."""
    sha256 = files.sha256_of(path)
    for folder in (path.parent, path.parent.parent):  # a picture in rest/ is listed above it
        for entry in RankedFolder.listed(folder):
            if entry["sha256"] == sha256:
                return RankedFolder.record_of(entry)
    return None
