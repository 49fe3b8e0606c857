"""Masks: in [0, 1], on the face, and turning, growing and moving with it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcap.contracts import Face
from mcap.faces.masks import LandmarkMasker, iou, raise_forehead
from mcap.faces.oval import CENTRE, TEMPLATE, face_oval

UPRIGHT = TEMPLATE - TEMPLATE.mean(axis=0)


def face(angle: float, scale: float, x: float, y: float, turned: float = 0.0) -> Face:
    c, s = np.cos(angle) * scale, np.sin(angle) * scale
    points = UPRIGHT + np.array([[0, 0], [0, 0], [turned, 0], [0, 0], [0, 0]])
    landmarks = points @ np.array([[c, s], [-s, c]]) + (x, y)
    half = scale * 0.5
    return Face((x - half, y - half, x + half, y + half), 0.9, landmarks.astype(np.float32))


def draw(found: Face, height: int = 240, width: int = 320) -> np.ndarray:
    return LandmarkMasker().mask(np.zeros((height, width, 3), np.uint8), found)


anything = st.builds(
    face,
    st.floats(-np.pi, np.pi),
    st.floats(1.0, 4000.0),
    st.floats(-500, 900),
    st.floats(-500, 900),
    st.floats(-0.3, 0.3),
)


@settings(max_examples=60, deadline=None)
@given(anything, st.integers(1, 300), st.integers(1, 300))
def test_any_face_gives_a_mask_of_the_pictures_size_in_range(found, height, width):
    mask = draw(found, height, width)
    assert mask.shape == (height, width) and mask.dtype == np.float32
    assert np.isfinite(mask).all() and mask.min() >= 0 and mask.max() <= 1


inside = st.builds(
    face,
    st.floats(-np.pi, np.pi),
    st.floats(40.0, 110.0),
    st.floats(130, 190),
    st.floats(115, 125),
    st.floats(-0.06, 0.06),
)


@settings(max_examples=60, deadline=None)
@given(inside)
def test_the_mask_lies_on_the_face(found):
    mask = draw(found)
    for x, y in found.landmarks:
        assert mask[int(y), int(x)] > 0.75
    total = mask.sum()
    rows, columns = np.indices(mask.shape) + 0.5
    centre = np.array([(mask * columns).sum(), (mask * rows).sum()]) / total
    size = found.box[2] - found.box[0]
    assert np.hypot(*(centre - found.landmarks.mean(axis=0))) < 0.15 * size
    assert 0.35 * size**2 < total < 0.65 * size**2
    # Soft: part of it is neither 0 nor 1; and it ends inside the picture.
    assert ((mask > 0.1) & (mask < 0.9)).sum() > 0.1 * size
    assert mask[0].max() == mask[-1].max() == mask[:, 0].max() == mask[:, -1].max() == 0


@settings(max_examples=30, deadline=None)
@given(st.floats(40, 100), st.floats(-0.1, 0.1))
def test_turning_the_head_a_quarter_turns_the_mask(scale, turned):
    upright = draw(face(0.0, scale, 120, 120, turned), 240, 240)
    quarter = draw(face(np.pi / 2, scale, 120, 120, turned), 240, 240)
    assert np.abs(np.rot90(upright, -1) - quarter).max() < 0.06


@settings(max_examples=30, deadline=None)
@given(st.floats(40, 100), st.floats(-0.1, 0.1))
def test_twice_the_face_is_twice_the_mask(scale, turned):
    small = draw(face(0.2, scale, 120, 120, turned), 240, 240)
    large = draw(face(0.2, 2 * scale, 240, 240, turned), 480, 480)
    halved = large.reshape(240, 2, 240, 2).mean((1, 3))
    assert np.abs(halved - small).max() < 0.12
    assert abs(large.sum() / small.sum() - 4) < 0.1


def test_shift_moves_the_mask():
    assert (
        np.abs(draw(face(0.3, 90, 120, 110))[:, :-20] - draw(face(0.3, 90, 140, 110))[:, 20:]).max()
        < 1e-3
    )


def test_the_mask_reaches_from_forehead_to_chin():
    mask = draw(face(0.0, 100, 160, 120))
    rows = np.flatnonzero(mask[:, 160] > 0.5)
    eyes = 120 + UPRIGHT[0, 1] * 100
    mouth = 120 + UPRIGHT[3, 1] * 100
    height = mouth - eyes
    assert 0.6 * height < eyes - rows[0] < 1.0 * height  # in the forehead, below the crown
    assert 0.4 * height < rows[-1] - mouth < 0.8 * height  # the chin


def test_a_turned_face_reaches_further_on_the_side_that_is_seen():
    front, turned = face_oval(TEMPLATE), face_oval(TEMPLATE + np.eye(5, 1, -2) * [[0.08, 0]])
    assert np.abs(front[:, 0] - 0.5).max() < 0.4
    assert turned[:, 0].min() < front[:, 0].min() - 0.1  # looking right shows the left cheek
    assert turned[:, 0].max() < front[:, 0].max()


def test_the_outline_is_symmetric_and_simple():
    points = face_oval(TEMPLATE)
    mirrored = points[[0, *range(35, 0, -1)]] * (-1, 1) + (1, 0)
    assert np.abs(points - mirrored).max() < 0.01
    for right, down, longer in np.ndindex(3, 3, 3):  # as far as it goes, and further
        landmarks = TEMPLATE.copy()
        landmarks[2] += (0.2 * (right - 1), 0.2 * (down - 1))
        landmarks[3:, 1] += 0.2 * (longer - 1)
        around = face_oval(landmarks) - CENTRE
        (x, y), (next_x, next_y) = around.T, np.roll(around, -1, axis=0).T
        assert (x * next_y - y * next_x > 0).all()  # once round the centre, never back
    raised = raise_forehead(points)
    below = points[:, 1] > TEMPLATE[0, 1]
    assert np.array_equal(raised[below], points[below])
    assert raised[:, 1].min() < points[:, 1].min() - 0.03


def test_intersection_over_union():
    left, right = np.zeros((2, 8, 8), np.float32)
    left[:, :4] = right[:, 2:6] = 1
    assert iou(left, left) == 1 and iou(left, right) == pytest.approx(1 / 3)
    assert iou(left, 1 - left) == 0 and iou(left, 0.5 * left) == pytest.approx(0.5)
    assert iou(0 * left, 0 * left) == 1 and iou(0 * left, left) == 0
    with pytest.raises(ValueError, match=r"8, 8.*4, 8"):
        iou(left, left[:4])
