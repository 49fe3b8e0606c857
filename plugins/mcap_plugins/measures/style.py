"""Resemblance to the style's photos in what surrounds the face, by no network.

A picture is described by what surrounds the face (brightness, colour, unevenness, sharpness) and by
how colourful it is, each number measured in the deviations of all the photos.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from mcap.contracts import Face, Float32Array, MetricInput, UInt8Image


SIDE = 128
OWN, STYLE = "photos", "references"


def style(given: MetricInput) -> list[float | None]:
    """Return where each picture stands between the person's photos (0) and the style's (1).

    By its distances to the mean descriptions of both: a / (a + b), half way between them 0.5.
    """
    groups = {OWN: given.photos, STYLE: given.references}
    match = StyleMatch(
        {
            name: [describe(one.image, one.faces[0]) for one in group]
            for name, group in groups.items()
        }
    )
    return [
        None if one.face is None else match.share(describe(one.image, one.face), OWN, STYLE)
        for one in given.pictures
    ]


def describe(image: UInt8Image, face: Face) -> Float32Array:
    """uint8[H, W, 3] RGB and its face -> float32[6].

    Of everything outside an ellipse of 1.6 times the face's box: mean L, a, b and deviation of L
    (CIE Lab), mean gradient of L; and of the whole picture the mean chroma.
    """
    height, width = image.shape[:2]
    small = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    lab = cv2.cvtColor(small.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    x0, y0, x1, y1 = face.box * np.array([SIDE / width, SIDE / height] * 2)
    rows, columns = np.indices((SIDE, SIDE)) + 0.5
    x, y = (2 * columns - x0 - x1) / (x1 - x0), (2 * rows - y0 - y1) / (y1 - y0)
    around = (np.hypot(x, y) > 1.6) & (rows < y1)  # below the chin are clothes
    if not around.any():
        around = rows < y0
    if not around.any():  # the face fills the picture
        around = np.ones_like(around)
    light = lab[..., 0]
    edges = np.hypot(cv2.Sobel(light, cv2.CV_32F, 1, 0), cv2.Sobel(light, cv2.CV_32F, 0, 1)) / 8
    surroundings = lab[around]
    return np.array(
        [
            *surroundings.mean(axis=0),
            surroundings[:, 0].std(),
            edges[around].mean(),
            np.hypot(lab[..., 1], lab[..., 2]).mean(),
        ],
        dtype=np.float32,
    )


class StyleMatch:
    """Groups of described photos, by name; `nearest` says which one a picture belongs to."""

    def __init__(self, groups: Mapping[str, Sequence[Float32Array]]) -> None:
        every = np.concatenate([np.stack(group) for group in groups.values()])
        self.deviation = every.std(axis=0) + 1e-6
        self.centres = {name: np.mean(group, axis=0) for name, group in groups.items()}

    def distance(self, description: Float32Array, name: str) -> float:
        """Return the distance to a group's mean, in deviations of all the photos."""
        return float(np.linalg.norm((description - self.centres[name]) / self.deviation))

    def nearest(self, description: Float32Array) -> str:
        """Return the name of the group with the nearest mean."""
        return min(self.centres, key=lambda name: self.distance(description, name))

    def share(self, description: Float32Array, start: str, goal: str) -> float:
        """Return 0 at the mean of ``start``, 1 at that of ``goal``."""
        first, second = self.distance(description, start), self.distance(description, goal)
        return first / max(first + second, 1e-9)
