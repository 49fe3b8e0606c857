"""Something in front of a face, told from the face's own pixels."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from mcap.faces.cover import PLACES, cover, cover_features, read_weights, upright
from mcap.faces.settings import FaceSettings
from mcap.images.photo import read_photo
from mcap.registry import registry
from tests.support import ROOT
from tests.support.drawn_people import covered_face

LIMITS = FaceSettings()
SELFIES = sorted((ROOT / "examples" / "selfies").glob("*.jpg"))
PEOPLE = sorted((ROOT / "benchmarks" / "people").glob("*/*.jpg"))


@pytest.fixture(scope="module")
def faces(weights):
    """(picture, landmarks) of the people in the package, reduced as a photo's face might be."""
    weights("yunet")
    detector = registry().create("detector", "yunet")
    found = []
    for path in [*SELFIES, *PEOPLE]:
        image = read_photo(path).image
        zoom = min(1.0, 640 / max(image.shape[:2]))
        image = cv2.resize(image, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_AREA)
        face = max(detector.detect(image), key=lambda each: each.area)
        found.append((image, face.landmarks))
    return found


def test_the_weights_are_as_many_as_the_features():
    weights, _ = read_weights()
    features = cover_features(np.zeros((128, 128, 3), np.uint8))
    assert features.shape == weights.shape == (9 * len(PLACES) + 576,)
    assert np.isfinite(features).all()


def test_plain_faces_are_not_doubted(faces):
    values = np.array([cover(image, landmarks) for image, landmarks in faces])
    assert len(values) > 20 and (values > LIMITS.max_cover).sum() == 0
    assert (values > LIMITS.soft_cover).mean() <= 0.05, values.round(2)


@pytest.mark.parametrize("kind", ["mask", "scarf", "lenses"])
def test_a_mask_a_scarf_and_dark_lenses_are_found(faces, kind):
    values = [
        cover(covered_face(image, landmarks, kind, seed), landmarks)
        for seed, (image, landmarks) in enumerate(faces)
    ]
    found = np.mean(np.array(values) > LIMITS.soft_cover)
    assert found >= 0.8, np.round(values, 2)


def test_light_and_size_change_little(faces):
    image, landmarks = faces[0]
    plain = covered_face(image, landmarks, "mask", 0)
    for changed in (image, plain):
        dark = (changed * 0.5).astype(np.uint8)
        small = cv2.resize(changed, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)
        values = [cover(changed, landmarks), cover(dark, landmarks), cover(small, landmarks * 0.6)]
        verdicts = {value > LIMITS.soft_cover for value in values}
        assert len(verdicts) == 1, values


def test_the_frame_is_upright_whatever_the_photo_is(faces):
    image, landmarks = faces[0]
    turned = np.ascontiguousarray(np.rot90(image))
    there = np.stack([landmarks[:, 1], image.shape[1] - landmarks[:, 0]], axis=1)
    one, other = upright(image, landmarks), upright(turned, there.astype(np.float32))
    assert np.abs(one.astype(int) - other).mean() < 2
