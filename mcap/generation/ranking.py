"""A written picture, its rank by likeness to the subject, and a verdict on its similarity."""

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
        """Cosine in [-1, 1]; None where no face was found, and of a thing."""
        return self.record["similarity"]

    @property
    def judged(self) -> float | None:
        """The same cosine by a network that did not teach; None where none was there."""
        judge = self.record.get("judge")
        return None if judge is None else judge["similarity"]

    @property
    def border(self) -> str:
        """A word on the border that its style's frame lacked; "" where none was."""
        border = self.record.get("border")
        if border is None:
            return ""
        return "border drawn" if border["drawn"] else f"no border: {border['reason']}"

    @property
    def colour_match(self) -> float | None:
        """The share of a thing's colours that it holds, 0 to 1 (`mcap.images.palette`); None of a
        person."""
        return self.record.get("colour_match")

    @property
    def style(self) -> str:
        return self.record["profile"]


def rank_pictures(pictures: Sequence[Picture], best: int | None) -> list[Picture]:
    """Return the pictures, most like the subject first, with their rank.

    By a network that did not teach where it has judged all that show a face. ``kept`` is True of
    the ``best`` most similar ones of each style, or of all where it is None.
    """
    counts: dict[str, int] = {}
    ordered = []
    faces = [picture for picture in pictures if picture.similarity is not None]
    by_judge = all(picture.judged is not None for picture in faces)

    def likeness(picture: Picture) -> float | None:
        if picture.colour_match is not None:
            return picture.colour_match
        return picture.judged if by_judge else picture.similarity

    for rank, picture in enumerate(ranked(pictures, likeness), start=1):
        place = counts[picture.style] = counts.get(picture.style, 0) + 1
        ordered.append(replace(picture, rank=rank, kept=best is None or place <= best))
    return ordered


def verdict(picture: Picture) -> tuple[str, tuple[int, int, int]]:
    """Return a word and a colour (RGB) for a picture's likeness.

    A judge's word, where one was there. The network that taught says no more than which picture is
    the closest.
    """
    if picture.colour_match is not None:
        return "of the thing's colours", NEUTRAL
    if picture.similarity is None:
        return "no face found", BAD
    judge = picture.record.get("judge")
    if judge is None:
        return ("closest of these" if picture.rank == 1 else ""), NEUTRAL
    return ("like the person", GOOD) if judge["like"] else ("not like the person", WARNING)


def shown_likeness(picture: Picture) -> str:
    """Return a picture's likeness by the judge, else by the network that taught; "-" for none.

    Of a thing its colours.
    """
    found = picture.similarity if picture.judged is None else picture.judged
    found = found if picture.colour_match is None else picture.colour_match
    return "-" if found is None else f"{found:.3f}"


def who_judged(pictures: Sequence[Picture]) -> str:
    """Return a sentence on who judged how like the person the pictures are, and by what."""
    if any(picture.colour_match is not None for picture in pictures):
        return (
            "Ranked by how much of the colours of the thing's photos a picture holds, 0 to 1; "
            "nothing is known of its shape."
        )
    judges = [picture.record["judge"] for picture in pictures if picture.record.get("judge")]
    if not judges:
        return (
            "Ranked by the network that training used, which flatters: the first is the closest of "
            "these. With pip install 'mcap[dlib]' before training another network judges."
        )
    judge = judges[0]
    by = (
        f"which at most 1 in 100 of {judge['strangers']} strangers that this model draws reaches"
        if judge["strangers"]
        else "the network's own figure, not calibrated on this model"
    )
    return (
        f"Judged by {judge['network']}, which training never saw: like the person is above "
        f"{judge['threshold']:.3f}, {by}."
    )
