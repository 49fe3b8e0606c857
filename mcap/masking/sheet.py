"""The contact sheet of ``mcap mask``: photo, mask and crop in a row, then who was passed over."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from mcap.faces.region import surroundings
from mcap.geometry.ffhq import upright_height
from mcap.results.contact_sheet import BAD, GOOD, WARNING, Tile, contact_sheet

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mcap.contracts import Face, UInt8Image
    from mcap.masking.records import MaskedPhoto, MaskedSet, RefusedPhoto

COLUMNS = 3
TILE = 320  # side in pixels of the place for a picture

SHEET_PHOTOS = 100
"""So many photos on one contact sheet; more of them go on contact-sheet-2.jpg and so on. A JPEG's
side ends at 65,535 pixels, and a browser's patience before that."""

PEOPLE = 6
"""So many of those who were passed over are shown."""


def draw_sheets(tiles: Sequence[Tile], masked: MaskedSet) -> Iterator[tuple[str, UInt8Image]]:
    """Yield the sheets, each with the name of its file.

    ``tiles`` are the photos', three each; those who were passed over follow them.
    """
    tiles = [*tiles, *people_tiles(masked)]
    heading = f"{len(masked.accepted)} of {len(masked.entries)} photos accepted"
    most = COLUMNS * SHEET_PHOTOS
    for page, start in enumerate(range(0, max(len(tiles), 1), most), 1):
        name = "contact-sheet.jpg" if page == 1 else f"contact-sheet-{page}.jpg"
        yield name, contact_sheet(tiles[start : start + most], COLUMNS, TILE, heading=heading)


def accepted_tiles(entry: MaskedPhoto, image: UInt8Image, crop: UInt8Image) -> list[Tile]:
    """Return the row of an accepted photo: itself, with its mask, and its crop."""
    colour = WARNING if entry.notes else GOOD
    verdict = "accepted, mask edited by hand" if entry.edited else "accepted"
    picture = fit_tile(image)
    return [
        Tile(picture, entry.path.name, numbers(entry), colour),
        Tile(shade(picture, fit_tile(entry.full_mask())), verdict, entry.notes, colour),
        Tile(fit_tile(crop), "training crop", (), colour),
    ]


def refused_tiles(entry: RefusedPhoto) -> list[Tile]:
    """Return the row of a refused photo: itself, the face that was judged, and the reason."""
    image = face = None
    if entry.photo is not None:
        picture = entry.photo.image
        image = fit_tile(picture)
        if entry.found is not None:
            face = around_face(picture, entry.found.face)
    return [
        Tile(image, entry.path.name, numbers(entry), BAD),
        # A line of a tile is wrapped once and then cut: what is in brackets gets a line of its own.
        Tile(face, "refused", tuple(re.split(r"; | (?=\()", entry.reason)), BAD),
        Tile(None, "", (), BAD),
    ]


def people_tiles(masked: MaskedSet) -> list[Tile]:
    """Return who was passed over, the largest face of each; whole rows, as the photos have."""
    tiles = []
    undecided = any("undecided" in entry.kinds for entry in masked.refused)
    for person in masked.passed_over[:PEOPLE]:
        photo, found = max(person.faces, key=lambda item: item[1].face.area)
        count = len(person.photos)
        who = "perhaps the subject" if undecided else "passed over"
        title = f"{who}: in {count} photo{'' if count == 1 else 's'}"
        face = around_face(photo.image, found.face, 0.15)
        tiles.append(Tile(face, title, (", ".join(person.photos),)))
    return tiles + [Tile(None, "")] * (-len(tiles) % COLUMNS)


def numbers(entry: MaskedPhoto | RefusedPhoto) -> tuple[str, ...]:
    """Return the lines under a photo: its size and what was measured on its face."""
    photo, found = entry.photo, entry.found
    if photo is None:
        return ()
    size = f"{photo.width} x {photo.height}"
    if found is None:
        things = [
            f"{check.value:.0f} pixels cut out"
            if check.name == "object-resolution"
            else f"blur {check.value:.1f} %"
            for check in entry.checks
            if check.value is not None
        ]
        return (size, ", ".join(things)) if things else (size,)
    height = upright_height(found.face.landmarks)
    pose = found.pose
    second = f"blur {found.blur:.1f} %, light {found.brightness:.2f}"
    for name, value in (
        ("alike", entry.similarity),
        ("eyes", found.eyes),
        ("hidden", found.occluded),
    ):
        if value is not None:
            second += f", {name} {value:.2f}"
    third = f"yaw {pose.yaw:+.0f}, pitch {pose.pitch:+.0f}, roll {pose.roll:+.0f} degrees"
    return f"{size}, face {height:.0f} high", second, third


def shade(picture: UInt8Image, mask: NDArray[np.uint8]) -> UInt8Image:
    """Return a picture uint8[H, W, 3], darkened and tinted where its mask uint8[H, W] is black."""
    weight = mask[..., None].astype(np.float32) / np.float32(255.0)
    shaded = picture * np.float32(0.35) + np.array([13.5, 31.5, 49.5], dtype=np.float32)
    return np.round(picture * weight + shaded * (1 - weight)).clip(0, 255).astype(np.uint8)


def around_face(image: UInt8Image, face: Face, margin: float = 0.6) -> UInt8Image:
    """Return a face with ``margin`` face sizes around it, as large as a tile."""
    return fit_tile(np.ascontiguousarray(surroundings(image, face, margin)[0]))


def fit_tile(image: NDArray[Any]) -> NDArray[Any]:
    """Return a picture uint8[H, W(, 3)] reduced to fit a tile; smaller ones as they are."""
    height, width = image.shape[:2]
    scale = TILE / max(height, width)
    if scale >= 1.0:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    if scale <= 0.5 and min(height, width) > 1:  # exact halves cost a tenth of other fractions
        part = image[: height // 2 * 2, : width // 2 * 2]
        image = cv2.resize(part, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)
