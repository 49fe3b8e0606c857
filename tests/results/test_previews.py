"""Small JPEG files of a picture before and after."""

from __future__ import annotations

import numpy as np
from PIL import Image

from mcap.results.previews import LONGEST, find_previews, reduced, write_previews


def grey(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 128, np.uint8)


def test_the_face_before_is_shown_as_large_as_the_one_after(tmp_path):
    written = write_previews(
        tmp_path, "a", (grey(30, 40), grey(600, 2000)), (grey(10, 8), grey(700, 560))
    )
    sizes = {}
    for name in ("before", "after", "face_before", "face_after"):
        with Image.open(getattr(written, name)) as picture:
            sizes[name] = picture.size
    assert sizes["before"] == (40, 30)
    assert sizes["after"] == (LONGEST, 307)
    assert sizes["face_before"] == sizes["face_after"] == (410, 512)
    assert find_previews(tmp_path, "a") == written


def test_faces_of_an_earlier_picture_of_that_name_go(tmp_path):
    image = grey(20, 20)
    assert find_previews(tmp_path, "a") is None
    write_previews(tmp_path, "a", (image, image), (image, image))
    written = write_previews(tmp_path, "a", (image, image), None)
    assert (written.face_before, written.face_after) == (None, None)
    assert find_previews(tmp_path, "a") == written
    assert len(list((tmp_path / "previews").iterdir())) == 2


def test_a_small_picture_stays_as_it_is():
    image = grey(20, 30)
    assert reduced(image) is image
    assert reduced(image, 15).shape == (10, 15, 3)
