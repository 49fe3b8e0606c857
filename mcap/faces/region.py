"""The part of a picture around a face, and the face cut out of it upright."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import cv2
import numpy as np

from mcap.faces.oval import CENTRE, TEMPLATE, face_oval
from mcap.geometry.similarity_transform import Similarity, cut_upright

if TYPE_CHECKING:
    from mcap.contracts import Face, Float32Array, UInt8Image

BROWS_TO_CHIN = np.array([[0.31, 0.36], [0.69, 0.36], [0.50, 0.57], [0.345, 0.775], [0.655, 0.775]])
"""Where `upright_grey` puts the landmarks, as fractions of its side: float64[5, 2]."""

MEASURED_SIDE = 128
"""Side in pixels of the frame in which a face's blur and light are measured."""

MEASURED_FACE = 115.5
"""Pixels that YuNet's box of an upright face is high in that frame, on average."""


def around(face: Face, shape: tuple[int, ...], margin: float) -> tuple[int, int, int, int]:
    """Return whole pixels around a face in a picture of ``shape`` (H, W): x0, y0, x1, y1.

    ``margin`` is in face sizes on each side. What reaches outside the picture is left off; at least
    one pixel is not.
    """
    height, width = shape[:2]
    room = margin * max(face.width, face.height)
    x0 = min(max(math.floor(face.box[0] - room), 0), width - 1)
    y0 = min(max(math.floor(face.box[1] - room), 0), height - 1)
    x1 = max(min(math.ceil(face.box[2] + room), width), x0 + 1)
    y1 = max(min(math.ceil(face.box[3] + room), height), y0 + 1)
    return x0, y0, x1, y1


def surroundings(image: UInt8Image, face: Face, margin: float) -> tuple[UInt8Image, Float32Array]:
    """Return the part of a picture that `around` names, as a view, and its corner (x, y)."""
    x0, y0, x1, y1 = around(face, image.shape, margin)
    return image[y0:y1, x0:x1], np.array([x0, y0], dtype=np.float32)


RINGS = 16
"""Rings of equal area in which `share_outside` looks at a face, each in 36 directions."""


def share_outside(face: Face, shape: tuple[int, ...]) -> float:
    """Return the share of a face's oval that lies beyond the edge of a picture of ``shape`` (H, W).

    From 0 to 1, by the landmarks, as far as the detector has put them where they would be.
    """
    to_unit = Similarity.estimate(face.landmarks, TEMPLATE)
    spokes = face_oval(to_unit.apply(face.landmarks)) - CENTRE
    sectors = (spokes**2).sum(axis=1)  # twice a sector's area, but for one factor
    radii = np.sqrt((np.arange(RINGS) + 0.5) / RINGS)[:, None, None]
    points = to_unit.apply_inverse((CENTRE + radii * spokes).reshape(-1, 2))
    beyond = ((points < 0) | (points > (shape[1], shape[0]))).any(axis=1).reshape(RINGS, -1)
    return float((beyond * sectors).sum() / (RINGS * sectors.sum()))


def upright_grey(image: UInt8Image, face: Face, side: int = MEASURED_SIDE) -> Float32Array:
    """Return the face from brows to chin, upright: float32[side, side], luma from 0 to 255."""
    cut, offset = surroundings(image, face, 0.5)
    grey = cv2.cvtColor(np.ascontiguousarray(cut), cv2.COLOR_RGB2GRAY)
    # Repeating the edge pixels makes no edge where the picture ends within the frame.
    template = BROWS_TO_CHIN * side
    return cut_upright(grey, face.landmarks - offset, template, side, border=cv2.BORDER_REPLICATE)
