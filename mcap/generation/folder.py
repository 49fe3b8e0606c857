"""The output folder of drawn and edited pictures: the best in it, the others in ``rest/``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mcap.faces.similarity import ranked
from mcap.results import names
from mcap.results.folder import OutputFolder
from mcap.runtime import files

REST = "rest"


@dataclass(frozen=True)
class Picture:
    """One written picture; ``rank`` counts from 1 and is 0 until all are there."""

    path: Path
    record: dict[str, Any]
    """What its metadata holds; see `mcap.images.provenance`."""
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


class RankedShelf(OutputFolder):
    """Finds, names, sorts and lists pictures of ``kind`` "generate" or "edit"."""

    folders = (".", REST)
    reserved = frozenset({names.CONTACT_SHEET, names.ATTENTION_MAPS})
    location_keys = frozenset({"rank", "file", "kept", "sha256"})
    record_keys = OutputFolder.record_keys | {"similarity"}

    def find(self, stem: str, wanted: str) -> Picture | None:
        """The picture called ``stem`` (-2, -3, ...) whose ``settings_sha256`` is ``wanted``."""
        found = (
            Picture(path, record, new=False, kept=path.parent == self.out)
            for path, record in self.matching(stem, wanted)
        )
        return next(found, None)

    def sort(self, pictures: Sequence[Picture], best: int | None) -> list[Picture]:
        """Rank the pictures and move those that are not among the K best of their style."""
        counts: dict[str, int] = {}
        ordered = []
        for rank, picture in enumerate(ranked(pictures, lambda item: item.similarity), start=1):
            place = counts[picture.style] = counts.get(picture.style, 0) + 1
            kept = best is None or place <= best
            target = (self.out if kept else self.out / REST) / picture.path.name
            if target != picture.path:
                self.move(picture.path, target)
            ordered.append(replace(picture, path=target, rank=rank, kept=kept))
        return ordered

    def write_results(self, pictures: Sequence[Picture]) -> Path:
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
    """What results.jsonl knows of a picture that holds no record; None where it does not."""
    sha256 = files.sha256_of(path)
    for folder in (path.parent, path.parent.parent):  # a picture in rest/ is listed above it
        for entry in RankedShelf.listed(folder):
            if entry["sha256"] == sha256:
                return RankedShelf.record_of(entry)
    return None
