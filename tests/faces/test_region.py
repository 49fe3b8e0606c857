"""The part of a picture around a face."""

from __future__ import annotations

import numpy as np
import pytest

from mcap.contracts import Face
from mcap.faces.region import share_outside, surroundings
from tests.support.photographs import ASTRONAUT


def test_surroundings_stay_in_the_picture():
    image = np.zeros((50, 60, 3), np.uint8)
    for box in (
        (-500.0, -500.0, -400.0, -400.0),
        (20.0, 20.0, 30.0, 35.0),
        (55.0, 45.0, 90.0, 99.0),
    ):
        cut, (x, y) = surroundings(image, Face(box, 1.0, np.zeros((5, 2), np.float32)), 0.5)
        assert cut.size > 0 and 0 <= x < 60 and 0 <= y < 50


def test_the_share_of_a_face_beyond_the_edge():
    height, width = 512, 512
    assert share_outside(ASTRONAUT, (height, width, 3)) == 0
    middle = float(ASTRONAUT.landmarks[2, 0])  # the nose: about half of the face is left of it
    for moved, shape in (
        (ASTRONAUT.moved(x=-middle), (height, width)),
        (ASTRONAUT, (height, round(middle))),
    ):
        assert share_outside(moved, shape) == pytest.approx(0.5, abs=0.06)
    assert share_outside(ASTRONAUT.moved(x=-400), (height, width)) == 1
    # What is cut off grows with the cut, and the size of the picture does not matter.
    shares = [share_outside(ASTRONAUT, (height, columns)) for columns in range(290, 150, -10)]
    assert shares == sorted(shares)
    twice = share_outside(ASTRONAUT.moved(zoom=2), (2 * height, 2 * 230))
    assert twice == pytest.approx(share_outside(ASTRONAUT, (height, 230)), abs=1e-6)
