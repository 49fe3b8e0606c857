"""The blur of a face or a thing, whatever its size, its light and its noise."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import cv2
import numpy as np

from mcap.faces.region import MEASURED_FACE, MEASURED_SIDE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mcap.contracts import Float32Array

FINE, COARSE = 1.0, 3.0
"""Scales of the two derivatives of Gaussian, in pixels of the measured frame."""


def blur(grey: Float32Array, where: NDArray[np.bool_] | None = None) -> float:
    """Return the deviation of an equal Gaussian blur, in per cent of the face's height.

    ``grey`` is `mcap.faces.region.upright_grey`'s, float32[MEASURED_SIDE, MEASURED_SIDE]; with
    ``where`` bool of that shape, only edges there count.

    At a step edge blurred by s, a derivative of Gaussian of scale c answers with a peak
    proportional to 1 / sqrt(s^2 + c^2) (Elder and Zucker, IEEE PAMI 20(7), 1998). The answers at
    two scales give s whatever the edge's contrast; we take the median over the strongest edges of
    the face brought to a fixed size. So neither the photo's resolution matters, nor noise, nor how
    dark it is.

    Measured: sharp faces have 0.3 to 1.2 (synthetic ones, 512 pixels) and 0.7 to 1.0 (photographs);
    after a Gaussian blur of 1 % of the height 0.9 to 1.7, of 2 % 1.6 to 2.6, of 3 % 2.3 to 3.7;
    noise (deviation 10 of 255), JPEG at quality 20 and a fifth of the light change it by less than
    0.1; faces reduced to 60 pixels have 0.8 to 1.6.
    """
    # The fine peak may lie beside the coarse one: the largest answer within 2 pixels counts.
    fine = cv2.dilate(gradient_magnitude(grey, FINE), np.ones((5, 5)))
    coarse = gradient_magnitude(grey, COARSE)
    looked_at = coarse if where is None else coarse[where]
    edges = coarse >= max(float(np.percentile(looked_at, 92)), 1e-3)
    if where is not None:
        edges &= where
    if not edges.any():
        return 100.0 * MEASURED_SIDE / MEASURED_FACE  # one grey: no edge is as soft as this
    squared = max(float(np.median(fine[edges] / coarse[edges])) ** 2, 1.0 + 1e-4)
    variance = (COARSE**2 - squared * FINE**2) / (squared - 1.0)
    return 100.0 * math.sqrt(max(variance, 0.0)) / MEASURED_FACE


def gradient_magnitude(grey: Float32Array, scale: float) -> Float32Array:
    """Return the gradient's length, float32[S, S], of a picture blurred by ``scale`` pixels."""
    smooth = cv2.GaussianBlur(grey, (0, 0), scale)
    return np.hypot(
        cv2.Sobel(smooth, cv2.CV_32F, 1, 0, scale=1 / 8),
        cv2.Sobel(smooth, cv2.CV_32F, 0, 1, scale=1 / 8),
    )
