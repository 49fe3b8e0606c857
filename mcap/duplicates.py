"""Photos that show nearly the same: saved again, made smaller, brightened, mirrored.

Two such photos teach what one does. They are compared as thumbnails, so a tight crop of another
photo is not found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from mcap.contracts import Float32Array, UInt8Image

SIDE = 32


@dataclass(frozen=True)
class Near:
    """Which photo an other one nearly is."""

    index: int
    correlation: float
    mirrored: bool


def thumbnail(image: UInt8Image) -> Float32Array:
    """float32[32 * 32] grey, mean 0 and length 1 (0 for a picture of one colour)."""
    small = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32).ravel()
    grey -= grey.mean()
    return grey / max(float(np.linalg.norm(grey)), 1e-6)


def near_duplicates(thumbnails: Sequence[Float32Array], threshold: float) -> dict[int, Near]:
    """Number of a photo -> the earlier photo that it nearly is, the most alike.

    The measure is the correlation of the thumbnails, or of one and the other's mirror image.
    Measured on 330 portraits in one framing: to the most similar stranger at most 0.90; saved at
    JPEG quality 40, halved, warmed or at half the light 0.999, at twice the light 0.96 to 1,
    turned by two degrees 0.96 to 0.98, cropped by 3 % on each side 0.83 to 0.92.
    """
    if len(thumbnails) < 2:
        return {}
    all_of_them = np.stack(list(thumbnails))
    turned = all_of_them.reshape(-1, SIDE, SIDE)[:, :, ::-1].reshape(len(all_of_them), -1)
    found: dict[int, Near] = {}
    for later in range(1, len(all_of_them)):
        plain = all_of_them[:later] @ all_of_them[later]
        mirrored = turned[:later] @ all_of_them[later]
        best = np.maximum(plain, mirrored)
        index = int(np.argmax(best))
        if best[index] >= threshold:
            found[later] = Near(index, float(best[index]), bool(mirrored[index] > plain[index]))
    return found
