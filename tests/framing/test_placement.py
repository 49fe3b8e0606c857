"""Where a finished picture lies: its aspect, its limits, and the profile's ranges where they can
be had."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcap.framing.crop import cut, measure_framing
from mcap.framing.head import Head
from mcap.framing.placement import Room, outside, place
from mcap.style.profile import Framing
from tests.framing.test_crop import aspects, framings, heads, ranges, sizes

PASSPORT = Framing(head_height=(0.7, 0.8), eye_line=(0.55, 0.65), head_center_x=(0.45, 0.55))
ENDLESS = Room((1.0,) * 4, (1.0,) * 4)
rooms = st.builds(Room, st.tuples(*[st.floats(0, 0.6)] * 4), st.tuples(*[st.floats(0.1, 8)] * 4))


@given(st.data(), sizes, aspects, framings, rooms)
def test_a_place_has_the_aspect_and_keeps_to_its_limits(data, size, aspect, framing, room):
    head = data.draw(st.none() | heads(size))
    box = place(size, aspect, head, framing, room)
    width, height = box[2] - box[0], box[3] - box[1]
    assert width >= 1 and height >= 1
    assert abs(width - height * aspect) <= 0.5 + 1e-6 or abs(height - width / aspect) <= 0.5 + 1e-6
    shares = outside(box, size)
    assert all(share <= limit + 1e-9 for share, limit in zip(shares, room.limits, strict=True))


@given(st.data(), sizes, aspects, framings)
def test_without_room_a_place_is_a_cut(data, size, aspect, framing):
    head = data.draw(st.none() | heads(size))
    box = place(size, aspect, head, framing)
    assert 0 <= box[0] < box[2] <= size[0] and 0 <= box[1] < box[3] <= size[1]


@given(st.data(), st.tuples(st.integers(300, 1500), st.integers(300, 1500)))
def test_with_endless_room_every_head_inside_is_framed(data, size):
    eyes = data.draw(st.floats(0.3 * size[1], 0.7 * size[1]))
    half = data.draw(st.floats(40, 0.3 * size[1]))
    head = Head(eyes - half, eyes, eyes + half, data.draw(st.floats(0.3, 0.7)) * size[0])
    box = place(size, 35 / 45, head, PASSPORT, ENDLESS)
    assert measure_framing(box, head, PASSPORT).met


@given(st.data(), sizes, aspects, ranges)
def test_no_head_height_means_nothing_is_given_away(data, size, aspect, eyes):
    head = data.draw(heads(size))
    box = place(size, aspect, head, Framing(eye_line=eyes), ENDLESS)
    plain = cut(size, aspect, None, Framing())
    assert (box[2] - box[0], box[3] - box[1]) == pytest.approx(
        (plain[2] - plain[0], plain[3] - plain[1]), abs=1
    )


def test_nothing_is_extrapolated_where_the_picture_has_enough():
    head = Head(crown=220, eyes=360, chin=500, center_x=400)
    box = place((800, 900), 35 / 45, head, PASSPORT, ENDLESS)
    assert outside(box, (800, 900)) == (0, 0, 0, 0)
    assert measure_framing(box, head, PASSPORT).met


def test_what_is_dear_is_spared():
    """A close-up needs more below the chin; the ranges leave open how much of it goes above."""
    head = Head(crown=20, eyes=245, chin=470, center_x=256)

    def above_and_below(penalties):
        box = place((512, 512), 35 / 45, head, PASSPORT, Room((0.5,) * 4, penalties))
        assert measure_framing(box, head, PASSPORT).met
        shares = outside(box, (512, 512))
        return shares[1], shares[3]

    dear_above = above_and_below((1, 20, 1, 1))
    dear_below = above_and_below((1, 1, 1, 20))
    assert dear_above[0] < dear_below[0] and dear_above[1] > dear_below[1]


def test_tall_hair_is_kept_inside_where_the_ranges_allow_it():
    head = Head(crown=300, eyes=500, chin=700, center_x=500)
    size = (1000, 1200)
    flat, tall = (place(size, 35 / 45, head, PASSPORT, top=row) for row in (300, 266))
    assert tall[1] <= 268 < flat[1]
    assert measure_framing(tall, head, PASSPORT).met


def test_a_head_that_nothing_can_help_comes_as_close_as_it_can():
    head = Head(crown=-40, eyes=240, chin=520, center_x=256)
    box = place((512, 512), 1.0, head, PASSPORT)
    assert box == (0, 0, 512, 512)
    assert not measure_framing(box, head, PASSPORT).met
