"""Beyond the picture's edge."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from mcap.framing.extend_canvas import extend_background, extend_person, roughness
from mcap.framing.settings import FinishSettings
from mcap.framing.silhouette import Silhouette, crown_overhang, silhouette, touches
from tests.support.drawn_people import SHIRT, SKIN, person


def canvas_of(someone, border):
    left, top, right, bottom = border
    edges = (top, bottom, left, right)
    wide = cv2.copyMakeBorder(someone.own, *edges, cv2.BORDER_REPLICATE)
    matte = cv2.copyMakeBorder(someone.matte, *edges, cv2.BORDER_REPLICATE)
    height, width = someone.matte.shape
    return wide, matte, (left, top, left + width, top + height)


def test_shoulders_go_on_as_they_were_and_the_neck_becomes_a_neckline():
    """The same person drawn whole is what a cut one should be drawn out to."""
    whole = person(size=(600, 520), middle=(300, 250))
    cut = person(size=(600, 460), middle=(300, 250))
    colours, matte, known = canvas_of(cut, (0, 0, 0, 60))
    own, drawn = extend_person(colours, matte, known, 300, np.array(SKIN, np.float32))
    assert np.array_equal(drawn[:460], cut.matte) and np.array_equal(own[:460], cut.own)
    beyond = np.abs(drawn[460:] - whole.matte[460:])
    assert beyond.mean() < 0.02
    replicated = np.abs(matte[460:] - whole.matte[460:]).mean()
    assert beyond.mean() < 0.35 * replicated
    clothes = drawn[470:] > 0.9
    assert np.abs(own[470:][clothes] - SHIRT).mean() < 0.05


def test_bare_skin_at_the_edge_narrows():
    cut = person(size=(600, 430), middle=(300, 250))  # through the neck
    colours, matte, known = canvas_of(cut, (0, 0, 0, 80))
    own, drawn = extend_person(colours, matte, known, 300, np.array(SKIN, np.float32))
    skin = (np.abs(own - SKIN).max(axis=-1) < 0.1) & (drawn > 0.5)
    widths = skin[430:].sum(axis=1)
    assert widths[2] > 60 and widths[-1] < 0.4 * widths[2]
    assert np.isfinite(own).all()


def test_there_is_nobody_beyond_a_side_that_the_person_does_not_touch():
    someone = person(size=(600, 700), middle=(250, 330))
    colours, matte, known = canvas_of(someone, (30, 40, 0, 50))
    _, drawn = extend_person(colours, matte, known, 300)
    assert [touches(someone.matte, side) for side in range(4)] == [True, False, False, True]
    assert drawn[:40].max() == 0
    assert drawn[-1].max() > 0.9 and drawn[-10, 0] > 0.9


def test_a_cut_head_is_closed_by_its_circle():
    disc = np.zeros((400, 400), np.float32)
    cv2.circle(disc, (200, 200), 150, 1.0, -1, cv2.LINE_AA)
    cut = disc[80:]
    line = silhouette(cut, 18, top=True)
    assert crown_overhang(line) == pytest.approx(30, abs=5)  # the circle's top is in row 50
    assert crown_overhang(Silhouette(0, 100, -1.0, -1.0)) == pytest.approx(50 * (2**0.5 - 1))
    colours = np.full((440, 400, 3), 0.5, np.float32)
    matte = cv2.copyMakeBorder(cut, 120, 0, 0, 0, cv2.BORDER_REPLICATE)
    _, drawn = extend_person(colours, matte, (0, 120, 400, 440), 300)
    truth = cv2.copyMakeBorder(disc, 40, 0, 0, 0, cv2.BORDER_CONSTANT)
    assert np.abs(drawn - truth)[:120].sum() < 0.25 * truth[:120].sum()


def gradient(height=120, width=160):
    rows, columns = np.mgrid[:height, :width]
    ramp = 0.3 + 0.3 * columns / width + 0.2 * rows / height
    return np.dstack([ramp, 0.8 * ramp, 0.6 * ramp]).astype(np.float32)


def test_a_background_goes_on_smoothly_and_without_the_person():
    wall = gradient()
    matte = np.zeros(wall.shape[:2], np.float32)
    matte[40:, 60:100] = 1.0
    seen = np.where(matte[..., None] > 0, np.float32([0.9, 0.0, 0.0]), wall)
    border = (0, 60, 50, 0)  # top, bottom, left, right
    canvas = cv2.copyMakeBorder(seen, *border, cv2.BORDER_CONSTANT)
    wide = cv2.copyMakeBorder(matte, *border, cv2.BORDER_CONSTANT)
    known = (50, 0, 210, 120)
    result = extend_background(canvas, wide, known)
    assert np.array_equal(result[:120, 50:], seen)
    outer = np.ones(wide.shape, bool)
    outer[:120, 50:] = False
    reddish = result[..., 0] - result[..., 1]
    assert reddish[outer].max() < 0.2  # 0.9 in the person, up to 0.16 on the wall
    # No step where the picture ends.
    assert np.abs(result[:110, 49] - result[:110, 50]).mean() < 0.02
    assert np.abs(result[120, 60:100] - result[119, 60:100]).mean() < 0.02


def test_roughness_tells_a_wall_from_leaves():
    rng = np.random.default_rng(3)
    nobody = np.zeros((300, 300), np.float32)
    wall = np.full((300, 300, 3), 0.6, np.float32) + rng.normal(0, 0.01, (300, 300, 3))
    leaves = np.repeat(rng.random((300, 300, 1)), 3, axis=2)
    leaves = cv2.normalize(cv2.GaussianBlur(leaves, (0, 0), 3), None, 0, 1, cv2.NORM_MINMAX)
    both = wall.astype(np.float32)
    both[:, 150:] = leaves[:, 150:]
    limit = FinishSettings().plain
    assert roughness(both, nobody, 0, 200) < limit / 2 < 2 * limit < roughness(both, nobody, 2, 200)
    assert roughness(both, np.ones_like(nobody), 0, 200) == float("inf")
