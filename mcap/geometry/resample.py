"""A picture seen through a similarity: averaged where it becomes smaller, cubic where larger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from mcap.geometry.similarity_transform import Similarity, clip

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mcap.geometry.similarity_transform import FrameSize


def resample(
    image: NDArray[Any], to_frame: Similarity, size: FrameSize, border: int = cv2.BORDER_CONSTANT
) -> NDArray[Any]:
    """Return what a frame of ``size`` shows, square or (width, height): uint8[H, W(, 3)] -> the
    same of the frame's size.

    Pictures larger than the frame shows them are reduced by area averaging first; the rotation and
    the remaining enlargement are cubic. ``border`` is OpenCV's name for what lies outside.
    """
    # Only the part of a large photo that the frame can show, plus what a mirror image repeats.
    box = to_frame.footprint(size, margin=8)
    inside = clip(box, (image.shape[1], image.shape[0]), least=1)
    if border == cv2.BORDER_CONSTANT or inside == box:
        x0, y0, x1, y1 = inside
        image, to_frame = image[y0:y1, x0:x1], to_frame.shifted((x0, y0))
    image, to_frame = to_frame.reduced(image)
    whole = (size, size) if isinstance(size, int) else size
    return to_frame.warp(image, whole, interpolation=cv2.INTER_CUBIC, border=border)


def mirrored(places: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Return places along an axis that goes on as its own mirror image beyond 0 and ``length``.

    ... 2, 1, 0, 1, 2, ..., length - 1, length - 2, ...: the edge itself is not repeated.
    """
    period = max(2 * length - 2, 1)
    places = places % period
    return np.minimum(places, period - places) if length > 1 else np.zeros_like(places)
