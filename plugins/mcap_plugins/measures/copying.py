"""Likeness that is earned by repeating a photo: the same face in the same pose, as pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from mcap.geometry.resample import resample
from mcap.geometry.similarity_transform import Similarity

if TYPE_CHECKING:
    from mcap.contracts import Face, Float32Array, MetricInput, UInt8Image

SIDE = 32
ROUND_THE_FACE = 1.6
"""Side of the square that is compared, in heights of the face's box."""


def copying(given: MetricInput) -> list[float | None]:
    """Return each picture's correlation, -1 to 1, with the photo that it is nearest to.

    The faces are brought to one size and place and neither turned nor aligned, so a head that is
    held otherwise does not correlate; light and contrast do not count.
    """
    photos = np.stack([described(photo.image, photo.faces[0]) for photo in given.photos])
    return [
        None if one.face is None else float((photos @ described(one.image, one.face)).max())
        for one in given.pictures
    ]


def described(image: UInt8Image, face: Face) -> Float32Array:
    """Return lightness around a face: float32[SIDE * SIDE], mean 0, unit length."""
    zoom = SIDE / (ROUND_THE_FACE * max(face.height, 1.0))
    x, y = (face.box[0] + face.box[2]) / 2, (face.box[1] + face.box[3]) / 2
    frame = Similarity.scaling(zoom, SIDE / 2 - zoom * x, SIDE / 2 - zoom * y)
    cut = resample(image, frame, SIDE, cv2.BORDER_REPLICATE)
    light = cv2.cvtColor(cut, cv2.COLOR_RGB2LAB)[..., 0].astype(np.float32).ravel()
    light -= light.mean()
    return light / max(float(np.linalg.norm(light)), 1e-6)
