"""The colours of a thing, and how much of them a picture holds."""

from __future__ import annotations

import numpy as np
import pytest

from mcap.images.palette import Palette, colour_histogram
from tests.support.drawn_toys import toy


@pytest.fixture
def palette() -> Palette:
    images, masks = zip(*(toy(seed, (240, 320)) for seed in range(3)), strict=True)
    return Palette.of(images, [mask.astype(np.float32) for mask in masks])


def test_a_histogram_sums_to_one_and_counts_what_the_mask_shows():
    image, mask = toy(0, (240, 320))
    whole = colour_histogram(image, np.ones(mask.shape, np.float32))
    thing = colour_histogram(image, mask.astype(np.float32))
    assert whole.shape == (8, 16, 16) and whole.sum() == pytest.approx(1, abs=1e-5)
    assert thing.sum() == pytest.approx(1, abs=1e-5) and np.abs(thing - whole).sum() > 0.5
    assert not np.isnan(colour_histogram(image, np.zeros(mask.shape, np.float32))).any()


def test_another_photo_of_the_thing_holds_its_colours_and_its_background_does_not(palette):
    assert 0.05 < palette.share < 0.5
    for seed in range(10, 14):
        image, mask = toy(seed, (240, 320))
        behind = image.copy()
        behind[mask] = image[~mask][: mask.sum()]
        assert palette.match(image) > 0.85 and palette.match(behind) < 0.4
        grey = np.full_like(image, 128)
        assert palette.match(grey) < 0.1


def test_half_of_the_thing_holds_about_half_of_its_colours(palette):
    image, mask = toy(20, (240, 320))
    columns = np.flatnonzero(mask.any(axis=0))
    half = image.copy()
    cut = mask.copy()
    cut[:, : int(columns.mean())] = False
    half[cut] = (90, 90, 200)
    assert 0.3 < palette.match(half) < 0.8 * palette.match(image) + 0.1
