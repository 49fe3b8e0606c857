"""A person apart from what is behind them: the soft edge, and the two colours that are mixed in it.

H x W pixels of one picture; colours are float32[H, W, 3] in [0, 1], mattes float32[H, W] in [0, 1]
with 1 on the person. A pixel of the edge shows ``matte * person + (1 - matte) * background``; on
another background the old one's colour would stay in it as a halo, so both are estimated first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from mcap.contracts import Float32Array

_TINY = 1e-5


@dataclass(frozen=True)
class Layers:
    """A picture taken apart. ``person`` and ``behind`` are smooth estimates, defined everywhere.

    The person's own colour of a pixel is `pure`.
    """

    matte: Float32Array  # [H, W]
    person: Float32Array  # [H, W, 3]
    behind: Float32Array  # [H, W, 3]


def estimate_foreground(image: Float32Array, matte: Float32Array, face_height: float) -> Layers:
    """``image`` float32[H, W, 3] and a segmenter's ``matte`` float32[H, W] -> its layers.

    ``face_height`` in pixels sets how wide the edge may be. The matte is sharpened where the
    colours of person and background differ enough to tell how much of each a pixel shows.
    """
    coarse, fine = (max(1, round(share * face_height)) for share in (0.25, 0.02))
    layers = _layers(image, matte, coarse, fine)
    sharper = _by_colour(image, layers, max(2, round(0.03 * face_height)))
    return _layers(image, sharper, coarse, fine)


def pure(image: Float32Array, matte: Float32Array, layers: Layers) -> Float32Array:
    """The person's own colour in each pixel, without the background that shines through.

    Forte, "Approximate Fast Foreground Colour Estimation" (ICIP 2021): the smooth estimate
    plus the part of the pixel's deviation from the mixture that is the person's; where the matte
    is 1 it is the picture.
    """
    share = matte[..., None]
    mixed = share * layers.person + (1 - share) * layers.behind
    return layers.person + share * (image - mixed)


def _layers(image: Float32Array, matte: Float32Array, coarse: int, fine: int) -> Layers:
    """The smooth colours of both sides, from far away, then from near by (Forte, blur fusion)."""
    person = behind = image
    for radius in (coarse, fine):
        smooth_person = _blurred_mean(person, matte, radius)
        smooth_behind = _blurred_mean(behind, 1 - matte, radius)
        layers = Layers(matte, smooth_person, smooth_behind)
        if radius == coarse:
            person, behind = pure(image, matte, layers), smooth_behind
    return layers


def _blurred_mean(values: Float32Array, weights: Float32Array, radius: int) -> Float32Array:
    """Mean of the values round each pixel, by the weights.

    Where there are none within the radius, it is taken from ever wider rings. Worked out on a
    reduced copy: a mean over hundreds of pixels is as smooth there.
    """
    size = values.shape[1::-1]
    by = max(1, radius // 4)
    smaller = tuple(max(1, round(side / by)) for side in size)
    sums = np.dstack([values * weights[..., None], weights])
    if by > 1:
        sums = cv2.resize(sums, smaller, interpolation=cv2.INTER_AREA)
    result = np.zeros_like(sums)
    empty = np.ones(sums.shape[:2], bool)
    reach = max(1, round(radius / by))
    while empty.any():
        side = (2 * reach + 1, 2 * reach + 1)
        wide = cv2.blur(sums, side, borderType=cv2.BORDER_REFLECT)
        # Beyond the picture's own size there is only the mean of all of it.
        last = reach > max(smaller)
        fresh = empty if last else empty & (wide[..., 3] > 1e-3)
        result[fresh] = wide[fresh]
        empty &= ~fresh
        reach *= 4
    mean = result[..., :3] / np.maximum(result[..., 3:], _TINY)
    return cv2.resize(mean, size, interpolation=cv2.INTER_LINEAR) if by > 1 else mean


def _by_colour(image: Float32Array, layers: Layers, reach: int) -> Float32Array:
    """The matte, within ``reach`` pixels of its edge, from where a colour lies between the two.

    The least-squares share of the person's smooth colour in a pixel, (I - B)(F - B) / |F - B|^2.
    It counts by how far apart the two colours are against how much each varies near the edge: in
    front of a plain wall it finds single hairs, in front of leaves the segmenter's word stands.
    """
    matte = layers.matte
    kernel = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    edge = cv2.dilate(matte, kernel) - cv2.erode(matte, kernel)
    apart = layers.person - layers.behind
    distance = (apart * apart).sum(axis=-1)
    share = ((image - layers.behind) * apart).sum(axis=-1) / np.maximum(distance, _TINY)
    # A few per cent either way are the picture's noise.
    share = np.clip((share - 0.12) / 0.76, 0.0, 1.0)
    # Variances of either side, from pixels that are surely its own.
    side = (4 * reach + 1, 4 * reach + 1)
    spread = np.zeros_like(matte)
    for smooth, sure in (
        (layers.person, (matte > 0.98).astype(np.float32)),
        (layers.behind, (matte < 0.02).astype(np.float32)),
    ):
        squares = ((image - smooth) ** 2).sum(axis=-1) * sure
        count = cv2.blur(sure, side, borderType=cv2.BORDER_REFLECT)
        here = cv2.blur(squares, side, borderType=cv2.BORDER_REFLECT) / np.maximum(count, 0.01)
        spread += here
    trust = distance / (distance + 8.0 * spread + 0.005)
    weight = np.clip(4.0 * edge, 0.0, 1.0) * np.clip(2.0 * trust - 1.0, 0.0, 1.0)
    return np.clip(matte + weight * (share - matte), 0.0, 1.0).astype(np.float32)
