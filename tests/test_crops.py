"""Training crops: upright, framed as FFHQ, and honest about what lies outside the photo."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from photographs import astronaut
from test_faces import ASTRONAUT

from mcap.contracts import Face
from mcap.crops import FFHQ_FACE_HEIGHT, framing, portrait_crop, resample, upright_height
from mcap.faces import FoundFace, Pose
from mcap.masking import MaskedPhoto
from mcap.masks import LandmarkMasker
from mcap.photos import Photo


def masked(image: np.ndarray, face: Face) -> MaskedPhoto:
    height, width = image.shape[:2]
    photo = Photo(Path("a.png"), "a", "0" * 64, width, height, pixels=image)
    mask = np.round(LandmarkMasker().mask(image, face) * 255).astype(np.uint8)
    found = FoundFace(face, np.ones(4, np.float32) / 2, 0.8, 0.5, Pose(0, 0, 0))
    return MaskedPhoto(photo, found, mask[30:200, 150:300].copy(), (150, 30), (height, width))


@pytest.mark.parametrize("size", [128, 256, 512])
@pytest.mark.parametrize("face_height", [0.3, 0.45, FFHQ_FACE_HEIGHT])
def test_crop_is_upright_and_framed(size, face_height):
    crop = portrait_crop(masked(astronaut(), ASTRONAUT), size, face_height)
    assert crop.image.shape == (size, size, 3) and crop.image.dtype == np.uint8
    assert crop.mask.shape == (size, size) and crop.mask.dtype == np.float32
    assert crop.landmarks.shape == (5, 2) and crop.landmarks.dtype == np.float32
    assert (crop.name, crop.sha256) == ("a", "0" * 64)
    eyes, mouth = crop.landmarks[:2], crop.landmarks[3:]
    slope = (eyes[1] - eyes[0])[1] / (eyes[1] - eyes[0])[0]
    assert abs(slope) < 0.03  # she tilts her head by 4 degrees, 0.07
    middle = (eyes.mean(0) + 0.1 * (mouth.mean(0) - eyes.mean(0))) / size
    assert np.abs(middle - 0.5).max() < 1e-4
    assert upright_height(crop.landmarks) == pytest.approx(face_height * size, rel=1e-4)
    # The mask is on the landmarks, and at the size of a face.
    for x, y in crop.landmarks:
        assert crop.mask[int(y), int(x)] > 0.75
    assert crop.mask.min() >= 0 and crop.mask.max() <= 1
    area = crop.mask.sum() / (face_height * size) ** 2
    assert 0.35 < area < 0.6


def test_the_same_pixels_at_the_same_place():
    # A picture that says where it is: red is x, green is y.
    y, x = np.mgrid[0:256, 0:256].astype(np.uint8)
    image = np.stack([x, y, np.zeros_like(x)], -1)
    landmarks = ASTRONAUT.landmarks * 0.5
    matrix = framing(landmarks, 128, 0.742)
    crop = resample(image, matrix, 128)
    back = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))
    for u, v in ((20, 30), (64, 64), (100, 90)):
        place = back @ (u + 0.5, v + 0.5, 1)
        assert np.abs(crop[v, u, :2] - (place[:2] - 0.5)).max() <= 1.0


def test_reduction_is_by_area():
    stripes = np.zeros((1024, 1024, 3), np.uint8)
    stripes[:, ::2] = 255
    matrix = np.array([[0.125, 0, 0], [0, 0.125, 0]])
    assert np.abs(resample(stripes, matrix, 128).astype(int) - 128).max() <= 2


def test_outside_the_photo_the_mask_is_zero_and_the_picture_fades():
    image = astronaut()[60:190, 160:290]
    face = Face((11.0, -4.0, 117.0, 121.0), 0.95, ASTRONAUT.landmarks - (160, 60))
    photo = masked(image, face)
    whole = np.round(LandmarkMasker().mask(image, face) * 255).astype(np.uint8)
    photo = MaskedPhoto(photo.photo, photo.found, whole, (0, 0), image.shape[:2])
    crop = portrait_crop(photo, 256, 0.3)
    assert crop.mask[:20].max() == 0 and crop.mask[-20:].max() == 0
    corner = crop.image[:24, :24].reshape(-1, 3).astype(int)
    assert corner.std(axis=0).max() < 2  # one colour, and no second face
    inside = portrait_crop(masked(astronaut(), ASTRONAUT), 256, 0.3).image
    centre = np.s_[100:150, 100:150]
    assert np.abs(crop.image[centre].astype(int) - inside[centre]).mean() < 3


def test_points_in_one_place_cannot_be_framed():
    with pytest.raises(ValueError, match="one point"):
        framing(np.ones((5, 2), np.float32), 64, 0.5)
