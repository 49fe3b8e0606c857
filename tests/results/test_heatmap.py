"""A heat map over a picture."""

from __future__ import annotations

import numpy as np

from mcap.results.heatmap import overlay


def test_the_hottest_place_is_the_brightest_and_a_constant_map_shows_nothing():
    image = np.full((40, 60, 3), 120, np.uint8)
    heat = np.zeros((4, 6), np.float32)
    heat[1, 4] = 0.3  # of any range
    shown = overlay(image, heat)
    assert (shown.dtype, shown.shape) == (np.uint8, image.shape)
    y, x = np.unravel_index(shown.sum(axis=2).argmax(), shown.shape[:2])
    assert 10 <= y < 20
    assert 40 <= x < 50
    flat = overlay(image, np.full((4, 6), 7, np.float32))
    assert len(np.unique(flat.reshape(-1, 3), axis=0)) == 1
