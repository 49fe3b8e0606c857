"""What shows enhanced pictures before and after: the contact sheet and report.html."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from mcap.images.jpeg import write_jpeg
from mcap.results.contact_sheet import BAD, GOOD, NEUTRAL, WARNING, Tile, contact_sheet
from mcap.results.html import write_page
from mcap.results.names import CONTACT_SHEET, REPORT

if TYPE_CHECKING:
    from mcap.contracts import UInt8Image
    from mcap.enhancement.events import Enhanced, FinishOptions, Refused

SHEET_PICTURES = 32


def write_contact_sheet(out: Path, pictures: Sequence[Enhanced]) -> Path:
    """Before, after, and the largest face of both, a picture a row."""
    tiles = []
    for picture in pictures[:SHEET_PICTURES]:
        word, colour = verdict(picture)
        size = "{} x {}".format(*picture.record["input"]["size"])
        shown = picture.previews
        tiles += [
            Tile(_read(shown.before), f"{picture.source.name}: before", (size,), NEUTRAL),
            Tile(
                _read(shown.after),
                "after",
                ("{} x {}".format(*picture.record["size"]), *_similarity(picture), word),
                colour,
            ),
            Tile(_read(shown.face_before), "its face before", (), NEUTRAL),
            Tile(_read(shown.face_after), "after", (), colour),
        ]
    path = out / CONTACT_SHEET
    heading = "Enhanced: before and after" if tiles else "Nothing was enhanced"
    write_jpeg(path, contact_sheet(tiles, 4, 320, heading=heading))
    return path


def verdict(picture: Enhanced) -> tuple[str, tuple[int, int, int]]:
    """What became of the faces of a picture, in a word and a colour."""
    if picture.losses:
        stayed = all(stage["weight"] == 0 for face in picture.faces for stage in face["stages"])
        return (
            ("the person was not kept: face left as it was", BAD)
            if stayed
            else (
                "restored less, to keep the person",
                WARNING,
            )
        )
    if not picture.faces:
        return "no face found", NEUTRAL
    if not any(face["stages"] for face in picture.faces):
        return "not restored", NEUTRAL
    if any(face["reason"] for face in picture.faces):
        return "a face was left as it was", WARNING
    return "the person is kept", GOOD


def _similarity(picture: Enhanced) -> tuple[str, ...]:
    faces = [face for face in picture.faces if face["similarity_after"] is not None]
    if not faces:
        return ()
    face = min(faces, key=lambda face: face["similarity_after"] - face["similarity_before"])
    whom = "to the person" if face["compared_with"] == "person" else "to the face before"
    if face["compared_with"] == "person":
        told = f"{face['similarity_before']:.3f} to {face['similarity_after']:.3f} {whom}"
    else:
        told = f"{face['similarity_after']:.3f} {whom}"
    return (told,)


def write_report(
    out: Path,
    pictures: Sequence[Enhanced],
    refused: Sequence[Refused],
    *,
    identity: str,
    framing: FinishOptions | None = None,
) -> Path:
    """One HTML page; it links to the files beside it."""
    path = out / REPORT
    write_page(
        path,
        "enhance.html",
        cards=[_card(picture, out) for picture in pictures],
        refused=refused,
        identity=identity,
        notice=framing.profile.notice if framing else "",
    )
    return path


def _card(picture: Enhanced, out: Path) -> dict[str, Any]:
    word, colour = verdict(picture)
    shown = picture.previews

    def href(path: Path | None) -> str | None:
        return None if path is None else Path(os.path.relpath(path, out)).as_posix()

    return {
        "name": picture.source.name,
        "href": href(picture.path),
        "sheet": href(picture.sheet),
        "pairs": [
            (href(before), href(after))
            for before, after in (
                (shown.before, shown.after),
                (shown.face_before, shown.face_after),
            )
            if before is not None
        ],
        "sizes": (
            "{} x {}".format(*picture.record["input"]["size"]),
            "{} x {}".format(*picture.record["size"]),
        ),
        "verdict": word,
        "colour": "#{:02x}{:02x}{:02x}".format(*colour),
        "faces": picture.faces,
        "lines": [*picture.losses, *picture.notes],
        "restorers": ", ".join(item["name"] for item in picture.record["restorers"]) or "none",
    }


def _read(path: Path | None) -> UInt8Image | None:
    if path is None:
        return None
    with Image.open(path) as file:
        return np.asarray(file.convert("RGB"))
