"""Training crops: upright, framed as FFHQ, and honest about what lies outside the photo."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mcap.contracts import Face
from mcap.faces.masks import LandmarkMasker
from mcap.faces.measure import FoundFace
from mcap.faces.pose import Pose
from mcap.geometry.ffhq import FFHQ_FACE_HEIGHT, upright_height
from mcap.geometry.similarity_transform import Similarity
from mcap.images.photo import Photo
from mcap.masking.crops import (
    TIGHTEST,
    fitted,
    portrait_crop,
    portrait_crops,
    repeatable_magnitude,
)
from mcap.masking.records import MaskedPhoto
from tests.support.photographs import ASTRONAUT, astronaut


def masked(image: np.ndarray, face: Face) -> MaskedPhoto:
    height, width = image.shape[:2]
    photo = Photo(Path("a.png"), "a", "0" * 64, width, height, pixels=image)
    mask = np.round(LandmarkMasker().mask(image, face) * 255).astype(np.uint8)
    found = FoundFace(face, np.ones(4, np.float32) / 2, 0.8, 0.5, Pose(0, 0, 0))
    return MaskedPhoto(photo, found, mask, (0, 0), (height, width))


def roomy() -> MaskedPhoto:
    """The astronaut with so much around her that every crop lies inside the photo."""
    image = np.pad(astronaut(), ((300, 300), (300, 300), (0, 0)), mode="edge")
    whole = masked(image, ASTRONAUT.moved(300, 300))
    x, y = 450, 330
    return replace(whole, cutout=whole.cutout[y:500, x:600].copy(), mask_origin=(x, y))


@pytest.mark.parametrize("size", [128, 256, 512])
@pytest.mark.parametrize("face_height", [0.3, 0.45, FFHQ_FACE_HEIGHT])
def test_crop_is_upright_and_framed(size, face_height):
    crop = portrait_crop(roomy(), size, face_height)
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
    assert crop.inside is None
    area = crop.mask.sum() / (face_height * size) ** 2
    assert 0.35 < area < 0.6


def test_outside_the_photo_the_mask_is_zero_and_the_picture_fades():
    # Forehead and chin touch the edges: not even the tightest crop fits.
    photo = masked(astronaut()[78:180, 160:290], ASTRONAUT.moved(-160, -78))
    crop = portrait_crop(photo, 256, 0.3)
    assert upright_height(crop.landmarks) == pytest.approx(TIGHTEST * 256, rel=1e-4)
    assert crop.inside is not None and 0.5 < crop.inside.mean() < 0.95
    assert crop.mask[crop.inside == 0].max() < 0.01  # the cubic kernel's last bit
    rows = crop.inside.max(axis=1) > 0
    first = int(np.argmax(rows))
    assert 15 < first < 100  # mirrored at that row, before it fades
    assert np.abs(crop.image[first - 2].astype(int) - crop.image[first + 2]).mean() < 12
    far = crop.image[:3].reshape(-1, 3).astype(int)
    assert far.std(axis=0).max() < 12  # nearly one colour, and no second face
    # What is inside is what it would be in a larger photo.
    wide = roomy()
    same = portrait_crop(wide, 256, TIGHTEST).image.astype(int)
    assert np.abs(crop.image - same)[crop.inside == 1].mean() < 3


@pytest.mark.parametrize("face_height", [0.3, 0.45])
def test_a_tight_selfie_is_not_filled_up(face_height):
    """The crop is no wider than the photo, and no tighter than it has to be."""
    wide = portrait_crop(roomy(), 256, face_height)
    tight = portrait_crop(
        masked(astronaut()[30:250, 120:340], ASTRONAUT.moved(-120, -30)), 256, face_height
    )
    # Nothing had to be invented, but for a corner that the tilt brings to the very edge.
    assert tight.inside is None or tight.inside.mean() > 0.999
    heights = [upright_height(crop.landmarks) / 256 for crop in (wide, tight)]
    assert heights[0] == pytest.approx(face_height, rel=1e-4)
    # The photo has 220 pixels, of which the tilt of 4 degrees takes a little.
    assert heights[1] == pytest.approx(upright_height(ASTRONAUT.landmarks) / 220 * 1.07, rel=0.03)
    assert tight.landmarks.min() > 0 and tight.landmarks.max() < 256
    assert tight.mask.sum() / (heights[1] * 256) ** 2 > 0.35  # the whole mask


def test_a_crop_is_fitted_by_as_little_as_can_be():
    random = np.random.default_rng(5)
    for _ in range(200):
        height, width = random.integers(100, 900, 2)
        side, angle = random.uniform(50, 1500), np.radians(random.uniform(-180, 180))
        angle = random.choice([angle, 0.0])
        tightest = random.uniform(1, 2.5)
        rotation = (
            64 / side * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        )
        centre = random.uniform(0, 1, 2) * (width, height)
        before = Similarity.of(rotation, 32 - rotation @ centre)
        after = fitted(before, 64, (height, width), tightest)
        corners = np.array([[0, 0], [64, 0], [0, 64], [64, 64]])

        def beyond(to_crop, part=1.0, corners=corners, size=(width, height)):
            places = to_crop.apply_inverse(32 + part * (corners - 32))
            return float(np.maximum(-places, places - size).max())

        grown = after.linear @ np.linalg.inv(before.linear)
        factor = grown[0, 0]
        assert np.allclose(grown, factor * np.eye(2)) and 1 - 1e-9 <= factor <= tightest + 1e-9
        if beyond(before) <= 0:
            assert np.allclose(before.matrix, after.matrix)
        assert beyond(after) <= max(beyond(before), 0) + 1e-6
        # What the photo shows of the part that must stay in sight does.
        grid = np.stack(np.meshgrid([0, 16, 32, 48, 64], [0, 16, 32, 48, 64]), -1).reshape(-1, 2)
        kept = before.apply_inverse(32 + (grid - 32) / tightest)
        if np.allclose(angle % (np.pi / 2), 0):
            kept = kept[((kept >= 0) & (kept <= (width, height))).all(axis=1)]
        elif beyond(before, 1 / tightest) > 0:
            continue
        if not len(kept):
            continue
        seen = after.apply(kept)
        assert seen.min() > -1e-6 and seen.max() < 64 + 1e-6


def test_several_crops_of_a_photo_stay_close_and_do_not_mirror():
    photo = roomy()
    crops = portrait_crops(photo, 128, 0.45, 5)
    plain = portrait_crop(photo, 128, 0.45)
    assert np.array_equal(crops[0].image, plain.image) and crops[0].name == "a"
    assert len({crop.name for crop in crops}) == len({crop.image.tobytes() for crop in crops}) == 5
    for crop in crops[1:]:
        assert upright_height(crop.landmarks) / 128 == pytest.approx(0.45, rel=0.11)
        assert np.abs(crop.landmarks.mean(0) - plain.landmarks.mean(0)).max() < 0.06 * 128
        across = crop.landmarks[1] - crop.landmarks[0]
        assert across[0] > 0 and abs(across[1]) < 0.1 * across[0]
        for x, y in crop.landmarks:
            assert crop.mask[int(y), int(x)] > 0.75
    again = portrait_crops(photo, 128, 0.45, 3)
    for one, other in zip(crops[:3], again, strict=True):
        assert np.array_equal(one.image, other.image) and np.array_equal(one.mask, other.mask)
    other = replace(photo, photo=replace(photo.photo, sha256="1" * 64))
    assert not np.array_equal(portrait_crops(other, 128, 0.45, 2)[1].image, crops[1].image)


def test_magnitudes_do_not_depend_on_where_arrays_lie_in_memory():
    random = np.random.default_rng(0)
    values = random.uniform(0, 30, (2, 256, 256)).astype(np.float32)

    def placed(image: np.ndarray, offset: int) -> np.ndarray:
        room = np.empty(image.size + 16, np.float32)
        room[offset : offset + image.size] = image.ravel()
        return room[offset : offset + image.size].reshape(image.shape)

    first = repeatable_magnitude(*values)
    assert np.allclose(first, np.hypot(*values), rtol=1e-6)
    for offset in range(1, 16):
        again = repeatable_magnitude(*(placed(image, offset) for image in values))
        assert (again == first).all()
