"""Histograms of oriented gradients against OpenCV's own, where it has them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from mcap.faces.oriented_gradients import oriented_gradients

SIZES = [(64, 64), (64, 48), (16, 32)]


def picture(size, blur: float) -> np.ndarray:
    image = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    return cv2.GaussianBlur(image, (0, 0), blur) if blur else image


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("blur", [0, 1.5, 6])
def test_as_opencv_computes_them(size, blur):
    if not hasattr(cv2, "HOGDescriptor"):
        pytest.skip("this OpenCV is without its contributed modules")
    image = picture(size, blur)
    theirs = cv2.HOGDescriptor(size[::-1], (16, 16), (16, 16), (8, 8), 9).compute(image)
    assert np.abs(oriented_gradients(image) - np.ravel(theirs)).max() < 1e-6


def test_an_edge_is_in_the_bin_of_its_direction():
    image = np.zeros((16, 16), np.uint8)
    image[:, 8:] = 200  # left to right: gradients of 0, shared by the first bin and the last
    found = oriented_gradients(image).reshape(2, 2, 9)
    assert found[..., [0, 8]].min() > 0.3 and found[..., 1:8].max() == 0
    image = np.zeros((16, 16), np.uint8)
    image[8:] = 200  # a quarter of a turn
    assert (oriented_gradients(image).reshape(4, 9).argmax(1) == 4).all()


def test_a_plain_picture_has_none():
    assert oriented_gradients(np.full((32, 16), 90, np.uint8)).max() == 0
