"""The colours of a thing in photos, and how much of them another picture holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from mcap.contracts import Float32Array, UInt8Image

BINS = (8, 16, 16)
"""Of lightness, of green to red and of blue to yellow (CIELAB)."""

RANGES = ((0.0, 100.0), (-80.0, 80.0), (-80.0, 80.0))

SOFTNESS = 0.8
"""Deviation in bins by which a histogram is blurred: neighbouring colours count in part."""


@dataclass(frozen=True, eq=False)
class Palette:
    """The colours of a thing: all that is known of it without a network, nothing of its shape."""

    histogram: Float32Array
    """float32[8, 16, 16], sum 1: the thing's colours, the mean over its photos."""
    share: float
    """Of a training crop, that the thing covers, above 0 and at most 1."""

    @classmethod
    def of(cls, images: Sequence[UInt8Image], masks: Sequence[Float32Array]) -> Palette:
        """Return the palette of things in pictures uint8[H, W, 3] under masks float[H, W]."""
        histograms = [
            colour_histogram(image, mask) for image, mask in zip(images, masks, strict=True)
        ]
        share = float(np.mean([mask.mean() for mask in masks]))
        mean = np.mean(histograms, axis=0)
        return cls(np.asarray(mean, dtype=np.float32), max(share, 1e-6))

    def match(self, image: UInt8Image) -> float:
        """Return how much of the thing's colours a picture holds, 0 to 1.

        The intersection (Swain and Ballard, IJCV 7(1), 1991) of the picture's histogram with the
        thing's, taken as large as it is in the photos: 1 where the picture holds each of its
        colours over at least the area that the thing has there.
        """
        wanted = self.share * self.histogram
        whole = colour_histogram(image, np.ones(image.shape[:2], dtype=np.float32))
        return float(np.minimum(wanted, whole).sum() / wanted.sum())


def colour_histogram(image: UInt8Image, weights: Float32Array) -> Float32Array:
    """Return the weighted histogram of uint8[H, W, 3] RGB in CIELAB: float32[8, 16, 16], sum 1."""
    from scipy.ndimage import gaussian_filter

    lab = cv2.cvtColor(image.astype(np.float32) / np.float32(255.0), cv2.COLOR_RGB2LAB)
    low, high = np.array(RANGES).T
    points = np.clip(lab.reshape(-1, 3), low, high - 1e-3)
    counts, _ = np.histogramdd(points, BINS, RANGES, weights=weights.ravel().astype(np.float64))
    soft = gaussian_filter(counts, SOFTNESS, mode="nearest")
    return np.asarray(soft / max(float(soft.sum()), 1e-12), dtype=np.float32)
