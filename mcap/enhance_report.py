"""What lies beside enhanced pictures: previews, the contact sheet before and after, report.html."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from PIL import Image

from mcap.contact_sheet import BAD, GOOD, NEUTRAL, WARNING, Tile, contact_sheet
from mcap.jpeg import write_jpeg
from mcap.page import write_page

if TYPE_CHECKING:
    from mcap.contracts import UInt8Image
    from mcap.enhance import Enhanced, Framing, Refused

CONTACT_SHEET = "contact-sheet.jpg"
REPORT = "report.html"
PREVIEWS = "previews"

LONGEST = 1024
"""Longer side in pixels of a preview."""

SHEET_PICTURES = 32


@dataclass(frozen=True)
class Previews:
    """Small JPEG files of one picture; the faces are None where none was found."""

    before: Path
    after: Path
    face_before: Path | None = None
    face_after: Path | None = None

    @classmethod
    def named(cls, folder: Path, stem: str) -> Previews:
        parts = ("before", "after", "face-before", "face-after")
        return cls(*(folder / PREVIEWS / f"{stem}-{part}.jpg" for part in parts))

    def found(self) -> Previews | None:
        """Those that are there; None where the pictures themselves are not."""
        if not (self.before.is_file() and self.after.is_file()):
            return None
        faces = self.face_before, self.face_after
        if not all(path is not None and path.is_file() for path in faces):
            faces = None, None
        return Previews(self.before, self.after, *faces)

    def write(
        self,
        before: UInt8Image,
        after: UInt8Image,
        faces: tuple[UInt8Image, UInt8Image] | None,
    ) -> Previews:
        """Pictures uint8[H, W, 3] sRGB; the face before is shown as large as the one after."""
        pictures = {self.before: before, self.after: after}
        if faces is not None:
            pictures[self.face_after] = reduced(faces[1], LONGEST // 2)
            size = pictures[self.face_after].shape[1::-1]
            pictures[self.face_before] = cv2.resize(faces[0], size, interpolation=cv2.INTER_CUBIC)
        else:
            for path in (self.face_before, self.face_after):
                path.unlink(missing_ok=True)  # of an earlier picture of that name
        for path, image in pictures.items():
            write_jpeg(path, reduced(image))
        return self if faces is not None else Previews(self.before, self.after)


def reduced(pixels: np.ndarray, longest: int = LONGEST) -> np.ndarray:
    """[H, W(, 3)] of at most so many pixels on its longer side."""
    zoom = longest / max(pixels.shape[:2])
    if zoom >= 1:
        return pixels
    size = tuple(max(1, round(side * zoom)) for side in pixels.shape[1::-1])
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


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
    framing: Framing | None = None,
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
