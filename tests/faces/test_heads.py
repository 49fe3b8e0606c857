"""Head masks on drawn people: hair, ears and hats are in, shoulders and background are out."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from mcap.contracts import Face, MaskerInfo
from mcap.faces.heads import HeadFrame, head_mask, person_mask
from mcap.faces.masks import LandmarkMasker
from mcap.faces.oval import TEMPLATE
from mcap.faces.parts import FaceParts, Part
from mcap.geometry.similarity_transform import Similarity
from tests.support.drawn_people import SHIRT, person

SIZE, EYES, HALF = (600, 700), (300, 300), 150.0


def drawn(**how):
    return person(SIZE, EYES, 2 * HALF, **how)


def head_of(one, others=()):
    face_mask = LandmarkMasker().mask(one.image, one.face)
    return head_mask(one.matte, face_mask, one.face, others)


def at(mask, x, y):
    """The mask at a place in halves of the head's height from between the eyes, right and down."""
    return mask[round(EYES[1] + y * HALF), round(EYES[0] + x * HALF)]


def with_disc(one, x, y, across, down):
    """The person with one more disc on them: a hat, a knot of hair."""
    matte = one.matte.copy()
    place = round(EYES[0] + x * HALF), round(EYES[1] + y * HALF)
    cv2.ellipse(matte, place, (round(across * HALF), round(down * HALF)), 0, 0, 360, 1.0, -1)
    return replace(one, matte=matte)


def test_hair_is_in_and_shoulders_and_background_are_out():
    one = drawn()
    mask = head_of(one)
    hair = (one.matte > 0.99) & (one.own.max(axis=2) < 0.2)
    hair[round(EYES[1] + 0.9 * HALF) :] = False
    assert hair.sum() > 5000 and mask[hair].min() > 0.99
    face_mask = LandmarkMasker().mask(one.image, one.face)
    assert mask[(one.matte == 0) & (face_mask == 0)].max() == 0
    shirt = (one.matte > 0.99) & (np.abs(one.own - SHIRT).max(axis=2) < 0.02)
    assert mask[shirt].max() == 0
    assert (mask >= face_mask).all() and mask.sum() > 1.3 * face_mask.sum()
    assert mask.dtype == np.float32 and mask.max() <= 1


def test_the_edge_is_as_soft_as_the_persons():
    one = drawn(hairs=9)
    mask = head_of(one)
    fine = (one.matte > 0.1) & (one.matte < 0.9)
    fine[EYES[1] :] = False
    assert fine.sum() > 300
    assert np.abs(mask - one.matte)[fine].max() < 0.02


def test_a_hat_and_a_knot_of_hair_are_in():
    hat = head_of(with_disc(drawn(), 0, -1.3, 1.1, 0.5))
    assert at(hat, 0, -1.6) == 1 and at(hat, 0.9, -1.3) == 1
    knot = head_of(with_disc(drawn(), 0, -1.35, 0.3, 0.35))
    assert at(knot, 0, -1.6) == 1


def test_a_bald_head_ends_at_the_skull():
    one = drawn()
    bald = np.zeros_like(one.matte)
    cv2.ellipse(bald, EYES, (round(0.75 * HALF), round(1.0 * HALF)), 0, 0, 360, 1.0, -1)
    bald[EYES[1] + round(HALF) :] = one.matte[EYES[1] + round(HALF) :]
    mask = head_of(replace(one, matte=bald))
    assert at(mask, 0, -0.95) == 1 and at(mask, 0, -1.05) == 0 and at(mask, 0.7, 0) == 1


def test_long_hair_ends_at_the_chin_line():
    long = drawn()
    for side in (-0.75, 0.75):
        long = with_disc(long, side, 0.8, 0.3, 1.4)
    mask = head_of(long)
    chin = HeadFrame.of(long.face)
    below = chin.to_unit.apply_inverse(np.array([[0.5, chin.chin + 0.05]]))[0, 1]
    assert mask[round(below) :].max() == 0
    assert at(mask, 0.8, 0.2) == 1 and at(mask, -0.8, 0.2) == 1


def test_the_sides_end_a_heads_width_from_the_axis():
    wide = with_disc(drawn(), 0, 0, 3, 0.2)
    mask = head_of(wide)
    assert at(mask, 1.1, 0) == 1 and at(mask, 1.6, 0) == 0 and at(mask, -1.6, 0) == 0


