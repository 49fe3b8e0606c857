"""The data that pass between the stages."""

from __future__ import annotations

import numpy as np

from mcap.contracts import Face


def test_moving_a_face_moves_all_of_it():
    face = Face((1, 2, 3, 4), 0.9, np.ones((5, 2), np.float32), np.zeros((7, 2), np.float32))
    there = face.moved(10, 20, 2.0)
    assert there.box == (12, 24, 16, 28)
    assert np.array_equal(there.landmarks, np.tile(np.float32([12, 22]), (5, 1)))
    assert np.array_equal(there.mesh, np.tile(np.float32([10, 20]), (7, 1)))
    assert face.moved().box == face.box
