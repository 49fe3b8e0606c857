"""How near an enlarged picture is to the original: PSNR and GMSD. Pictures are in [0, 1]."""

from __future__ import annotations

import cv2
import numpy as np


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of two pictures of one shape."""
    return float(-10 * np.log10(((a.astype(np.float64) - b) ** 2).mean()))


def gmsd(a: np.ndarray, b: np.ndarray) -> float:
    """Gradient magnitude similarity deviation, 0 for equal pictures (float32[H, W, 3] RGB).

    Xue, Zhang, Mou, Bovik, "Gradient Magnitude Similarity Deviation: A Highly Efficient Perceptual
    Image Quality Index", IEEE TIP 2014, equations 4 to 7: luma at half the side, Prewitt gradients,
    c = 0.0026 for pictures in [0, 1].
    """
    similarity = gradient_similarity(a, b)
    return float(similarity.std())


def gradient_similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Where the edges agree: [H / 2, W / 2] in (0, 1]."""
    steps = []
    for image in (a, b):
        grey = cv2.cvtColor(np.ascontiguousarray(image, np.float32), cv2.COLOR_RGB2GRAY)
        grey = cv2.resize(grey, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        across = np.array([[1, 0, -1]] * 3, np.float32) / 3
        x = cv2.filter2D(grey, -1, across, borderType=cv2.BORDER_REPLICATE)
        y = cv2.filter2D(grey, -1, across.T.copy(), borderType=cv2.BORDER_REPLICATE)
        steps.append(np.hypot(x, y))
    c = 0.0026
    return (2 * steps[0] * steps[1] + c) / (steps[0] ** 2 + steps[1] ** 2 + c)
