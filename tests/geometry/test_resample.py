"""A picture through a similarity: the right pixels at the right place."""

from __future__ import annotations

import numpy as np

from mcap.geometry.ffhq import ffhq_alignment
from mcap.geometry.resample import resample
from mcap.geometry.similarity_transform import Similarity
from tests.support.photographs import ASTRONAUT


def test_the_same_pixels_at_the_same_place():
    # A picture that says where it is: red is x, green is y.
    y, x = np.mgrid[0:256, 0:256].astype(np.uint8)
    image = np.stack([x, y, np.zeros_like(x)], -1)
    landmarks = ASTRONAUT.landmarks * 0.5
    to_crop = ffhq_alignment(landmarks, 128, 0.742)
    crop = resample(image, to_crop, 128)
    back = np.linalg.inv(np.vstack([to_crop.matrix, [0, 0, 1]]))
    for u, v in ((20, 30), (64, 64), (100, 90)):
        place = back @ (u + 0.5, v + 0.5, 1)
        assert np.abs(crop[v, u, :2] - (place[:2] - 0.5)).max() <= 1.0


def test_reduction_is_by_area():
    stripes = np.zeros((1024, 1024, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(resample(stripes, Similarity.scaling(0.125), 128).astype(int) - 128).max() <= 2
