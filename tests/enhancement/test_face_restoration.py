"""Faces through a face restorer: what it leaves alone stays, what it changes lands in its place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mcap.contracts import Face
from mcap.enhancement.face_restoration import (
    FFHQ_512,
    Change,
    candidates,
    frame_of,
    is_face,
    restoration,
    shades,
    warp,
)
from mcap.faces.masks import LandmarkMasker
from mcap.geometry.similarity_transform import Similarity
from tests.support.restoring import Restore, face_at, noise

MASKER = LandmarkMasker()


@given(
    x=st.floats(-60, 200),
    y=st.floats(-60, 150),
    height=st.floats(20, 260),
    turn=st.floats(-180, 180),
    deep=st.booleans(),
    masked=st.booleans(),
)
@settings(max_examples=16, deadline=None)
def test_an_identity_restorer_changes_nothing(x, y, height, turn, deep, masked):
    """Small, large, turned, at the edge and beyond it."""
    picture = noise(160, 220, deep=deep)
    before = picture.copy()
    restorer = Restore("face", 1)
    restorer.info = replace(restorer.info, masked=masked)
    change = restoration(restorer, picture, face_at(x, y, height, turn=turn), MASKER)
    change.apply(picture)
    assert np.array_equal(picture, before)
    x0, y0, x1, y1 = change.box
    assert 0 <= x0 < x1 <= 220
    assert 0 <= y0 < y1 <= 160


def region(picture: np.ndarray, change: Change) -> np.ndarray:
    x0, y0, x1, y1 = change.box
    return picture[y0:y1, x0:x1]


@pytest.mark.parametrize("turn", [0, 30, 170])
@pytest.mark.parametrize("height", [60, 120, 600])
def test_what_is_outside_the_mask_is_untouched(height, turn):
    side = 3 * height
    picture = np.full((side, side, 3), 90, np.uint8)
    face = face_at(side / 2 - 0.37 * height, side / 2 - height / 2, height, turn=turn)
    restorer = Restore("face", 1, lambda image: image + 0.2)
    result = picture.copy()
    restoration(restorer, picture, face, MASKER, colour_match=False).apply(result)
    mask = MASKER.mask(picture, face)
    assert np.array_equal(result[mask == 0], picture[mask == 0])
    inside = result[mask == 1].astype(int) - 90
    assert abs(inside.mean() - 51) < 2  # 0.2 of 255, all of it in the middle of the face
    soft = (mask > 0.2) & (mask < 0.8)
    assert 0 < (result[soft].astype(int) - 90).mean() < 51


def whole_head(change) -> Restore:
    restorer = Restore("face", 1, change)
    restorer.info = replace(restorer.info, masked=False)
    return restorer


@pytest.mark.parametrize("turn", [0, 170])
def test_a_restorer_of_whole_heads_changes_all_of_its_frame(turn):
    picture = np.full((600, 600, 3), 90, np.uint8)
    face = face_at(220, 180, 200, turn=turn)
    restorer = whole_head(lambda image: image + 0.2)
    result = picture.copy()
    restoration(restorer, picture, face, MASKER, colour_match=False).apply(result)
    frame = frame_of(restorer)
    to_frame = Similarity.estimate(face.landmarks, frame.template)
    rows, columns = np.mgrid[:600, :600] + 0.5
    placed = to_frame.apply(np.stack([columns, rows], -1).reshape(-1, 2)).reshape(600, 600, 2)
    edge = np.minimum(placed, frame.size - placed).min(-1) / frame.size
    assert (result[edge > 0.07] == 141).all()
    assert (result[edge < -0.005] == 90).all()
    assert (MASKER.mask(picture, face)[edge > 0.07] == 0).any()  # far beyond the face


def test_a_restorer_of_whole_heads_keeps_the_face_s_shade_alone():
    """A smear beside the face goes, and takes no colour from it; a tint of the face is not kept."""

    def change(image):
        image = image + 0.1
        image[..., :40] = 1.0
        return image

    picture = np.full((400, 400, 3), 120, np.uint8)
    face = face_at(100, 80, 220)
    restorer = whole_head(change)
    change_of = [
        restoration(restorer, picture, face, MASKER, colour_match=match) for match in (True, False)
    ]
    matched, plain = (change.rows(0, change.box[3] - change.box[1]) for change in change_of)
    mask = region(MASKER.mask(picture, face), change_of[0])
    assert np.abs(plain[mask > 0.99] - 0.1).max() < 0.01
    assert np.abs(matched[mask > 0.99]).max() < 0.01
    assert np.allclose(matched[mask == 0], plain[mask == 0], atol=0.005)


@given(x=st.floats(150, 330), y=st.floats(0, 200), height=st.floats(40, 200))
@settings(max_examples=12, deadline=None)
def test_a_restorer_of_whole_heads_leaves_the_faces_beside_it_alone(x, y, height):
    """Other faces in the frame, as large or smaller, restored or not, whatever comes first."""
    picture = np.full((400, 560, 3), 90, np.uint8)
    face, other = face_at(20, 90, 170), face_at(x, y, height)
    restorer = whole_head(lambda image: image + 0.2)
    both = [
        restoration(restorer, picture, one, MASKER, others=[two], colour_match=False)
        for one, two in ((face, other), (other, face))
    ]
    changed = [np.zeros(picture.shape[:2], np.float32) for _ in both]
    for change, whole in zip(both, changed, strict=True):
        x0, y0, x1, y1 = change.box
        whole[y0:y1, x0:x1] = np.abs(change.rows(0, y1 - y0)).max(-1)
    first, second = changed
    assert (np.minimum(first, second) < 1e-6).all()
    for one, mine, theirs in ((face, first, second), (other, second, first)):
        column, row = one.landmarks[2].astype(int)
        assert mine[row, column] > 0.19
        assert theirs[row, column] == 0


def test_a_detail_lands_where_the_restorer_drew_it():
    """A dark spot on the template's nose is on the nose of a turned, small face."""
    x, y = FFHQ_512.template[2].astype(int)

    def spot(image):
        image = image.clone()
        image[..., y - 20 : y + 20, x - 20 : x + 20] = 0
        return image

    picture = np.full((300, 300, 3), 200, np.uint8)
    face = face_at(90, 80, 150, turn=25)
    result = picture.copy()
    restoration(Restore("face", 1, spot), picture, face, MASKER, colour_match=False).apply(result)
    dark = 200.0 - result[..., 0]
    rows, columns = np.mgrid[:300, :300] + 0.5
    centre = np.array([(columns * dark).sum(), (rows * dark).sum()]) / dark.sum()
    assert np.hypot(*(centre - face.landmarks[2])) < 1


