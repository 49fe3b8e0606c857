"""The masker of things: what it cuts out, and when it says that it cannot tell."""

from __future__ import annotations

import numpy as np

from mcap.faces.masks import iou
from mcap.registry import registry
from tests.support.drawn_toys import toy
from tests.support.photographs import ASTRONAUT, astronaut


def masker():
    return registry().create("masker", "foreground")


def test_a_toy_is_cut_out_of_any_background():
    overlaps = []
    for seed in range(8):
        image, truth = toy(seed)
        mask = masker().object_mask(image)
        assert mask.shape == image.shape[:2] and mask.dtype == np.float32
        assert mask.min() >= 0 and mask.max() <= 1
        overlaps.append(iou(mask, truth.astype(np.float32)))
    assert np.mean(overlaps) > 0.9 and min(overlaps) > 0.8, overlaps


def test_the_same_picture_has_the_same_mask_whatever_was_asked_before():
    image, _ = toy(0)
    first = masker().object_mask(image)
    masker().object_mask(toy(1)[0])
    assert np.array_equal(masker().object_mask(image), first)


def test_spots_of_another_colour_are_part_of_the_thing():
    image, truth = toy(3)
    mask = masker().object_mask(image)
    x0, x1 = np.flatnonzero(truth.any(axis=0))[[0, -1]]
    middle = image[:, x0:x1].reshape(-1, 3), mask[:, x0:x1].ravel()
    cream = (np.abs(middle[0].astype(int) - (250, 240, 220)) < 6).all(axis=1)
    assert cream.sum() > 500 and middle[1][cream].mean() > 0.9


def test_where_nothing_differs_nothing_is_cut_out():
    for image in (
        np.full((200, 300, 3), 90, np.uint8),
        np.random.default_rng(0).integers(0, 256, (8, 400, 3), dtype=np.uint8),
    ):
        assert not masker().object_mask(image).any()


def test_with_a_face_it_is_what_the_face_lies_on():
    mask = masker().mask(astronaut(), ASTRONAUT)
    x, y = ASTRONAUT.landmarks.mean(axis=0).astype(int)
    assert mask[y, x] > 0.9 and mask[:20, :20].max() < 0.1
