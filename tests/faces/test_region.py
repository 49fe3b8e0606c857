"""The part of a picture around a face."""

from __future__ import annotations

import numpy as np

from mcap.contracts import Face
from mcap.faces.region import surroundings


def test_surroundings_stay_in_the_picture():
    image = np.zeros((50, 60, 3), np.uint8)
    for box in (
        (-500.0, -500.0, -400.0, -400.0),
        (20.0, 20.0, 30.0, 35.0),
        (55.0, 45.0, 90.0, 99.0),
    ):
        cut, (x, y) = surroundings(image, Face(box, 1.0, np.zeros((5, 2), np.float32)), 0.5)
        assert cut.size > 0 and 0 <= x < 60 and 0 <= y < 50