def test_shades_stay_the_input_s_and_detail_is_new():
    generator = torch.Generator().manual_seed(0)
    pattern = torch.rand((1, 3, 512, 512), generator=generator) * 0.1

    def tinted(image):
        return image + torch.tensor([0.15, -0.1, 0.1]).view(1, 3, 1, 1) + pattern

    picture = np.full((400, 400, 3), 120, np.uint8)
    face = face_at(100, 80, 220)
    matched = restoration(Restore("face", 1, tinted), picture, face, MASKER)
    plain = restoration(Restore("face", 1, tinted), picture, face, MASKER, colour_match=False)
    mask = MASKER.mask(picture, face)
    inside = region(mask, matched) > 0.99
    height = matched.box[3] - matched.box[1]
    values = {change: change.rows(0, height)[inside] for change in (matched, plain)}
    assert np.abs(values[plain].mean(axis=0)).max() > 0.1
    assert np.abs(values[matched].mean(axis=0)).max() < 0.01
    # The pattern is there as before: only what is coarse is gone.
    fine = [values[change].std(axis=0) for change in (matched, plain)]
    assert np.allclose(*fine, rtol=0.1)


def test_coarse_shades_are_those_inside_the_mask():
    mask = np.zeros((120, 120), np.float32)
    mask[30:90, 30:90] = 1
    change = np.where(mask[..., None] > 0, np.float32(0.3), np.float32(-5)).repeat(3, axis=2)
    assert np.allclose(shades(change, mask)[30:90, 30:90], 0.3, atol=1e-4)


