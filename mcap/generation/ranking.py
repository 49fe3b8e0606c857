"""A written picture, its rank by similarity to the person, and a verdict on that similarity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mcap.faces.similarity import ranked
from mcap.results.contact_sheet import BAD, GOOD, NEUTRAL, WARNING


@dataclass(frozen=True)
class Picture:
    """One written picture; ``rank`` counts from 1 and is 0 until all are there."""

    path: Path
    record: dict[str, Any]
    """Its metadata; see `mcap.images.provenance`."""
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
    def border(self) -> str:
        """A word on the border that its style's frame lacked; "" where none was."""
        border = self.record.get("border")
        if border is None:
            return ""
        return "border drawn" if border["drawn"] else f"no border: {border['reason']}"

    @property
    def style(self) -> str:
        return self.record["profile"]


def rank_pictures(pictures: Sequence[Picture], best: int | None) -> list[Picture]:
    """Return the pictures, most similar first, with their rank.

    ``kept`` is True of the ``best`` most similar ones of each style, or of all where it is None.
    """
    counts: dict[str, int] = {}
    ordered = []
    for rank, picture in enumerate(ranked(pictures, lambda item: item.similarity), start=1):
        place = counts[picture.style] = counts.get(picture.style, 0) + 1
        ordered.append(replace(picture, rank=rank, kept=best is None or place <= best))
    return ordered


def verdict(
    similarity: float | None, same_person: float | None
) -> tuple[str, tuple[int, int, int]]:
    """Return a word and a colour (RGB) for a similarity.

    ``same_person`` is the cosine from which the network takes two faces for one person's, None
    where nobody has measured it.
    """
    if similarity is None:
        return "no face found", BAD
    if same_person is None:
        return "", NEUTRAL
    return ("like the person", GOOD) if similarity >= same_person else ("not very like", WARNING)
