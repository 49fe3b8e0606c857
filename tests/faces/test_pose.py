"""How a head is turned."""

from __future__ import annotations

import numpy as np
import pytest

from mcap.faces.pose import pose
from tests.support.photographs import ASTRONAUT


@pytest.mark.parametrize("degrees", [-150, -40, 0, 25, 90])
def test_roll_is_the_angle_of_the_head(degrees):
    upright = pose(ASTRONAUT.landmarks)
    turn = np.radians(degrees)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    turned = pose((ASTRONAUT.landmarks @ rotation.T).astype(np.float32))
    difference = (turned.roll - upright.roll - degrees + 180) % 360 - 180
    assert abs(difference) < 0.01
    assert abs(turned.yaw - upright.yaw) < 0.01 and abs(turned.pitch - upright.pitch) < 0.01


def test_pose_of_a_turned_model_head():
    # A head of eyes, nose and mouth in millimetres; the camera is far away.
    head = np.array([[-32, 0, 0], [32, 0, 0], [0, 40, 38], [-26, 69, 0], [26, 69, 0]], dtype=float)
    for yaw in (-40, -15, 0, 15, 40):
        angle = np.radians(yaw)
        x = head[:, 0] * np.cos(angle) + head[:, 2] * np.sin(angle)
        found_pose = pose(np.stack([x, head[:, 1]], 1).astype(np.float32))
        assert abs(found_pose.yaw - yaw) < 8
        assert abs(found_pose.pitch) < 5 and abs(found_pose.roll) < 1
    for pitch in (-25, 25):
        angle = np.radians(pitch)
        y = head[:, 1] * np.cos(angle) - head[:, 2] * np.sin(angle)
        assert abs(pose(np.stack([head[:, 0], y], 1).astype(np.float32)).pitch - pitch) < 12
