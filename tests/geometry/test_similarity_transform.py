"""One similarity: its inverse, its composition, its footprint, its pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcap.geometry.similarity_transform import Similarity, clip


def of(angle: float, zoom: float, x: float, y: float, mirrored: bool = False) -> Similarity:
    c, s = zoom * math.cos(angle), zoom * math.sin(angle)
    linear = np.array([[c, -s], [s, c]])
    if mirrored:
        linear[0] *= -1
    return Similarity.of(linear, np.array([x, y]))


similarities = st.builds(
    of,
    st.floats(-math.pi, math.pi),
    st.floats(0.05, 20),
    st.floats(-3000, 3000),
    st.floats(-3000, 3000),
    st.booleans(),
)
points = st.lists(
    st.tuples(st.floats(-5000, 5000), st.floats(-5000, 5000)), min_size=1, max_size=6
).map(lambda found: np.array(found, dtype=np.float64))


@settings(max_examples=100, deadline=None)
@given(similarities, points)
def test_the_inverse_leads_back_and_its_inverse_forth(there, places):
    back = there.inverse()
    size = 1 + np.abs(there.apply(places)).max() / min(there.scale, 1)
    assert np.allclose(back.apply(there.apply(places)), places, atol=1e-9 * size)
    assert np.allclose(there.apply_inverse(there.apply(places)), places, atol=1e-9 * size)
    assert np.allclose(back.inverse().matrix, there.matrix, rtol=1e-9, atol=1e-6)
    assert back.scale == pytest.approx(1 / there.scale)


@settings(max_examples=100, deadline=None)
@given(similarities, similarities, similarities, points)
def test_composition_is_one_after_the_other(first, second, third, places):
    both = second @ first
    size = 1 + np.abs(second.apply(first.apply(places))).max()
    assert np.allclose(both.apply(places), second.apply(first.apply(places)), atol=1e-9 * size)
    assert both.scale == pytest.approx(first.scale * second.scale)
    left, right = (third @ second) @ first, third @ (second @ first)
    assert np.allclose(left.matrix, right.matrix, rtol=1e-9, atol=1e-9 * np.abs(right.matrix).max())
    alone = second.inverse() @ both
    assert np.allclose(alone.matrix, first.matrix, rtol=1e-6, atol=1e-4)


@settings(max_examples=100, deadline=None)
@given(similarities, points, st.integers(-900, 900), st.integers(-900, 900))
def test_a_part_of_the_picture_lies_where_it_did(there, places, x, y):
    part = there.shifted((x, y))
    assert np.allclose(part.apply(places - (x, y)), there.apply(places), atol=1e-6)


@settings(max_examples=100, deadline=None)
@given(similarities, st.integers(1, 600), st.integers(0, 9))
def test_the_footprint_holds_all_that_the_frame_shows_and_no_more(there, side, margin):
    x0, y0, x1, y1 = there.footprint(side, margin)
    corners = there.corners(side)
    frame = np.array([[0, 0], [side, 0], [0, side], [side, side]], dtype=np.float64)
    assert np.allclose(there.apply(corners), frame, atol=1e-6)
    inside = there.apply_inverse(frame.mean(axis=0) + 0.999 * (frame - frame.mean(axis=0)))
    for places in (corners, inside):
        assert (places >= (x0 + margin, y0 + margin)).all()
        assert (places <= (x1 - margin, y1 - margin)).all()
    # A pixel less on any side would be too small.
    assert (corners.min(axis=0) < (x0 + margin + 1, y0 + margin + 1)).all()
    assert (corners.max(axis=0) > (x1 - margin - 1, y1 - margin - 1)).all()


@settings(max_examples=100, deadline=None)
@given(
    st.tuples(*[st.integers(-900, 900)] * 2),
    st.tuples(*[st.integers(1, 900)] * 2),
    st.tuples(*[st.integers(1, 600)] * 2),
    st.integers(0, 1),
)
def test_a_clipped_box_lies_inside_the_picture(corner, extent, size, least):
    (x, y), (width, height) = corner, extent
    x0, y0, x1, y1 = clip((x, y, x + width, y + height), size, least)
    assert 0 <= x0 <= x0 + least <= x1 <= size[0]
    assert 0 <= y0 <= y0 + least <= y1 <= size[1]
    columns = set(range(x, x + width)) & set(range(size[0]))
    if columns:
        assert columns == set(range(x0, x1))


def test_the_footprint_is_clipped_to_the_picture():
    there = Similarity.scaling(2.0, -40, -60)
    assert clip(there.footprint(100, margin=2), (500, 500), least=1) == (18, 28, 72, 82)
    away = Similarity.scaling(2.0, 900, 900)
    x0, y0, x1, y1 = clip(away.footprint(100, margin=2), (60, 50), least=1)
    assert 0 <= x0 < x1 <= 60
    assert 0 <= y0 < y1 <= 50


def test_pixels_count_from_their_corner():
    picture = np.zeros((40, 40), np.float32)
    picture[10, 20] = 1
    # Enlarged by 3 about the corner, the pixel from (20, 10) to (21, 11) is the one from (60, 30).
    there = Similarity.scaling(3.0, -45, -15)
    seen = there.warp(picture, (40, 40))
    assert np.unravel_index(seen.argmax(), seen.shape) == (16, 16)
    assert seen[16, 16] == pytest.approx(1)
    assert there.apply(np.array([[20.5, 10.5]])) == pytest.approx(np.array([[16.5, 16.5]]))
    assert np.array_equal(Similarity.scaling(1.0).warp(picture, (40, 40)), picture)


@pytest.mark.parametrize("zoom", [0.1, 0.37, 0.9])
def test_a_picture_is_reduced_to_the_size_that_the_frame_shows(zoom):
    picture = np.random.default_rng(0).random((120, 90), dtype=np.float32)
    there = of(0.4, zoom, 3, -8)
    small, rest = there.reduced(picture)
    assert small.shape == (round(120 * zoom), round(90 * zoom))
    assert small.mean() == pytest.approx(picture.mean(), abs=1e-3)
    corner = there.apply(np.array([[90.0, 120.0]]))
    assert np.allclose(rest.apply(np.array([small.shape[::-1]])), corner)
    same, unchanged = there.reduced(picture, below=0.05)
    assert same is picture and unchanged is there


def test_points_in_one_place_have_no_similarity():
    with pytest.raises(ValueError, match="one point"):
        Similarity.estimate(np.ones((5, 2)), np.eye(5, 2))
