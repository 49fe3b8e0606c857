"""The outline of a face as a linear function of its five landmarks.

Fitted by least squares to 2,771 faces of people who do not exist: MediaPipe's face oval (36 points
of its 478-point mesh), brought into the unit frame by the similarity that takes the detector's five
landmarks to `TEMPLATE`, against where the nose and the mouth then lie. Each face and its mirror
image count, so the outline is symmetric. Left out of the fit, every fifth face is met to 0.036 of
the unit frame on average (0.060 with one outline for all).
"""

from __future__ import annotations

import numpy as np

TEMPLATE = np.array(
    [[0.342, 0.462], [0.657, 0.460], [0.500, 0.640], [0.371, 0.825], [0.632, 0.823]]
)
"""The five landmarks of a frontal face in the unit frame: float64[5, 2]. ArcFace's template, with
room around it for the whole face."""

# Right half of the outline from the top of the forehead to the chin. A row: the point (x, y) of
# the mean face, then what is added to it per unit that the nose lies right of its place, below its
# place, and that the eyes and the mouth are further apart than the template's (twice the distance).
_RIGHT_HALF = np.array(
    [
        (0.500, 0.240, 0.207, 0.000, 0.000, -1.683, 0.000, -0.501),
        (0.586, 0.243, 0.085, 0.094, 0.191, -1.737, -0.044, -0.513),
        (0.661, 0.255, -0.171, 0.167, 0.331, -1.835, -0.067, -0.545),
        (0.730, 0.283, -0.597, 0.215, 0.406, -2.068, -0.111, -0.611),
        (0.778, 0.326, -1.044, 0.220, 0.402, -2.315, -0.132, -0.672),
        (0.812, 0.383, -1.484, 0.200, 0.324, -2.544, -0.141, -0.704),
        (0.832, 0.446, -1.829, 0.173, 0.194, -2.708, -0.157, -0.704),
        (0.842, 0.523, -2.127, 0.117, -0.003, -2.811, -0.185, -0.688),
        (0.843, 0.596, -2.258, 0.066, -0.183, -2.808, -0.207, -0.663),
        (0.841, 0.670, -2.292, 0.006, -0.344, -2.729, -0.224, -0.631),
        (0.833, 0.750, -2.267, -0.063, -0.488, -2.666, -0.247, -0.598),
        (0.813, 0.834, -2.136, -0.128, -0.560, -2.580, -0.258, -0.555),
        (0.783, 0.900, -1.838, -0.174, -0.579, -2.356, -0.234, -0.488),
        (0.748, 0.946, -1.480, -0.206, -0.620, -2.037, -0.202, -0.405),
        (0.702, 0.987, -1.113, -0.215, -0.615, -1.754, -0.160, -0.345),
        (0.662, 1.015, -0.812, -0.193, -0.543, -1.550, -0.130, -0.317),
        (0.618, 1.039, -0.521, -0.151, -0.426, -1.352, -0.102, -0.294),
        (0.566, 1.058, -0.308, -0.088, -0.241, -1.255, -0.054, -0.287),
        (0.500, 1.063, -0.203, 0.000, 0.000, -1.249, 0.000, -0.295),
    ]
)

_LIMITS = np.array([0.12, 0.05, 0.15])
"""Beyond what the fitted faces show (nose right, nose down, eyes to mouth) the outline stays."""


def outline(landmarks: np.ndarray) -> np.ndarray:
    """Landmarks float[5, 2] in the unit frame -> float64[36, 2], clockwise from the top."""
    nose = landmarks[2] - TEMPLATE[2]
    height = _eyes_to_mouth(landmarks) - _eyes_to_mouth(TEMPLATE)
    turned = np.clip([nose[0], nose[1], height], -_LIMITS, _LIMITS)
    right = _points(_RIGHT_HALF, turned)
    # The left half is the right half of the mirrored face.
    left = _points(_RIGHT_HALF[1:-1], turned * (-1, 1, 1)) * (-1, 1) + (1, 0)
    return np.concatenate([right, left[::-1]])


def _points(rows: np.ndarray, turned: np.ndarray) -> np.ndarray:
    mean, moves = rows[:, :2], rows[:, 2:].reshape(-1, 3, 2)
    return mean + np.einsum("pfc,f->pc", moves, turned)


def _eyes_to_mouth(landmarks: np.ndarray) -> float:
    return float(landmarks[3:5, 1].sum() - landmarks[0:2, 1].sum())
