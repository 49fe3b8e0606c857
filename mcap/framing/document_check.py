"""A finished picture against the rule of an ID document, point by point.

It measures what a program can: the file, its size, the head's place, the background, and what the
file says of how it was made. Expression, light, glasses, age and likeness it does not judge.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from mcap.faces.pose import pose
from mcap.framing.crop import dots_per_inch
from mcap.framing.finish import face_to_frame
from mcap.framing.head import crown_to_chin
from mcap.framing.main_face import sure_faces
from mcap.framing.matting import Cutout, cut_out
from mcap.images import provenance
from mcap.images.colour import on_white, to_eight_bits, to_srgb
from mcap.images.open import PhotoSettings
from mcap.images.picture import PictureFile, read_picture
from mcap.style.id_documents import COLOURS, MIDDLE

if TYPE_CHECKING:
    from mcap.contracts import Face, FaceDetector, Masker, UInt8Image
    from mcap.faces.eyes import MeshFinder
    from mcap.style.id_documents import DocumentRule

TILT = 8.0
"""Degrees that a head may be tilted: ISO/IEC 19794-5."""

NEAR = 12.0
"""CIE 1976 colour difference from one of the allowed colours that the background may have. Rules
name colours in words; this is as far as white is from the light grey here."""

EVEN = 6.0
"""CIE 1976 colour difference from its own median that nine tenths of the background keep."""

SEEN = 0.02
"""Of the picture's pixels: less background than this says nothing."""


@dataclass(frozen=True)
class Point:
    """One point of a rule."""

    name: str
    asked: str
    found: str
    kept: bool | None
    """None: it could not be told, or the rule says nothing."""


@dataclass(frozen=True)
class CheckTools:
    """The models that look: ``masker`` finds the whole person, ``mesh`` the chin."""

    detector: FaceDetector
    masker: Masker | None = None
    mesh: MeshFinder | None = None


def check_document(
    path: Path, rule: DocumentRule, tools: CheckTools, photos: PhotoSettings | None = None
) -> list[Point]:
    """Return all points of a rule, kept or not, of the picture in a file.

    Raises `InputRejectedError` where the file is no picture.
    """
    picture = read_picture(path, photos or PhotoSettings())
    image = picture.pixels if picture.alpha is None else on_white(picture.pixels, picture.alpha)
    image = to_srgb(to_eight_bits(image), None if picture.grey else picture.icc)
    points = [*file_points(path, picture, rule), *said_points(picture, rule)]
    return [*points, *face_points(image, rule, tools)]


def file_points(path: Path, picture: PictureFile, rule: DocumentRule) -> Iterator[Point]:
    """Yield the points of the file: format, bytes, pixels, resolution, colour."""
    found = provenance.read(path)
    if rule.format is not None:
        yield Point("format", "JPEG", found.format, found.format == "JPEG")
    least, most = rule.smallest_bytes, rule.largest_bytes
    if least is not None or most is not None:
        size = path.stat().st_size
        asked = between(least, most, " bytes")
        yield Point("bytes", asked, f"{size:,}", (least or 0) <= size <= (most or size))
    width, height = picture.size
    if rule.smallest or rule.largest or rule.medium == "upload":
        low, high = rule.smallest or (0, 0), rule.largest or (width, height)
        kept = low[0] <= width <= high[0] and low[1] <= height <= high[1]
        asked = (
            f"{rule.made[0]} x {rule.made[1]}"
            if rule.smallest == rule.largest and rule.smallest
            else between(
                rule.smallest and "{} x {}".format(*rule.smallest),
                rule.largest and "{} x {}".format(*rule.largest),
            )
            or "any"
        )
        yield Point("pixels", asked, f"{width} x {height}", kept)
    ratio, asked_ratio = width / height, rule.made[0] / rule.made[1]
    if rule.head_range is not None or rule.medium == "print":
        # A pixel more or less is rounding.
        near = abs(ratio / asked_ratio - 1) <= 1.5 / min(width, height)
        yield Point("aspect", f"{asked_ratio:.3f}", f"{ratio:.3f}", near)
    if rule.medium == "print" and rule.size_mm is not None:
        needed = dots_per_inch((width, height), rule.size_mm)
        assert needed is not None  # there is a printed size
        dpi = min(needed)
        asked = f"{rule.dpi} pixels an inch of {rule.size_mm[0]:g} x {rule.size_mm[1]:g} mm"
        yield Point("resolution", asked, f"{dpi:.0f}", dpi >= 0.99 * rule.dpi)
        said = "nothing" if picture.dpi is None else f"{picture.dpi[0]:.0f} pixels an inch"
        same = None if picture.dpi is None else abs(min(picture.dpi) / dpi - 1) <= 0.02
        yield Point("print size in the file", f"{dpi:.0f} pixels an inch", said, same)


