"""Measures of pictures as pictures: how they differ, how they are framed, how many faces."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import cv2
import numpy as np

from mcap.framing.crop import measure_framing
from mcap.framing.head import head_from_box

if TYPE_CHECKING:
    from mcap.contracts import Float32Array, MetricInput, UInt8Image

SIDE = 32


def diversity(given: MetricInput) -> list[float | None]:
    """Return the mean over all pairs of pictures of their distance, CIE Lab; None of one alone."""
    small = [reduced(picture.image) for picture in given.pictures]
    pairs = [distance(one, other) for one, other in combinations(small, 2)]
    return [float(np.mean(pairs)) if pairs else None]


def framing(given: MetricInput) -> list[float | None]:
    """Return 1.0 of each picture that is framed as its profile asks, else 0.0.

    None where the profile asks for nothing.
    """
    wanted = given.profile.framing
    if not any((wanted.head_height, wanted.eye_line, wanted.head_center_x)):
        return [None] * len(given.pictures)
    met: list[float | None] = []
    for picture in given.pictures:
        height, width = picture.image.shape[:2]
        head = head_from_box(picture.face) if picture.face else None
        found = measure_framing((0, 0, width, height), head, wanted) if head else None
        met.append(float(found is not None and found.met))
    return met


def faces(given: MetricInput) -> list[float | None]:
    """Return 1.0 of each picture with exactly one face, else 0.0."""
    return [float(len(picture.faces) == 1) for picture in given.pictures]


def reduced(image: UInt8Image) -> Float32Array:
    """Return a picture of any size as CIE Lab of SIDE x SIDE pixels."""
    small = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(small.astype(np.float32) / 255, cv2.COLOR_RGB2LAB), np.float32)


def distance(one: Float32Array, other: Float32Array) -> float:
    """Return the root mean square distance of two `reduced` pictures, CIE Lab."""
    return float(np.sqrt(((one - other) ** 2).sum(axis=-1).mean()))