def test_what_does_not_hang_together_with_the_face_is_out():
    hand = with_disc(drawn(), 1.1, -0.9, 0.1, 0.1)
    assert hand.matte[round(EYES[1] - 0.9 * HALF), round(EYES[0] + 1.1 * HALF)] == 1
    assert at(head_of(hand), 1.1, -0.9) == 0


@pytest.mark.parametrize("gap", [1.3, 1.7])
def test_of_two_people_cheek_to_cheek_each_has_their_own_half(gap):
    one = drawn()
    apart = round(gap * HALF)
    moved = np.roll(one.matte, apart, axis=1)
    moved[:, :apart] = 0
    both = replace(one, matte=np.maximum(one.matte, moved))
    shift = np.array([apart, 0], np.float32)
    x0, y0, x1, y1 = one.face.box
    other = Face((x0 + apart, y0, x1 + apart, y1), 0.9, one.face.landmarks + shift)
    mine = head_of(both, [other])
    theirs = head_mask(both.matte, LandmarkMasker().mask(one.image, other), other, [one.face])
    assert at(mine, 0, -0.8) == 1 and at(mine, gap, -0.8) == 0
    assert at(theirs, gap, -0.8) == 1 and at(theirs, 0, -0.8) == 0
    # Together they are both heads, and nowhere twice.
    assert (mine + theirs).max() < 1.05
    assert at(head_of(both), gap - 0.6, -0.2) == 1  # nobody said that it is another's


@pytest.mark.parametrize("degrees", [-30, 20, 90])
def test_the_mask_turns_with_the_head(degrees):
    one = drawn()
    turn = cv2.getRotationMatrix2D(EYES, degrees, 1.0)
    face = Face(one.face.box, 0.9, (one.face.landmarks @ turn[:, :2].T + turn[:, 2]).astype("f4"))
    turned = replace(one, matte=cv2.warpAffine(one.matte, turn, SIZE), face=face)
    upright = cv2.warpAffine(head_of(one), turn, SIZE)
    assert np.abs(head_of(turned) - upright).mean() < 0.002


def test_a_profile_view_reaches_the_back_of_the_head():
    # Looking right: the landmarks lie close together near the front, the skull behind them.
    one = drawn()
    landmarks = np.array([(0.28, 0), (0.55, 0), (0.72, 0.32), (0.3, 0.58), (0.5, 0.58)], "f4")
    landmarks = landmarks * HALF + np.array(EYES, "f4")
    profile = replace(one, face=Face(one.face.box, 0.9, landmarks))
    mask = head_of(profile)
    assert at(mask, -0.7, -0.2) == 1 and at(mask, 0, -1.0) == 1
    assert mask[round(EYES[1] + 1.4 * HALF) :].max() == 0


def test_without_a_person_the_face_is_left():
    one = drawn()
    face_mask = LandmarkMasker().mask(one.image, one.face)
    nobody = np.zeros_like(one.matte)
    assert np.array_equal(head_mask(nobody, face_mask, one.face), face_mask)


class Parser:
    """Sees hair above a line of the unit frame and skin below it."""

    info = MaskerInfo(finds_parts=True)

    def __init__(self, sees_a_face=True):
        self.sees_a_face = sees_a_face

    def mask(self, image, face):
        raise AssertionError("a parser is asked for its parts")

    def parts(self, image, face):
        to_frame = Similarity.scaling(128.0, 64, 64) @ Similarity.estimate(face.landmarks, TEMPLATE)
        scores = np.zeros((len(Part), 256, 256), np.float32)
        scores[Part.HAIR, :90], scores[Part.SKIN, 90:] = 1, 1
        if not self.sees_a_face:
            scores[:] = 0
            scores[Part.OTHER] = 1
        return FaceParts(scores, to_frame)


def test_of_a_parser_face_and_hair_are_the_person():
    one = drawn()
    seen = person_mask(Parser(), one.image, one.face)
    face_mask = LandmarkMasker().mask(one.image, one.face)
    assert at(seen, 0, -0.9) == 1 and at(face_mask, 0, -0.9) == 0
    assert at(head_mask(seen, face_mask, one.face), 0, -0.9) == 1
    assert not person_mask(Parser(sees_a_face=False), one.image, one.face).any()
