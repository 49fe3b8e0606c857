"""Pixels of any depth made fewer or more: averaged where they become fewer, else Lanczos.

Pictures are [H, W, 3 or 4], uint8, uint16 or float32 in [0, 1], and keep their type.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mcap.framing.head import Head
    from mcap.style.profile import StyleProfile

STRIP = 64  # rows of an enormous picture that are in memory twice


def white_level(image: NDArray[Any]) -> float:
    """Return the value that stands for white; ValueError for what is no picture."""
    if image.ndim != 3 or image.shape[2] not in (3, 4) or 0 in image.shape:
        raise ValueError(f"a picture is [H, W, 3] or [H, W, 4], not {list(image.shape)}")
    whites = {"uint8": 255.0, "uint16": 65535.0, "float32": 1.0}
    if image.dtype.name not in whites:
        raise ValueError(f"a picture is uint8, uint16 or float32, not {image.dtype}")
    return whites[image.dtype.name]


def print_size(profile: StyleProfile, dpi: int) -> tuple[int, int] | None:
    """Return (width, height) in pixels of the printed size; None where the profile has none."""
    if profile.size_mm is None:
        return None
    width, height = (max(1, round(side / 25.4 * dpi)) for side in profile.size_mm)
    return width, height


def spare_reduction(
    size: tuple[int, int], head: Head | None, profile: StyleProfile, wanted: tuple[int, int] | None
) -> int:
    """Return by how many a picture of ``size`` can be divided before anything else.

    So that two pixels or more are left for each of the ``wanted`` (width, height).
    """
    if wanted is None:
        return 1
    height = min(size[1], size[0] / (wanted[0] / wanted[1]))
    if head is not None and profile.framing.head_height:
        height = head.height / max(profile.framing.head_height[1], 0.05)
    return max(1, int(height / (2 * wanted[1])))


def divide(image: NDArray[Any], by: int) -> NDArray[Any]:
    """Return averages of ``by`` x ``by`` pixels; what is left over at the edges is dropped."""
    height, width = image.shape[0] // by, image.shape[1] // by
    result = np.empty((height, width, image.shape[2]), image.dtype)
    for start in range(0, height, STRIP):
        rows = min(STRIP, height - start)
        part = np.ascontiguousarray(image[start * by : (start + rows) * by, : width * by])
        result[start : start + rows] = cv2.resize(part, (width, rows), interpolation=cv2.INTER_AREA)
    return result


def shrink(image: NDArray[Any], scale: float) -> NDArray[Any]:
    """Return the picture at ``scale`` of its size, where that is below 1."""
    if scale >= 1.0:
        return image
    by = int(1 / scale)
    if by > 1:
        image, scale = divide(image, by), scale * by
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def resize(image: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Return the picture at exactly ``size`` = (width, height)."""
    if image.shape[1::-1] == size:
        return image
    how = cv2.INTER_AREA if image.shape[0] >= size[1] else cv2.INTER_LANCZOS4
    result: NDArray[Any] = cv2.resize(image, size, interpolation=how)
    return np.clip(result, 0.0, 1.0) if result.dtype == np.float32 else result
