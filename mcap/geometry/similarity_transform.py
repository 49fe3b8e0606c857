"""Similarities and upright cut-outs in numpy and OpenCV: what `mcap.geometry.align` does, for measuring.

Measuring needs no gradient; and without torch and its converter ``mcap mask`` starts within half a
second of work instead of four. Points are (x, y) pixels that count from the corner of the first
pixel, as everywhere in mcap.
"""

from __future__ import annotations

import cv2
import numpy as np


def similarity(points: np.ndarray, template: np.ndarray) -> np.ndarray:
    """float64[2, 3], the similarity that takes ``points`` float[N, 2] closest to ``template``.

    The closed form of `mcap.geometry.align.similarity` (Umeyama, IEEE PAMI 13(4), 1991). Points that all
    coincide have none: ValueError.
    """
    points = np.asarray(points, dtype=np.float64)
    template = np.asarray(template, dtype=np.float64)
    centre, target = points.mean(axis=0), template.mean(axis=0)
    a, b = points - centre, template - target
    spread = float((a * a).sum())
    if not spread > 0:
        raise ValueError("landmarks that all lie in one point cannot be aligned")
    real = float((a * b).sum()) / spread
    imaginary = float((a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum()) / spread
    rotation = np.array([[real, -imaginary], [imaginary, real]])
    return np.concatenate([rotation, (target - rotation @ centre)[:, None]], axis=1)


def cut_upright(
    image: np.ndarray,
    landmarks: np.ndarray,
    template: np.ndarray,
    size: int,
    border: int = cv2.BORDER_CONSTANT,
) -> np.ndarray:
    """A face in an upright frame: uint8[H, W(, 3)], float[5, 2] -> float32[size, size(, 3)].

    As `mcap.geometry.align.align_faces`: where the face is more than twice as large as in the template the
    picture is halved by area averaging as often as needed, then sampled bilinearly. ``border`` is
    OpenCV's name for what lies outside the picture.
    """
    matrix = similarity(landmarks, template)
    zoom = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    factor = 1
    while zoom * factor <= 0.5 and min(image.shape[:2]) >= 2 * factor:
        factor *= 2
    image, origin = _seen(image, matrix, size, factor)
    part = image.astype(np.float32)
    if factor > 1:
        reduced = (part.shape[1] // factor, part.shape[0] // factor)
        part = part[: reduced[1] * factor, : reduced[0] * factor]
        part = cv2.resize(part, reduced, interpolation=cv2.INTER_AREA)
    linear = matrix[:, :2] * factor
    shift = matrix[:, :2] @ origin + matrix[:, 2]
    shift = linear @ (0.5, 0.5) + shift - 0.5  # OpenCV counts from the centre of the first pixel
    return cv2.warpAffine(
        part,
        np.concatenate([linear, shift[:, None]], axis=1),
        (size, size),
        flags=cv2.INTER_LINEAR,
        borderMode=border,
    )


def _seen(
    image: np.ndarray, matrix: np.ndarray, size: int, factor: int
) -> tuple[np.ndarray, np.ndarray]:
    """The part of the picture that the frame shows, as a view, and its corner (x, y)."""
    height, width = image.shape[:2]
    corners = np.array([[0, 0], [size, 0], [0, size], [size, size]], dtype=np.float64)
    places = (corners - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T
    margin = 2 * factor
    low = np.clip(np.floor(places.min(axis=0)) - margin, 0, (width - factor, height - factor))
    high = np.clip(np.ceil(places.max(axis=0)) + margin, low + factor, (width, height))
    (x0, y0), (x1, y1) = low.astype(int), high.astype(int)
    return image[y0:y1, x0:x1], np.array([x0, y0], dtype=np.float64)
