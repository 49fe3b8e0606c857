"""Enhanced pictures before and after, to look at: the contact sheet and report.html."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from mcap.images.jpeg import write_jpeg
from mcap.images.marking import NO_MARKS, Marks
from mcap.images.provenance import COMPOSITE_WITH_TRAINED, mark_only
from mcap.results.contact_sheet import BAD, GOOD, NEUTRAL, WARNING, Tile, contact_sheet
from mcap.results.html import write_page
from mcap.results.names import CONTACT_SHEET, REPORT

if TYPE_CHECKING:
    from mcap.contracts import UInt8Image
    from mcap.enhancement.events import Enhanced, Refused

SHEET_PICTURES = 32
"""Pictures on the contact sheet, at most."""


def verdict(picture: Enhanced) -> tuple[str, tuple[int, int, int]]:
    """Return what became of the faces of a picture, in a word and a colour."""
    if picture.subject_in_picture is False:
        return "not the person", BAD
    if picture.subject_in_picture:
        least = picture.record["subject"]["same_person"]
        mine = [face for face in picture.faces if face["is_person"]]
        after = [face["to_person_after"] for face in mine if face["to_person_after"] is not None]
        if after and max(after) < least:
            return "no longer the person", BAD
    if picture.unmet:
        return "not as the style asks", BAD
    if picture.held_back:
        stages = [stage for face in picture.faces for stage in face["stages"]]
        if any(stage["weight"] == 1 and not stage["allowed"] for stage in stages):
            return "changed more than is allowed, and used all the same", WARNING
        if all(stage["weight"] == 0 for face in picture.faces for stage in face["stages"]):
            return "the person was not kept: face left as it was", BAD
        return "restored less, to keep the person", WARNING
    if picture.record.get("shows") == "object":
        return "a thing: no face looked for", NEUTRAL
    if not picture.faces:
        return "no face found", NEUTRAL
    if not any(face["stages"] for face in picture.faces):
        return "not restored", NEUTRAL
    if any(face["reason"] for face in picture.faces):
        return "a face was left as it was", WARNING
    return "the person is kept", GOOD


def write_contact_sheet(
    out: Path, pictures: Sequence[Enhanced], *, notice: str = "", marks: Marks = NO_MARKS
) -> Path:
    """Write before, after, and the largest face of both, a picture a row; ``notice`` above."""

    def image(path: Path | None) -> UInt8Image | None:
        if path is None:
            return None
        with Image.open(path) as file:
            return np.asarray(file.convert("RGB"))

    tiles = []
    for picture in pictures[:SHEET_PICTURES]:
        word, colour = verdict(picture)
        before, after = shown_sizes(picture)
        shown = picture.previews
        lines = (after, *similarity_lines(picture), word)
        tiles += [
            Tile(image(shown.before), f"{picture.source.name}: before", (before,)),
            Tile(image(shown.after), "after", lines, colour),
            Tile(image(shown.face_before), "its face before"),
            Tile(image(shown.face_after), "after", (), colour),
        ]
    path = out / CONTACT_SHEET
    heading = "Enhanced: before and after" if tiles else "Nothing was enhanced"
    sheet = contact_sheet(tiles, 4, 320, heading=heading, notice=notice)
    write_jpeg(path, sheet, mark_only(marks, COMPOSITE_WITH_TRAINED) if tiles else None)
    return path


def most_changed_face(picture: Enhanced) -> dict[str, Any] | None:
    """Return the face that lost the most similarity; None where none was restored."""
    return min(
        (face for face in picture.faces if face["similarity_after"] is not None),
        key=lambda face: face["similarity_after"] - face["similarity_before"],
        default=None,
    )


def shown_similarity(picture: Enhanced) -> tuple[float | None, float | None]:
    """Return the similarity before and after that says most of a picture; None: not measured.

    Where a person was named, of the face that is most like them, to them; otherwise of the face
    that lost the most, to itself before.
    """
    if picture.subject_in_picture is not None:
        face = max(picture.faces, key=lambda each: each["to_person_before"], default=None)
        return (None, None) if face is None else (face["to_person_before"], face["to_person_after"])
    face = most_changed_face(picture)
    return (None, None) if face is None else (face["similarity_before"], face["similarity_after"])


def similarity_lines(picture: Enhanced) -> tuple[str, ...]:
    """Return `shown_similarity` in words; () where nothing was measured."""
    before, after = shown_similarity(picture)
    if before is None:
        return ()
    if picture.subject_in_picture is not None:
        change = f"{before:.3f}" if after is None else f"{before:.3f} to {after:.3f}"
        return (f"{change} to the person",)
    return (f"{after:.3f} to the face before",)


def shown_sizes(picture: Enhanced) -> tuple[str, str]:
    """Return "W x H" of the input and of the picture."""
    before, after = picture.record["input"]["size"], picture.record["size"]
    return "{} x {}".format(*before), "{} x {}".format(*after)


def write_report(
    out: Path,
    pictures: Sequence[Enhanced],
    refused: Sequence[Refused],
    *,
    identity: str,
    notices: Sequence[str] = (),
) -> Path:
    """Write one HTML page; it links to the files beside it.

    ``identity`` is the network that likeness was measured by, ``notices`` what the backbone and the
    style profile have to say.
    """

    def href(path: Path | None) -> str | None:
        return None if path is None else Path(os.path.relpath(path, out)).as_posix()

    cards = []
    for picture in pictures:
        word, colour = verdict(picture)
        shown = picture.previews
        pairs = [(shown.before, shown.after)]
        if shown.face_before is not None and shown.face_after is not None:
            pairs.append((shown.face_before, shown.face_after))
        cards.append(
            {
                "name": picture.source.name,
                "href": href(picture.path),
                "sheet": href(picture.sheet),
                "pairs": [(href(before), href(after)) for before, after in pairs],
                "sizes": shown_sizes(picture),
                "verdict": word,
                "colour": "#{:02x}{:02x}{:02x}".format(*colour),
                "faces": picture.faces,
                "named": picture.subject_in_picture is not None,
                "lines": [*picture.held_back, *picture.notes],
                "restorers": ", ".join(item["name"] for item in picture.record["restorers"])
                or "none",
            }
        )
    path = out / REPORT
    write_page(
        path, "enhance.html", cards=cards, refused=refused, identity=identity, notices=notices
    )
    return path
