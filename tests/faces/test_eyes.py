"""How far the eyes are open, where a mesh tells."""

from __future__ import annotations

import numpy as np
import pytest

from mcap.faces.eyes import EYES, openness
from mcap.registry import registry
from tests.support.photographs import ASTRONAUT, astronaut


def test_eyes_closed_where_the_mesh_tells():
    mesh = np.zeros((478, 2), np.float32)
    for eye, (x, height) in zip(EYES, ((0.0, 0.3), (100.0, 0.05)), strict=True):
        outer, inner = (x, 0), (x + 30, 0)
        lids = [(x + 10, -15), (x + 20, -15), (x + 20, 15), (x + 10, 15)]
        for number, (point, y) in zip(
            eye,
            zip(
                (outer, lids[0], lids[1], inner, lids[2], lids[3]), (0, 1, 1, 0, 1, 1), strict=True
            ),
            strict=True,
        ):
            mesh[number] = (point[0], point[1] * height * y)
    assert openness(mesh) == pytest.approx(0.3)  # a wink is no closed eye
    mesh[list(EYES[0])] *= (1, 0.05 / 0.3)
    assert openness(mesh) == pytest.approx(0.05)
    assert openness(mesh[:468]) == pytest.approx(0.05)
    assert openness(None) is None and openness(mesh[:68]) is None


def test_open_eyes_are_open_to_the_real_mesh(weights):
    pytest.importorskip("mediapipe")
    weights("face-landmarker")
    mesh = registry().create("masker", "mediapipe").mesh(astronaut(), ASTRONAUT)
    assert 0.15 < openness(mesh) < 0.45
