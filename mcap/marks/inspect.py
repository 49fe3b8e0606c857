"""All marks of one picture, as a detector finds them: XMP, C2PA, watermarks.

That nothing is found proves nothing: whoever wants to takes every mark away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mcap.errors import InputRejectedError
from mcap.images.photo import read_photo
from mcap.images.provenance import MEANINGS, Provenance, read
from mcap.marks.manifest import FoundManifest, read_manifest

if TYPE_CHECKING:
    from mcap.contracts import Watermark

NO_PROOF = "That no mark is found proves nothing: marks can be taken away."


@dataclass(frozen=True)
class FoundWatermark:
    """The word of one watermark's detector on a picture."""

    score: float | None
    """None where the pixels could not be read."""
    threshold: float
    problem: str = ""

    @property
    def found(self) -> bool:
        """True where the picture carries it."""
        return self.score is not None and self.score >= self.threshold


@dataclass(frozen=True)
class FoundMarks:
    """All that a picture's file and pixels say of where it comes from."""

    provenance: Provenance
    manifest: FoundManifest
    watermarks: Mapping[str, FoundWatermark] = field(default_factory=dict)
    """By the names under which they are registered."""

    @property
    def machine_made(self) -> bool:
        """True where any mark says that a machine made or altered the picture."""
        declared = {self.provenance.digital_source_type}
        if self.manifest.state not in ("broken", "absent", "unknown"):
            declared.add(self.manifest.source_type)
        return bool(declared & MEANINGS.keys()) or any(
            mark.found for mark in self.watermarks.values()
        )


def find_marks(
    path: Path, watermarks: Mapping[str, Watermark], anchors: str | None = None
) -> FoundMarks:
    """Return all marks of a picture; `InputRejectedError` for what is none.

    ``anchors`` as in `mcap.marks.manifest.read_manifest`.
    """
    found = read(path)
    image, problem = None, ""
    if watermarks:
        try:
            image = read_photo(path).image
        except InputRejectedError as error:
            problem = str(error)
    marks = {}
    for name, watermark in watermarks.items():
        score = None if image is None else float(watermark.score(image))
        marks[name] = FoundWatermark(score, watermark.info.threshold, problem)
    return FoundMarks(found, read_manifest(path, anchors), marks)
