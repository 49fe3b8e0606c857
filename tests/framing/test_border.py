"""Where a border lies, and how it is joined to its picture."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcap.framing.border import WORST_SEAM, join, plan_border, repeats_mouth
from mcap.framing.crop import measure_framing
from mcap.framing.head import Head, crown_to_chin
from tests.support.drawn_people import person
from tests.support.subjects import make_profile

PASSPORT = make_profile(
    aspect="35:45",
    framing={
        "head_height": [0.70, 0.80],
        "eye_line": [0.55, 0.65],
        "head_center_x": [0.45, 0.55],
        "draw_border": True,
    },
)


def plan(size, head, factor=16, native=256):
    return plan_border(size, head, PASSPORT, factor=factor, step=factor, native_size=native)


@given(
    st.sampled_from([(8, 512, (456, 584)), (16, 256, (256, 256)), (8, 1024, (904, 1160))]),
    st.floats(0.55, 0.95),
    st.floats(0.42, 0.58),
    st.floats(0.4, 0.6),
)
def test_a_border_has_room_for_the_frame(model, share, eyes, middle):
    """Whole cells, about as many pixels as the model draws, the frame inside the canvas."""
    factor, native, size = model
    half = share * size[1] / 2
    head = Head(eyes * size[1] - half, eyes * size[1], eyes * size[1] + half, middle * size[0])
    border = plan(size, head, factor, native)
    if border is None:
        return
    assert measure_framing(border.box, head, PASSPORT.framing).met
    assert all(side % factor == 0 for side in (*border.size, *border.place))
    assert np.prod(border.size) < 1.9 * native**2
    known = border.known
    assert known.shape == (border.size[1] // factor, border.size[0] // factor)
    assert known.any() and not known.all()
    assert border.canvas(np.zeros((size[1], size[0], 3), np.uint8)).shape[:2] == border.size[::-1]
    # The frame's corners lie on the canvas.
    x0, y0, x1, y1 = border.place
    for x, y in (border.box[:2], border.box[2:]):
        there = x0 + x * (x1 - x0) / size[0], y0 + y * (y1 - y0) / size[1]
        assert -1e-6 <= there[0] <= border.size[0] + 1e-6
        assert -1e-6 <= there[1] <= border.size[1] + 1e-6


def test_no_border_where_there_is_room_or_no_help():
    assert plan((256, 256), None) is None
    assert plan((256, 256), Head(60, 128, 196, 128)) is None  # enough room
    assert plan((256, 256), Head(-600, 128, 856, 128)) is None  # a nose: another picture
    assert plan((256, 256), Head(20, 128, 236, 128)) is not None


def test_a_picture_keeps_its_pixels_and_goes_over_into_its_border():
    head = Head(20, 128, 236, 128)
    border = plan((256, 256), head)
    ramp = np.linspace(40, 200, 256)
    image = np.repeat(np.repeat(ramp[:, None, None], 256, 1), 3, 2).astype(np.uint8)
    canvas = border.canvas(image)
    joined, seam = join(image, canvas, border)
    x0, y0, x1, y1 = border.box
    assert joined.shape == (y1 - y0, x1 - x0, 3) and seam < 2
    inner = joined[-y0 + 10 : -y0 + 246, 10:-10].astype(int)
    assert np.abs(inner - image[10:246, max(x0, 0) + 10 : x1 - 10]).max() == 0
    canvas[border.place[3] :] = 255 - canvas[border.place[3] :]
    _, sharp = join(image, canvas, border)
    assert sharp > WORST_SEAM
    smooth = cv2.GaussianBlur(image, (0, 0), 30)
    assert join(smooth, border.canvas(smooth), border)[1] < 2


@pytest.mark.parametrize(("colour", "seen"), [((178, 76, 76), True), ((40, 64, 128), False)])
def test_a_mouth_is_not_drawn_twice(colour, seen):
    someone = person(size=(300, 420), middle=(150, 150), head=200)
    image, head = someone.image.copy(), crown_to_chin(someone.face)
    assert not repeats_mouth(image, someone.face, head)
    cv2.ellipse(image, (150, 275), (24, 8), 0, 0, 360, colour, -1)
    assert repeats_mouth(image, someone.face, head) is seen
    grey = np.repeat(image.mean(axis=-1, keepdims=True), 3, -1).astype(np.uint8)
    assert not repeats_mouth(grey, someone.face, head)  # nothing to tell lips by
