"""Marks that a run hands to its writers."""

from __future__ import annotations

import numpy as np

from mcap.images.marking import NO_MARKS, Marks
from tests.support.marking import Stripe


def test_a_watermark_goes_into_a_copy_and_in_place():
    image = np.zeros((10, 20, 3), np.uint8)
    assert NO_MARKS.watermarked(image) is image
    NO_MARKS.embed(image)
    assert not image.any() and NO_MARKS.declared("nothing.png") is None
    marks = Marks(Stripe())
    assert marks.watermarked(image)[:, :8].all() and not image.any()
    marks.embed(image)
    assert image[:, :8].all()
