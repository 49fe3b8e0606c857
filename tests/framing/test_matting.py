"""The person apart from the background."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from mcap.framing.head import crown_to_chin
from mcap.framing.matting import Layers, estimate_foreground, foreground_colour
from tests.support.drawn_people import person

LIGHT = np.array([0xF5] * 3) / 255


def test_a_plain_background_leaves_no_trace_in_single_hairs():
    someone = person(hairs=40)
    blurred = cv2.GaussianBlur(someone.matte, (0, 0), 4)
    picture = someone.image.astype(np.float32) / 255
    layers = estimate_foreground(picture, blurred, someone.face.height)
    truth = someone.on(LIGHT).astype(np.float32) / 255

    def error(matte, own):
        mixed = matte[..., None] * own + (1 - matte[..., None]) * LIGHT
        edge = cv2.dilate(someone.matte, np.ones((9, 9))) - cv2.erode(
            someone.matte, np.ones((9, 9))
        )
        return float(np.abs(mixed - truth)[edge > 0.5].mean())

    naive = error(blurred, picture)
    unmixed = error(layers.matte, foreground_colour(picture, layers.matte, layers))
    assert unmixed < 0.33 * naive
    # The hairs themselves are there: the matte is the true one, not the segmenter's.
    above = np.zeros_like(someone.matte, bool)
    above[: round(crown_to_chin(someone.face).crown) - 4] = True
    assert someone.matte[above].sum() > 100
    assert (
        np.abs(layers.matte - someone.matte)[above].mean()
        < 0.3 * np.abs(blurred - someone.matte)[above].mean()
    )


def test_inside_the_person_the_picture_stays_as_it_is():
    rng = np.random.default_rng(1)
    picture = rng.random((90, 80, 3)).astype(np.float32)
    matte = np.zeros((90, 80), np.float32)
    matte[20:, 20:60] = 1.0
    layers = Layers(matte, rng.random((90, 80, 3)).astype(np.float32), picture[::-1])
    inside = matte == 1
    assert np.abs(foreground_colour(picture, matte, layers) - picture)[inside].max() < 1e-6


@pytest.mark.parametrize("matte", [np.zeros((40, 50)), np.ones((40, 50))])
def test_a_picture_of_one_layer_comes_apart_without_harm(matte):
    picture = np.random.default_rng(2).random((40, 50, 3)).astype(np.float32)
    layers = estimate_foreground(picture, matte.astype(np.float32), 20)
    for values in (layers.matte, layers.person, layers.background):
        assert np.isfinite(values).all()
    assert np.array_equal(layers.matte, matte)
