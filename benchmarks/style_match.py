"""Does a picture look like the style's reference photos, and not like another style or the selfies?

No network judges it: a picture is described by what surrounds the face (brightness, colour,
unevenness, sharpness) and by how colourful it is, and belongs to the group of photos whose mean
description is nearest, each number measured in the deviations of all the photos.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from mcap.contracts import Face

SIDE = 128


def describe(image: np.ndarray, face: Face) -> np.ndarray:
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

    def __init__(self, groups: Mapping[str, Sequence[np.ndarray]]) -> None:
        every = np.concatenate([np.stack(group) for group in groups.values()])
        self.deviation = every.std(axis=0) + 1e-6
        self.centres = {name: np.mean(group, axis=0) for name, group in groups.items()}

    def nearest(self, description: np.ndarray) -> str:
        def distance(name: str) -> float:
            return float(np.linalg.norm((description - self.centres[name]) / self.deviation))

        return min(self.centres, key=distance)
