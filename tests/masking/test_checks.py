"""Verdicts: every measure with its limits, which the settings move."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mcap.faces.measure import FoundFace
from mcap.faces.pose import Pose
from mcap.faces.settings import FaceSettings
from mcap.masking.checks import MEASURES, FaceToJudge, check_face
from mcap.masking.records import MaskSettings
from tests.support.photographs import ASTRONAUT

GOOD = FoundFace(
    face=ASTRONAUT,
    embedding=np.eye(4, dtype=np.float32)[0],
    blur=0.8,
    brightness=0.5,
    pose=Pose(0.0, 0.0, 0.0),
    eyes=0.27,
    occluded=0.02,
)


def judged(found: FoundFace, similarity: float = 0.9, size: int = 256, **limits):
    settings = MaskSettings(size=size, face_height=0.45, faces=FaceSettings(**limits))
    made = check_face(FaceToJudge(found, settings, similarity, same_person=0.363))
    return {check.name: check for check in made}


@pytest.mark.parametrize(("value", "verdict"), [(0.1, "good"), (0.5, "note"), (0.9, "refused")])
def test_without_a_parser_what_covers_a_face_is_judged_by_its_likelihood(value, verdict):
    made = judged(replace(GOOD, occluded=None, cover=value))
    assert made["cover"].verdict == verdict and made["occluded"].verdict == "unknown"
    assert judged(replace(GOOD, occluded=None, cover=value), max_cover=1)["cover"].verdict in (
        "good",
        "note",
    )


def test_a_good_face_passes_every_check_and_each_has_its_number():
    made = judged(GOOD)
    assert list(made) == [
        *("resolution", "sharpness", "brightness", "overexposed", "yaw", "pitch", "roll"),
        *("outside", "eyes", "occluded", "cover", "identity"),
    ]
    assert made.pop("cover").verdict == "unknown"  # a parser has said what hides the face
    for check in made.values():
        assert check.verdict == "good" and not check.text and check.value is not None
        assert any(limit is not None for limit in check.accepted)
    assert made["resolution"].value == pytest.approx(127, abs=3)
    unseen = judged(replace(GOOD, eyes=None, occluded=None))
    assert {unseen["eyes"].verdict, unseen["occluded"].verdict} == {"unknown"}


@pytest.mark.parametrize(
    ("name", "found", "noted", "refused", "kinder"),
    [
        ("resolution", {}, {"size": 512}, {"size": 1024}, {"max_upscale": 4.0}),
        ("resolution", {}, {"soft_upscale": 1.0, "size": 300}, {"min_face": 140}, {"min_face": 60}),
        ("sharpness", {"blur": 1.6}, {}, {"max_blur": 1.5}, {"soft_blur": 1.7}),
        ("brightness", {"brightness": 0.1}, {}, {"min_brightness": 0.11}, {"dark": 0.09}),
        ("brightness", {"brightness": 0.85}, {}, None, {"bright": 0.9}),
        (
            "overexposed",
            {"overexposed": 0.2},
            {},
            {"max_overexposed": 0.19},
            {"soft_overexposed": 0.3},
        ),
        ("yaw", {"pose": Pose(-50.0, 0, 0)}, None, {"max_yaw": 45.0}, {"max_yaw": 55.0}),
        ("pitch", {"pose": Pose(0, 40.0, 0)}, None, {"max_pitch": 35.0}, {"max_pitch": 45.0}),
        ("roll", {"pose": Pose(0, 0, 95.0)}, None, {"max_roll": 90.0}, {}),
        ("outside", {"outside": 0.2}, {}, {"max_outside": 0.15}, {"soft_outside": 0.3}),
        ("eyes", {"eyes": 0.13}, {}, {"min_eyes": 0.14}, {"soft_eyes": 0.1}),
        ("occluded", {"occluded": 0.2}, {}, {"max_occluded": 0.15}, {"soft_occluded": 0.3}),
        ("identity", {}, {"similarity": 0.4}, {"similarity": 0.3}, {"doubtful": 0.0}),
    ],
)
def test_the_settings_move_each_threshold(name, found, noted, refused, kinder):
    face = replace(GOOD, **found)
    if noted is not None:
        check = judged(face, **noted)[name]
        assert check.verdict == "note" and check.text
    if refused is not None:
        check = judged(face, **refused)[name]
        assert check.verdict == "refused" and check.text
        low, high = check.accepted
        assert (low is not None and check.value < low) or (high is not None and check.value > high)
    assert judged(face, **kinder)[name].verdict == "good"


def test_only_who_must_be_somebody_is_compared_with_them():
    anybody = check_face(FaceToJudge(GOOD, MaskSettings()))
    assert [check.name for check in anybody] == [measure.name for measure in MEASURES[:-1]]


@pytest.mark.parametrize(("value", "way"), [(-60.0, "down by 60"), (60.0, "up by 60")])
def test_the_words_say_the_direction(value, way):
    assert way in judged(replace(GOOD, pose=Pose(0, value, 0)))["pitch"].text
    light = judged(replace(GOOD, brightness=0.1 if value < 0 else 0.9))["brightness"].text
    assert ("very dark" if value < 0 else "very bright") in light


def test_as_json_has_the_limits_of_both_kinds():
    check = judged(GOOD)["sharpness"].as_json()
    assert check["accepted"] == [None, 1.8] and check["recommended"] == [None, 1.4]
    assert check["verdict"] == "good"
