"""Cut a person out of a portrait and put her in front of something else.

Shapes: pictures float32[H, W, 3] in [0, 1], RGB; mattes float32[H, W] in [0, 1], 1 = person.
"""

from __future__ import annotations

import cv2
import numpy as np
from segmenter import Segmenter


def _mean(x: np.ndarray, radius: int) -> np.ndarray:
    side = 2 * radius + 1
    return cv2.blur(x, (side, side), borderType=cv2.BORDER_REFLECT)


def guided_filter(guide: np.ndarray, x: np.ndarray, radius: int, eps: float) -> np.ndarray:
    """Smooth `x` [H, W] so that its edges lie on the edges of the colour picture `guide`.

    He, Sun, Tang: Guided Image Filtering, equations 19 to 21. `radius` in pixels; `eps` in
    squared units of the guide.
    """
    mean_guide, mean_x = _mean(guide, radius), _mean(x, radius)
    cross = _mean(guide * x[..., None], radius) - mean_guide * mean_x[..., None]
    sigma = np.empty((*x.shape, 3, 3), np.float32)
    for i in range(3):
        for j in range(i, 3):
            product = _mean(guide[..., i] * guide[..., j], radius)
            sigma[..., i, j] = product - mean_guide[..., i] * mean_guide[..., j]
            sigma[..., j, i] = sigma[..., i, j]
        sigma[..., i, i] += eps
    slope = np.linalg.solve(sigma, cross[..., None])[..., 0]
    offset = mean_x - (slope * mean_guide).sum(-1)
    return (_mean(slope, radius) * guide).sum(-1) + _mean(offset, radius)


def person_matte(image: np.ndarray, segmenter: Segmenter, tighten: float = 0.12) -> np.ndarray:
    """The person's matte at the picture's own size.

    The segmenter's 256-pixel answer is right about where the person is and wrong about hair, so
    it is made uncertain in a band around its edge and the guided filter decides there.
    `tighten` (0 to 0.5) cuts that much off the lower end, where old background would shine
    through.
    """
    height, width = image.shape[:2]
    small = segmenter((image * 255).round().astype(np.uint8))
    # What the segmenter half believes in (chairs, leaves) stays behind.
    small = np.clip((small - 0.45) / 0.45, 0, 1)
    # Only the largest piece is the person; scraps are other things in the background.
    count, labels, stats, _ = cv2.connectedComponentsWithStats((small > 0.5).astype(np.uint8))
    largest = 1 + stats[1:, cv2.CC_STAT_AREA].argmax() if count > 1 else 0
    near = cv2.dilate((labels == largest).astype(np.uint8), np.ones((9, 9), np.uint8))
    coarse = cv2.resize(small * near, (width, height), interpolation=cv2.INTER_CUBIC)
    coarse = cv2.GaussianBlur(np.clip(coarse, 0, 1), (0, 0), height / 250)
    fine = guided_filter(image, coarse, radius=height // 50, eps=2e-4)
    finer = guided_filter(image, np.clip(fine, 0, 1), radius=height // 120, eps=5e-5)
    matte = np.clip((finer - tighten) / (0.94 - tighten), 0, 1)
    # Inside, the guided filter would let bright clothes and eyes shine through.
    inside = cv2.erode((coarse > 0.9).astype(np.float32), np.ones((3, 3)), iterations=height // 90)
    inside = cv2.GaussianBlur(inside, (0, 0), height / 250)
    # Outside, likewise far from the person.
    outside = cv2.dilate(
        (coarse > 0.1).astype(np.float32), np.ones((3, 3)), iterations=height // 60
    )
    outside = cv2.GaussianBlur(outside, (0, 0), height / 250)
    return np.maximum(matte * outside, inside)


def foreground_colour(image: np.ndarray, matte: np.ndarray) -> np.ndarray:
    """The person's own colour, without the old background that is mixed into half-seen hair.

    Where the matte is not sure, the colour is taken from sure pixels nearby, widening the
    neighbourhood until there are some; the fine light and dark of the hair is kept.
    """
    sure = (matte > 0.97).astype(np.float32)
    colour, known = image * sure[..., None], sure
    for sigma in (3, 8, 20, 50):
        weight = cv2.GaussianBlur(sure, (0, 0), sigma)
        spread = cv2.GaussianBlur(image * sure[..., None], (0, 0), sigma)
        spread = spread / np.maximum(weight, 1e-4)[..., None]
        use = ((1 - known) * np.clip(weight * 20, 0, 1))[..., None]
        colour, known = colour + use * spread, known + use[..., 0]
    mixed = matte[..., None] ** 2  # more of the picture itself the surer the matte is
    return np.clip(mixed * image + (1 - mixed) * colour, 0, 1)


def composite(
    image: np.ndarray, matte: np.ndarray, background: np.ndarray, wrap: float = 0.0
) -> np.ndarray:
    """`image` over `background`; `wrap` (0 to 0.5) of the background's blurred light spills over
    the edge, as a lens does it in front of something bright."""
    person = foreground_colour(image, matte)
    if wrap:
        edge = cv2.GaussianBlur(1 - matte, (0, 0), 14)[..., None] * wrap
        spill = cv2.GaussianBlur(background, (0, 0), 30)
        person = 1 - (1 - person) * (1 - edge * spill)
    alpha = matte[..., None]
    return np.clip(alpha * person + (1 - alpha) * background, 0, 1)