def test_rows_that_are_worked_out_apart_are_those_of_the_whole():
    generator = torch.Generator().manual_seed(0)
    pattern = torch.rand((1, 3, 512, 512), generator=generator)
    picture = noise(330, 300)
    change = restoration(
        Restore("face", 1, lambda image: pattern), picture, face_at(40, 30, 190, turn=20), MASKER
    )
    height = change.box[3] - change.box[1]
    whole = change.rows(0, height)
    parts = [change.rows(start, min(start + 17, height)) for start in range(0, height, 17)]
    assert np.abs(np.concatenate(parts) - whole).max() < 1e-3


def test_a_face_at_the_edge_is_continued_by_its_mirror_image():
    picture = noise(200, 200)
    seen = []

    def keep(image):
        seen.append(image)
        return image

    restoration(Restore("face", 1, keep), picture, face_at(-30, 40, 120), MASKER)
    assert float(seen[0].min()) >= 0
    # No black corner: every part of the frame shows some of the picture.
    assert seen[0][0].unfold(1, 64, 64).unfold(2, 64, 64).std(dim=(-1, -2)).min() > 0.02


def test_a_strip_of_a_face_takes_no_longer_than_all_of_it():
    """Three columns of a face are in the picture; OpenCV's own mirror image took minutes."""
    picture = noise(120, 3)
    change = restoration(Restore("face", 1), picture, face_at(-180, -60, 260), MASKER)
    assert np.array_equal(change.region(picture), region(picture, change))


def test_a_restorer_says_its_frame_or_gets_ffhq_s():
    restorer = Restore("face", 1)
    assert frame_of(restorer).size == 512
    restorer.info = replace(restorer.info, input_size=256)
    assert np.allclose(frame_of(restorer).template, FFHQ_512.template / 2)
    restorer.info = replace(restorer.info, input_size=256, template=((1.0, 1.0),) * 5)
    assert np.array_equal(frame_of(restorer).template, np.ones((5, 2)))


def test_a_restorer_of_another_size_is_named():
    restorer = Restore("face", 2)
    restorer.restore = lambda image: image
    with pytest.raises(ValueError, match="1024"):
        restoration(restorer, noise(90, 90), face_at(20, 10, 60), MASKER)


# which findings are faces


def test_what_is_no_face_is_left_out():
    upright = face_at(10, 10, 100)
    upside = Face(upright.box, 0.9, upright.landmarks[[1, 0, 2, 4, 3]])  # as in a mirror
    scattered = Face(upright.box, 0.9, upright.landmarks[[2, 3, 0, 1, 4]])
    lost = Face(upright.box, 0.9, np.full((5, 2), np.nan, np.float32))
    point = Face(upright.box, 0.9, np.zeros((5, 2), np.float32))
    unsure = face_at(10, 10, 100, score=0.5)
    for face in (upside, scattered, lost, point):
        assert not is_face(face.landmarks)
    found = candidates(
        [upright, upside, scattered, lost, point, unsure],
        min_score=0.7,
        min_face=32,
        max_yaw=60,
    )
    assert [(item.face is upright, item.reason) for item in found] == [(True, "")]
    assert is_face(face_at(0, 0, 50, turn=130).landmarks)


def test_small_and_turned_faces_are_kept_as_they_are_with_the_reason():
    small = face_at(10, 10, 20)
    turned = face_at(10, 10, 100)
    points = turned.landmarks.copy()
    points[2, 0] += 26  # the nose far to the side
    turned = Face(turned.box, 0.9, points)
    found = candidates([small, turned], min_score=0.7, min_face=32, max_yaw=40)
    assert [item.reason.split(":")[0] for item in found] == ["too small", "turned too far"]


# geometry


def test_warping_keeps_the_mean_where_it_makes_smaller():
    picture = noise(240, 240).astype(np.float32) / 255
    small = warp(picture, Similarity.scaling(0.1), 24, 4)
    expected = picture.reshape(24, 10, 24, 10, 3).mean(axis=(1, 3))
    assert np.abs(small - expected).max() < 1e-5