def said_points(picture: PictureFile, rule: DocumentRule) -> Iterator[Point]:
    """Yield the point of what the file says of its origin, against what the rule refuses."""
    kind = picture.source_type
    said = provenance.MEANINGS.get(kind or "", "nothing")
    asked = rule.altered or "not verified for this document"
    # That a file says nothing of it is no proof that nothing was done.
    kept = False if rule.altered and kind in provenance.MEANINGS else None
    yield Point("made or altered by software", asked, f"the file says: {said}", kept)


def face_points(image: UInt8Image, rule: DocumentRule, tools: CheckTools) -> Iterator[Point]:
    """Yield the points of the head and what is behind it in uint8[H, W, 3]."""
    faces = tools.detector.detect(image)
    sure = sure_faces(faces)
    yield Point("faces", "1", str(len(sure)), len(sure) == 1)
    face, _, why = face_to_frame(sure, image, 255.0, tools.mesh)
    if face is None:
        if sure:
            yield Point("tilt", f"up to {TILT:g} degrees", why[0], False)
        return
    roll = pose(face.landmarks).roll
    yield Point("tilt", f"up to {TILT:g} degrees", f"{abs(roll):.0f}", abs(roll) <= TILT)
    cutout = cut_out(image, 255.0, face, tools.masker, None)
    yield from framing_points(image, rule, face, cutout)
    yield background_point(rule, cutout)


def framing_points(
    image: UInt8Image, rule: DocumentRule, face: Face, cutout: Cutout
) -> Iterator[Point]:
    """Yield head height, eye line and middle, as the rule gives them: in mm where it does."""
    height, width = image.shape[:2]
    head, top = crown_to_chin(face), cutout.top_of_hair()
    of = rule.size_mm[1] if rule.size_mm is not None else None
    if rule.head_range is not None:
        hair = rule.with_hair and top is not None
        length = (head.chin - top if hair and top is not None else head.height) / height
        name = "head height, with the hair" if hair else "head height"
        asked = fraction_range(rule.head_range, of)
        if rule.icao_head:
            asked += " (ICAO's: no range of this document's own was found)"
        kept = rule.head_range[0] <= length <= rule.head_range[1]
        yield Point(name, asked, in_units(length, of), kept)
        line = (height - head.eyes) / height
        low, high = rule.eye_range
        yield Point("eye line", fraction_range((low, high), of), in_units(line, of),
                    low <= line <= high)  # fmt: skip
    middle = head.center_x / width
    asked = f"{MIDDLE[0]:.2f} to {MIDDLE[1]:.2f} of the width"
    yield Point("middle of the head", asked, f"{middle:.2f}", MIDDLE[0] <= middle <= MIDDLE[1])


def background_point(rule: DocumentRule, cutout: Cutout) -> Point:
    """Return the point of the background: one of the rule's colours, and even."""
    asked = " or ".join(rule.background)
    if not cutout.sure:
        return Point("background", asked, "the person could not be told from it", None)
    away = cv2.erode((cutout.layers.matte < 0.05).astype(np.uint8), np.ones((5, 5), np.uint8))
    behind = away > 0
    if behind.mean() < SEEN:
        return Point("background", asked, "hardly any is seen", None)
    lab = np.asarray(cv2.cvtColor(cutout.image, cv2.COLOR_RGB2LAB), np.float32)[behind]
    median = np.median(lab, axis=0)
    spread = float(np.percentile(np.linalg.norm(lab - median, axis=1), 90))
    colour = "#" + "".join(
        f"{round(255 * float(value)):02x}" for value in np.median(cutout.image[behind], axis=0)
    )
    distance = min(
        float(np.linalg.norm(median - lab_of(COLOURS[name]))) for name in rule.background
    )
    found = f"{colour}, {'even' if spread <= EVEN else 'uneven'}"
    return Point("background", asked, found, distance <= NEAR and spread <= EVEN)


def lab_of(colour: str) -> Any:
    """Return a colour "#rrggbb" as float32[3] in CIE L*a*b*."""
    values = np.array([[[int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]]], np.float32)
    return cv2.cvtColor(values, cv2.COLOR_RGB2LAB)[0, 0]


def between(low: int | str | None, high: int | str | None, unit: str = "") -> str:
    """Return limits in words; "" where there are none."""
    written = [
        f"{word} {value:,}{unit}" if isinstance(value, int) else f"{word} {value}{unit}"
        for word, value in (("at least", low), ("at most", high))
        if value is not None
    ]
    return ", ".join(written)


def in_units(share: float, of: float | None) -> str:
    """Return a share of the height as millimetres ``of`` so many, or as per cent."""
    return f"{100 * share:.0f} %" if of is None else f"{share * of:.1f} mm"


def fraction_range(wanted: tuple[float, float], of: float | None) -> str:
    """Return a range of shares of the height as `in_units` writes them."""
    if of is None:
        return f"{100 * wanted[0]:.0f} to {100 * wanted[1]:.0f} %"
    return f"{wanted[0] * of:.1f} to {wanted[1] * of:.1f} mm"
