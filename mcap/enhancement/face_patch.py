"""The part of a picture around a face, as networks are shown it: in eight bits of sRGB.

H, W are pixels of a picture [H, W, 3] RGB of any depth, whose colour profile is ``icc`` (None:
sRGB); faces are in its pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from mcap.enhancement.face_restoration import Change
from mcap.faces.region import around
from mcap.images.colour import to_eight_bits, to_srgb

if TYPE_CHECKING:
    from mcap.contracts import Face, UInt8Image

SURROUNDINGS = 0.35
"""Margin around a face to recognise it by, in face sizes on each side: the recognisers' templates
reach a little over the detector's box."""

LARGE_FACE = 512
"""Pixels of height at which much larger faces are shown to the networks: theirs have 112."""


def view(
    picture: np.ndarray, face: Face, icc: bytes | None, room: float = SURROUNDINGS
) -> tuple[UInt8Image, Face]:
    """Return the part of a picture around a face, ``room`` face sizes on each side, and the face
    in its pixels."""
    x0, y0, x1, y1 = around(face, picture.shape, room)
    return for_networks(picture[y0:y1, x0:x1], face.moved(-x0, -y0), icc)


def changed_view(
    picture: np.ndarray, change: Change, weight: float, face: Face, icc: bytes | None
) -> tuple[UInt8Image, Face]:
    """Return `view` with ``weight`` times a change in it; the picture stays as it is."""
    x0, y0, x1, y1 = around(face, picture.shape, SURROUNDINGS)
    part = picture[y0:y1, x0:x1].copy()
    a0, b0, a1, b1 = change.box
    left, top, right, bottom = max(x0, a0), max(y0, b0), min(x1, a1), min(y1, b1)
    if left < right and top < bottom:
        new = change.region(picture, weight)
        part[top - y0 : bottom - y0, left - x0 : right - x0] = new[
            top - b0 : bottom - b0, left - a0 : right - a0
        ]
    return for_networks(part, face.moved(-x0, -y0), icc)


def for_networks(part: np.ndarray, face: Face, icc: bytes | None) -> tuple[UInt8Image, Face]:
    """Return a part in uint8 sRGB, a face much larger than `LARGE_FACE` averaged down to it."""
    zoom = LARGE_FACE / max(face.width, face.height)
    if zoom < 0.75:
        width, height = (max(1, round(side * zoom)) for side in part.shape[1::-1])
        zoom = width / part.shape[1]
        part = cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA)
        face = face.moved(zoom=zoom)
    return np.ascontiguousarray(to_srgb(to_eight_bits(part), icc)), face
