"""Sizes and cuts: the aspect is kept to a pixel, and a cut never leaves the picture."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcap.contracts import BackboneInfo, Face
from mcap.framing.crop import (
    SMALLEST_CUT,
    cut,
    dots_per_inch,
    largest_box,
    measure_framing,
    sampling_size,
)
from mcap.framing.head import Head, head_from_box
from mcap.style.profile import Framing

INFO = BackboneInfo("x", "local", "0", "none", True, 512, 32, "epsilon", multiple_of=64)
NONE = Framing()

sizes = st.tuples(st.integers(32, 1500), st.integers(32, 1500))
aspects = st.floats(0.25, 4.0)
ranges = st.tuples(st.floats(0.05, 0.95), st.floats(0, 0.05)).map(lambda r: (r[0], r[0] + r[1]))
framings = st.builds(
    lambda head, eyes, x: Framing(head_height=head, eye_line=eyes, head_center_x=x),
    st.none() | ranges,
    st.none() | ranges,
    st.none() | ranges,
)


@st.composite
def heads(draw, size: tuple[int, int]) -> Head:
    """Somewhere in and around the picture, also half outside and larger than it."""
    width, height = size
    eyes = draw(st.floats(-0.2 * height, 1.2 * height))
    half = draw(st.floats(1.0, float(height)))
    return Head(eyes - half, eyes, eyes + half, draw(st.floats(-0.2 * width, 1.2 * width)))


@given(st.data(), sizes, aspects, framings)
def test_a_cut_lies_inside_and_has_the_aspect(data, size, aspect, framing):
    head = data.draw(st.none() | heads(size))
    x0, y0, x1, y1 = cut(size, aspect, head, framing)
    width, height = x1 - x0, y1 - y0
    assert 0 <= x0 < x1 <= size[0] and 0 <= y0 < y1 <= size[1]
    # One side is the other times the aspect, rounded.
    assert abs(width - height * aspect) <= 0.5 + 1e-6 or abs(height - width / aspect) <= 0.5 + 1e-6
    most = largest_box(size, aspect)
    assert width <= most[0] and height <= most[1]
    assert height >= SMALLEST_CUT * most[1] - 1


@given(st.data(), sizes, aspects)
def test_without_framing_nothing_is_given_away(data, size, aspect):
    head = data.draw(st.none() | heads(size))
    x0, y0, x1, y1 = cut(size, aspect, head, NONE)
    assert (x1 - x0, y1 - y0) == largest_box(size, aspect)


@given(aspects, st.sampled_from([8, 16, 64]), st.sampled_from([256, 512, 1024]))
def test_sampling_sizes_have_the_multiple_the_area_and_the_aspect(aspect, multiple, native):
    info = replace(INFO, multiple_of=multiple, native_size=native)
    width, height = sampling_size(info, aspect)
    assert width % multiple == height % multiple == 0
    assert abs(width - native * aspect**0.5) <= multiple / 2
    assert abs(height - native / aspect**0.5) <= multiple / 2


def test_a_square_backbone_draws_squares():
    info = replace(INFO, square_only=True, native_size=256)
    assert sampling_size(info, 35 / 45) == (256, 256)
    assert sampling_size(INFO, 35 / 45) == (448, 576)
    assert sampling_size(INFO, 1.0) == (512, 512)


def test_a_backbone_that_names_its_sizes_draws_the_nearest_of_them():
    info = replace(INFO, native_size=256, trained_sizes=((256, 256), (224, 288)))
    assert sampling_size(info, 35 / 45) == (224, 288)
    assert sampling_size(info, 4 / 5) == (224, 288)
    assert sampling_size(info, 1.0) == sampling_size(info, 16 / 9) == (256, 256)


def test_a_passport_cut_keeps_all_its_rules_where_there_is_room():
    framing = Framing(head_height=(0.7, 0.8), eye_line=(0.55, 0.65), head_center_x=(0.45, 0.55))
    head = Head(crown=120, eyes=260, chin=400, center_x=300)
    box = cut((512, 512), 35 / 45, head, framing)
    result = measure_framing(box, head, framing)
    assert result.met
    assert result.head_height == pytest.approx(0.75, abs=0.01)
    assert result.eye_line == pytest.approx(0.60, abs=0.01)
    assert result.head_center_x == pytest.approx(0.5, abs=0.01)


def test_a_head_that_is_too_large_or_too_small_says_so():
    framing = Framing(head_height=(0.7, 0.8))
    large = Head(crown=0, eyes=240, chin=480, center_x=256)
    box = cut((512, 512), 1.0, large, framing)
    assert box == (0, 0, 512, 512) and not measure_framing(box, large, framing).met
    small = Head(crown=250, eyes=275, chin=300, center_x=256)
    box = cut((512, 512), 1.0, small, framing)
    assert box[3] - box[1] == 256 and not measure_framing(box, small, framing).met


def test_the_face_stays_in_a_cut():
    head = Head(crown=30, eyes=80, chin=130, center_x=400)
    x0, y0, x1, y1 = cut((512, 512), 0.5, head, NONE)
    assert x0 < 350 and x1 > 450 and y0 == 0 and y1 == 512
    x0, y0, x1, y1 = cut((512, 512), 2.0, head, NONE)
    assert y0 < 30 and y1 > 130


def test_a_head_is_as_high_above_the_eyes_as_below():
    landmarks = np.array([[40, 50], [60, 50], [50, 60], [42, 70], [58, 70]], np.float32)
    head = head_from_box(Face((30, 30, 70, 85), 0.9, landmarks))
    assert (head.crown, head.eyes, head.chin, head.center_x) == (15, 50, 85, 50)


def test_print_size_gives_the_resolution():
    assert dots_per_inch((413, 531), (35, 45)) == pytest.approx((299.7, 299.7), abs=0.1)
    assert dots_per_inch((100, 100), None) is None
