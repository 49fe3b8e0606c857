"""Take a face that an image restorer has changed back to what it was, only larger.

An image restorer works on the whole picture and knows no faces; where it makes another person of
one, that face alone is taken back, as much of it as the identity guard asks for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from mcap.enhancement.face_patch import SURROUNDINGS
from mcap.enhancement.face_restoration import Change
from mcap.faces.region import around

if TYPE_CHECKING:
    from mcap.contracts import Face, Float32Array


def rollback(
    before: np.ndarray, restored: np.ndarray, face: Face, after: Face, scale: int
) -> Change:
    """Return the change of ``restored`` [sH, sW, 3] that brings back a face of ``before`` [H, W].

    ``face`` and ``after`` are the same face in pixels of the one and of the other; both pictures
    are of one type. What comes back is plainly enlarged (bicubic).
    """
    x0, y0, x1, y1 = around(face, before.shape, SURROUNDINGS)
    plain = before[y0:y1, x0:x1]
    if scale != 1:
        size = ((x1 - x0) * scale, (y1 - y0) * scale)
        plain = cv2.resize(plain, size, interpolation=cv2.INTER_CUBIC)
    box = (x0 * scale, y0 * scale, x1 * scale, y1 * scale)
    made = restored[box[1] : box[3], box[0] : box[2]]
    white = np.float32(1.0 if made.dtype == np.float32 else np.iinfo(made.dtype).max)
    # Not the masker's mask: the recogniser looks beyond the face's outline as well.
    reach = max(1.0, SURROUNDINGS / 2 * max(after.width, after.height))
    down = edge_ramp(box[1], box[3], restored.shape[0], reach)
    across = edge_ramp(box[0], box[2], restored.shape[1], reach)

    def rows(start: int, stop: int) -> Float32Array:
        change = plain[start:stop].astype(np.float32) - made[start:stop]
        return change * (down[start:stop, None] * across / white)[..., None]

    return Change(box, rows)


def edge_ramp(low: int, high: int, length: int, reach: float) -> Float32Array:
    """Return float32[high - low], 1 but for the ends where a picture of ``length`` pixels goes on.

    There it falls linearly to 0 over ``reach`` pixels.
    """
    place = np.arange(high - low, dtype=np.float32) + 0.5
    ramp = np.ones_like(place)
    if low > 0:
        ramp = np.minimum(ramp, place / reach)
    if high < length:
        ramp = np.minimum(ramp, place[::-1] / reach)
    return ramp
