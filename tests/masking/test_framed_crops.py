"""Crops of a style's photos as its profile frames them."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from mcap.contracts import BackboneInfo, Face
from mcap.framing.crop import measure_framing, sampling_size
from mcap.framing.head import crown_to_chin
from mcap.masking.framed_crops import CropFrame, framed_crops
from mcap.style.profile import Framing, StyleProfile, find_profile, list_profiles
from tests.masking.test_crops import masked, roomy
from tests.support.photographs import ASTRONAUT, astronaut

SD15 = BackboneInfo("x", "local", "0", "none", True, 512, 32, "epsilon", multiple_of=64)
DEMO = replace(SD15, native_size=256, trained_sizes=((256, 256), (224, 288)))
SQUARES = replace(DEMO, trained_sizes=(), square_only=True)


def frame_for(profile: StyleProfile, info: BackboneInfo) -> CropFrame:
    aspect = profile.aspect_ratio
    return CropFrame(sampling_size(info, aspect), aspect, profile.framing)


def measured(photo, crop, frame):
    """How the head lies in the finished picture; the box of the photo's face moves along."""
    scale = np.hypot(*(crop.landmarks[1] - crop.landmarks[0]))
    scale /= np.hypot(*(photo.face.landmarks[1] - photo.face.landmarks[0]))
    centre = photo.face.landmarks.mean(axis=0)
    x0, y0, x1, y1 = (np.array(photo.face.box) - np.tile(centre, 2)) * scale
    x, y = crop.landmarks.mean(axis=0)
    face = Face((x + x0, y + y0, x + x1, y + y1), 0.9, crop.landmarks)
    left, top, width, height = frame.finished
    box = (round(left), round(top), round(left + width), round(top + height))
    return measure_framing(box, crown_to_chin(face), frame.framing)


@pytest.mark.parametrize("info", [SD15, DEMO, SQUARES])
@pytest.mark.parametrize("name", [found.name for found in list_profiles()])
def test_every_built_in_profiles_framing_is_met(name, info):
    photo, frame = roomy(), frame_for(find_profile(name), info)
    for crop in framed_crops(photo, frame, 0.45, 4):
        width, height = frame.size
        assert crop.image.shape == (height, width, 3) and crop.image.dtype == np.uint8
        assert crop.mask.shape == (height, width) and crop.mask.max() == 1
        found = measured(photo, crop, frame)
        assert found.met, (name, crop.name, found)


def test_sizes_are_near_the_native_area_and_passport_is_exact_on_the_demo():
    passport = find_profile("passport")
    assert frame_for(passport, SD15).size == (448, 576)
    assert frame_for(passport, DEMO).size == (224, 288)
    assert frame_for(passport, DEMO).finished == (0, 0, 224, 288)
    assert frame_for(passport, SQUARES).size == (256, 256)
    assert frame_for(passport, SQUARES).finished == (28.5, 0, 199, 256)


def test_the_first_crop_is_upright_and_aims_at_the_middle_where_there_is_room():
    photo, frame = roomy(), frame_for(find_profile("passport"), SD15)
    first, *others = framed_crops(photo, frame, 0.45, 5)
    slope = np.subtract(*first.landmarks[[1, 0]])
    assert abs(slope[1] / slope[0]) < 0.03
    found = measured(photo, first, frame)
    assert found.head_height == pytest.approx(0.75, abs=0.01)
    assert found.eye_line == pytest.approx(0.60, abs=0.01)
    assert found.head_center_x == pytest.approx(0.5, abs=0.01)
    heads = {measured(photo, crop, frame).head_height for crop in others}
    assert len(heads) > 1  # further crops lie elsewhere in the ranges
    again = framed_crops(photo, frame, 0.45, 5)
    assert all(
        np.array_equal(a.image, b.image) for a, b in zip([first, *others], again, strict=True)
    )
    assert [crop.name for crop in again[:2]] == ["a", "a (2)"]


def test_a_tight_photo_is_framed_as_large_as_the_profile_allows():
    """What is beyond the photo is no style, so there should be little of it."""
    x0, y0, x1, y1 = (round(value) for value in ASTRONAUT.box)
    room = round(0.35 * (y1 - y0))
    image = astronaut()[y0 - room : y1 + room // 3, x0 - room : x1 + room]
    tight = masked(image, ASTRONAUT.moved(room - x0, room - y0))
    frame = frame_for(find_profile("passport"), SD15)
    (crop,) = framed_crops(tight, frame, 0.45, 1)
    assert crop.inside is not None and crop.inside.mean() < 1
    found = measured(tight, crop, frame)
    assert found.met and found.head_height > 0.755
    assert (crop.mask[crop.inside == 0] == 0).all()


def test_a_profile_that_frames_nothing_but_the_eyes_keeps_the_size_of_the_face():
    photo = roomy()
    frame = CropFrame((512, 512), 1.0, Framing(eye_line=(0.5, 0.6)))
    (crop,) = framed_crops(photo, frame, 0.45, 1)
    eyes = crop.landmarks[:2].mean(axis=0)
    assert 1 - eyes[1] / 512 == pytest.approx(0.55, abs=1e-3)
    from mcap.geometry.ffhq import upright_height

    assert upright_height(crop.landmarks) == pytest.approx(0.45 * 512, rel=0.01)


@pytest.mark.parametrize("degrees", [-40, 25])
def test_a_tilted_head_is_framed_upright(degrees):
    photo = roomy()
    image = photo.photo.image
    centre = tuple(float(v) for v in photo.face.landmarks.mean(axis=0))
    turn = cv2.getRotationMatrix2D(centre, degrees, 1.0)
    size = image.shape[1], image.shape[0]
    landmarks = photo.face.landmarks @ turn[:, :2].T + turn[:, 2]
    face = replace(photo.face, landmarks=landmarks.astype(np.float32))
    tilted = masked(cv2.warpAffine(image, turn, size), face)
    frame = frame_for(find_profile("passport"), SD15)
    (straight,), (found,) = (framed_crops(one, frame, 0.45, 1) for one in (photo, tilted))
    assert np.abs(found.landmarks - straight.landmarks).max() < 0.03 * 576
