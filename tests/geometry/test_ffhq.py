"""FFHQ's square: level eyes, the face at its height, whatever the tilt."""

from __future__ import annotations

import numpy as np
import pytest

from mcap.geometry.ffhq import FFHQ_FACE_HEIGHT, ffhq_alignment, upright_height
from mcap.geometry.similarity_transform import Similarity
from tests.support.photographs import ASTRONAUT


@pytest.mark.parametrize("degrees", [0, 30, -90, 175])
def test_a_tilt_changes_neither_the_square_nor_the_height(degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    tilt = Similarity(np.array([[c, -s, 300.0], [s, c, 120.0]]))
    plain, tilted = ASTRONAUT.landmarks, tilt.apply(ASTRONAUT.landmarks)
    square = [ffhq_alignment(points, 256, 0.5).apply(points) for points in (plain, tilted)]
    assert np.allclose(*square, atol=1e-3)
    assert upright_height(tilted) == pytest.approx(upright_height(plain), rel=1e-5)


def test_an_upright_face_fills_the_height_that_is_asked_for():
    for face_height in (0.3, FFHQ_FACE_HEIGHT):
        placed = ffhq_alignment(ASTRONAUT.landmarks, 512, face_height).apply(ASTRONAUT.landmarks)
        assert upright_height(placed) == pytest.approx(512 * face_height)


def test_points_in_one_place_cannot_be_framed():
    with pytest.raises(ValueError, match="one point"):
        ffhq_alignment(np.ones((5, 2), np.float32), 64, 0.5)
