"""From five landmarks to a head's extent."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcap.contracts import Face
from mcap.framing.head import crown_to_chin
from tests.support.drawn_people import person
from tests.support.photographs import astronaut

SOMEONE = person(size=(60, 60), middle=(30, 25), head=30).face


def moved(face: Face, scale: float, degrees: float, shift) -> Face:
    angle = np.radians(degrees)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    landmarks = (face.landmarks @ turn.T + shift).astype(np.float32)
    corners = np.array(face.box).reshape(2, 2) @ turn.T + shift
    return Face((*corners.min(axis=0), *corners.max(axis=0)), face.score, landmarks)


def test_the_drawn_head_is_found_as_it_was_drawn():
    head = crown_to_chin(SOMEONE)
    assert head.eyes == 25 and head.center_x == pytest.approx(30)
    assert head.height == pytest.approx(30, rel=0.02)


@given(st.floats(0.2, 40), st.floats(-30, 30), st.tuples(*[st.floats(-500, 500)] * 2))
def test_it_grows_moves_and_tilts_with_the_face(scale, degrees, shift):
    plain, head = crown_to_chin(SOMEONE), crown_to_chin(moved(SOMEONE, scale, degrees, shift))
    expected = plain.height * scale * np.cos(np.radians(degrees))
    assert head.height == pytest.approx(expected, rel=0.05)
    assert head.chin - head.eyes == pytest.approx(head.eyes - head.crown)


@given(st.lists(st.floats(0, 100, width=32), min_size=10, max_size=10))
def test_whatever_a_detector_says_it_is_a_head(values):
    landmarks = np.array(values, np.float32).reshape(5, 2)
    head = crown_to_chin(Face((0, 0, 100, 100), 0.5, landmarks))
    assert np.isfinite([head.crown, head.eyes, head.chin]).all()
    assert head.crown < head.eyes < head.chin


def test_a_mesh_knows_the_chin_better():
    points = np.zeros((478, 2), np.float32)
    points[152] = 30, 42
    head = crown_to_chin(replace(SOMEONE, mesh=points))
    assert (head.crown, head.eyes, head.chin) == pytest.approx((8, 25, 42))


def test_both_agree_about_a_photo(weights):
    pytest.importorskip("mediapipe", reason="the extra mcap[mediapipe] is not installed")
    from mcap_plugins.mediapipe.mesh import Mesh, MeshDetector
    from mcap_plugins.opencv.yunet import YuNetDetector

    photo = astronaut()
    by_landmarks = crown_to_chin(YuNetDetector(weights("yunet")).detect(photo)[0])
    by_mesh = crown_to_chin(MeshDetector(Mesh(weights("face-landmarker"))).detect(photo)[0])
    assert by_landmarks.height == pytest.approx(by_mesh.height, rel=0.06)
