"""The outcome in plain words."""

from __future__ import annotations

import cv2
import pytest

from mcap.masking.advice import advise, require_accepted
from tests.support.masked_photos import masked_set, photos


def test_the_commonest_fault_comes_first_and_few_photos_are_too_few(tmp_path):
    soft = {f"soft{number}": lambda image: cv2.GaussianBlur(image, (0, 0), 5) for number in "12345"}
    paths = photos(tmp_path, dark=lambda image: image // 40, **soft)
    found = masked_set([*paths[:2], *paths[6:]])
    kinds = [item.kind for item in advise(found)]
    assert kinds == ["sharpness", "brightness", "few"]
    first = advise(found)[0]
    assert len(first.photos) == 5 and "and 2 more" in first.text
    assert "add 4 more" in advise(found)[-1].text
    found = masked_set(paths[6:7])
    with pytest.raises(Exception, match="window"):
        require_accepted(found)
