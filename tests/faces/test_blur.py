"""How blurred a face is, whatever else its picture is like."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from mcap.contracts import Face
from mcap.faces.blur import blur
from mcap.faces.region import upright_grey
from mcap.faces.settings import FaceSettings
from tests.support.photographs import ASTRONAUT, astronaut


def blur_of(image: np.ndarray, face: Face) -> float:
    return blur(upright_grey(image, face))


def test_blur_measures_the_blur_that_was_added():
    image = astronaut()
    sharp = blur_of(image, ASTRONAUT)
    assert 0.5 < sharp < 1.3
    for per_cent in (1.0, 2.0, 3.0):
        deviation = per_cent / 100 * 115  # the face is about 115 pixels high
        measured = blur_of(cv2.GaussianBlur(image, (0, 0), deviation), ASTRONAUT)
        assert measured == pytest.approx(np.hypot(sharp, per_cent), rel=0.25)
    assert blur_of(cv2.GaussianBlur(image, (0, 0), 6), ASTRONAUT) > FaceSettings().max_blur + 1


def test_blur_does_not_depend_on_resolution_light_or_noise():
    image = astronaut()
    sharp = blur_of(image, ASTRONAUT)
    noise = np.random.default_rng(0).normal(0, 10, image.shape)
    for changed in (image // 5, np.clip(image + noise, 0, 255).astype(np.uint8)):
        assert blur_of(changed, ASTRONAUT) == pytest.approx(sharp, abs=0.15)
    for factor, interpolation in ((4.0, cv2.INTER_CUBIC), (0.6, cv2.INTER_AREA)):
        other = cv2.resize(image, None, fx=factor, fy=factor, interpolation=interpolation)
        assert blur_of(other, ASTRONAUT.moved(zoom=factor)) == pytest.approx(sharp, abs=0.35)


def test_blur_and_brightness_of_degenerate_pictures():
    grey = np.full((512, 512, 3), 128, np.uint8)
    assert np.isfinite(blur_of(grey, ASTRONAUT)) and blur_of(grey, ASTRONAUT) > 10
    assert upright_grey(grey, ASTRONAUT).mean() / 255 == pytest.approx(128 / 255, abs=0.01)
    assert upright_grey(np.zeros_like(grey), ASTRONAUT).mean() == 0
    edge = Face((-60.0, -60.0, 40.0, 60.0), 0.9, ASTRONAUT.landmarks - (210, 110))
    assert np.isfinite(blur_of(grey, edge))
