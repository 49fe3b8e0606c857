"""Thresholds of the face checks, and the names that they had."""

from __future__ import annotations

import pytest

from mcap.errors import RenamedKeyWarning
from mcap.faces.settings import FaceSettings


def test_smallest_face_follows_from_the_training_size():
    assert FaceSettings().smallest(512, 0.45) == pytest.approx(92.16)
    assert FaceSettings(min_face=40).smallest(512, 0.45) == 40


def test_keys_of_the_first_version_are_read_and_named():
    with pytest.warns(RenamedKeyWarning, match="max_burnt is called max_overexposed now"):
        found = FaceSettings.model_validate({"max_burnt": 0.3})
    assert found.max_overexposed == 0.3
    with pytest.warns(RenamedKeyWarning, match="soft_covered is called soft_occluded now"):
        # Under both names: the present one counts.
        found = FaceSettings.model_validate({"soft_covered": 0.3, "soft_occluded": 0.2})
    assert found.soft_occluded == 0.2
