"""The upright square in which FFHQ frames a portrait.

Karras, Laine and Aila (arXiv 1812.04948, appendix A, and their published alignment): eyes levelled,
the square's side and centre from the eyes and the mouth.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mcap.geometry.similarity_transform import Similarity

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

FFHQ_FACE_HEIGHT = 0.742
"""YuNet's box of an upright face, as a fraction of the side of FFHQ's square: the median over
10,477 pictures framed so (5 to 95 %: 0.68 to 0.79)."""


def ffhq_alignment(landmarks: ArrayLike, size: int, face_height: float) -> Similarity:
    """Return the similarity from a photo's pixels to those of its square of ``size`` pixels.

    ``landmarks`` are float[5, 2] in the order of `mcap.contracts.Face`. An upright face's box is
    ``face_height`` of the side high; `FFHQ_FACE_HEIGHT` is FFHQ's own square, smaller values show
    more around it. Landmarks that all lie in one point: ValueError.
    """
    points = np.asarray(landmarks, dtype=np.float64)
    eyes = (points[0] + points[1]) / 2
    mouth = (points[3] + points[4]) / 2
    between_eyes = points[1] - points[0]
    down = mouth - eyes
    # FFHQ: the mean of the eye line and of the upright's perpendicular, so that neither a turned
    # head (narrow eyes) nor an open mouth (long face) alone decides.
    across = between_eyes + np.array([down[1], -down[0]])
    length = float(np.hypot(*across))
    if length == 0:
        raise ValueError("landmarks that all lie in one point cannot be framed")
    across = across / length
    half = max(float(np.hypot(*between_eyes)) * 2.0, float(np.hypot(*down)) * 1.8)
    side = 2.0 * half * FFHQ_FACE_HEIGHT / face_height
    centre = eyes + 0.1 * down
    rotation = (size / side) * np.array([[across[0], across[1]], [-across[1], across[0]]])
    return Similarity.of(rotation, size / 2.0 - rotation @ centre)


def upright_height(landmarks: ArrayLike) -> float:
    """Return the pixels that the detector's box would be high if the head were upright.

    The box of a tilted head is larger by the tilt; eyes and mouth do not change.
    """
    return FFHQ_FACE_HEIGHT / ffhq_alignment(landmarks, 1, FFHQ_FACE_HEIGHT).scale
