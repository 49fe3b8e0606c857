"""What faces measure, and which of them is the subject."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from mcap.contracts import Face
from mcap.faces.measure import (
    FaceSettings,
    FoundFace,
    Pose,
    blur,
    brightness,
    choose_subject,
    cluster,
    dominant_face,
    other_people,
    pose,
    surroundings,
)
from tests.support.photographs import astronaut

# Read off the picture, to a pixel or so: eyes, nose tip, mouth corners.
ASTRONAUT = Face(
    box=(171.0, 56.0, 277.0, 181.0),
    score=0.95,
    landmarks=np.array(
        [[203.3, 101.1], [246.7, 104.2], [223.0, 128.0], [201.7, 139.8], [244.0, 142.0]],
        dtype=np.float32,
    ),
)


def person(seed: int, wander: float = 0.3, sample: int = 0) -> np.ndarray:
    """An embedding: of one seed all are alike, more or less."""
    base = np.random.default_rng(seed).normal(size=64)
    noise = np.random.default_rng([seed, sample]).normal(size=64) * wander
    vector = base / np.linalg.norm(base) + noise / np.sqrt(64)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def found(seed: int, size: float = 100.0, sample: int = 0, wander: float = 0.5) -> FoundFace:
    landmarks = np.zeros((5, 2), dtype=np.float32)
    face = Face((0.0, 0.0, size, size), 0.9, landmarks)
    return FoundFace(face, person(seed, wander, sample), 0.8, 0.5, Pose(0.0, 0.0, 0.0))


def chosen(photos, **options) -> list[int | None]:
    return [choice.index for choice in choose_subject(photos, **options)]


ME, FRIEND, STRANGER, OTHER = 1, 2, 3, 4


def test_the_face_that_recurs_is_the_subject_although_it_is_smaller():
    photos = [
        [found(FRIEND, 300, 1), found(ME, 90, 1)],
        [found(ME, 120, 2)],
        [found(STRANGER, 400, 3), found(ME, 80, 3), found(OTHER, 60, 3)],
    ]
    assert chosen(photos) == [1, 0, 1]


def test_a_stranger_in_two_photos_does_not_beat_the_subject_in_five():
    photos = [[found(ME, 100, index)] for index in range(5)]
    photos[1].insert(0, found(STRANGER, 500, 1))
    photos[3].insert(0, found(STRANGER, 500, 3))
    photos.append([found(STRANGER, 500, 9)])
    photos.append([found(OTHER, 500, 9)])
    photos.append([])
    assert chosen(photos) == [0, 1, 0, 1, 0, None, None, None]
    reasons = [choice.reason for choice in choose_subject(photos)]
    assert "not the subject's" in reasons[5] and reasons[7] == "no face found"


@pytest.mark.parametrize("more", [[], [[]]])  # a second photo without any face changes nothing
def test_a_single_photo_is_asked_about_whoever_is_larger(more):
    assert chosen([[found(ME)], *more])[0] == 0
    for size in (110, 400):
        undecided = choose_subject([[found(ME, size), found(FRIEND, 100)], *more])[0]
        assert undecided.index is None and undecided.kind == "undecided"
        assert "2 faces and none is the subject" in undecided.reason
        assert "--subject" in undecided.reason


def test_the_largest_face_says_who_is_meant_where_it_clearly_is_the_largest():
    assert dominant_face([]) is None and dominant_face([found(ME)]) == 0
    assert dominant_face([found(FRIEND, 100), found(ME, 150)]) == 1  # 2.25 times the area
    assert dominant_face([found(ME, 130), found(FRIEND, 100)]) is None
    assert dominant_face([found(ME, 130), found(FRIEND, 100)], dominance=1.5) == 0


def test_who_was_passed_over():
    photos = [
        [found(FRIEND, 300, 1), found(ME, 90, 1)],
        [found(ME, 120, 2)],
        [found(STRANGER, 400, 3), found(ME, 80, 3), found(FRIEND, 60, 3)],
        [found(OTHER, 500, 4)],
    ]
    choices = choose_subject(photos)
    assert [choice.index for choice in choices] == [1, 0, 1, None]
    assert [choice.kind for choice in choices] == ["", "", "", "stranger"]
    assert other_people(photos, choices) == [[(0, 0), (2, 2)], [(3, 0)], [(2, 0)]]
    assert other_people([[found(ME)]], choose_subject([[found(ME)]])) == []


def test_two_photos_of_two_people_or_of_one():
    assert chosen([[found(ME, sample=1)], [found(ME, sample=2)]]) == [0, 0]
    nobody = choose_subject([[found(ME, 300)], [found(FRIEND, 100)]])
    assert [choice.index for choice in nobody] == [None, None]
    assert "nobody recurs" in nobody[0].reason


def test_a_couple_in_every_photo_is_not_guessed_at_unless_one_is_much_larger():
    couple = [[found(ME, 100, index), found(FRIEND, 95, index)] for index in range(3)]
    choices = choose_subject(couple)
    assert all(choice.index is None for choice in choices)
    assert "several people are in 3 photos each" in choices[0].reason
    behind = [[found(ME, 200, index), found(FRIEND, 90, index)] for index in range(3)]
    assert chosen(behind) == [0, 0, 0]


def test_three_look_alikes_do_not_make_one_person_doubtful():
    mine = [[found(ME, 100, index)] for index in range(3)]
    # Three people, any two of whom would pass for one person just so.
    basis = np.linalg.qr(np.random.default_rng(1).normal(size=(64, 4)))[0].T
    alike = [np.sqrt(0.42) * basis[3] + np.sqrt(0.58) * basis[index] for index in range(3)]
    others = [[replace(found(OTHER, 100), embedding=np.float32(each))] for each in alike]
    assert chosen(mine + others) == [0, 0, 0, None, None, None]
    # Two people in three photos each, both one person for sure: no guess.
    friends = [[found(FRIEND, 100, index)] for index in range(3)]
    assert chosen(mine + friends) == [None] * 6


def test_a_pinned_subject_decides():
    couple = [[found(ME, 100, index), found(FRIEND, 95, index)] for index in range(3)]
    assert chosen(couple, pinned=person(FRIEND)) == [1, 1, 1]
    assert chosen([[found(STRANGER)], []], pinned=person(ME)) == [None, None]


def test_no_faces_at_all():
    assert chosen([]) == [] and chosen([[], []]) == [None, None]


def test_clusters_never_hold_two_faces_of_one_photo():
    twins = np.stack([person(ME, 0.1, index) for index in range(4)])
    groups = cluster(twins, np.array([0, 0, 1, 1]), 0.3)
    assert sorted(len(group) for group in groups) == [2, 2]
    assert all({index // 2 for index in group} == {0, 1} for group in groups)


def test_clusters_of_many_people():
    people = [person(seed, 0.6, sample) for seed in range(12) for sample in range(5)]
    groups = cluster(np.stack(people), np.arange(60), 0.363)
    assert sorted(groups) == [list(range(start, start + 5)) for start in range(0, 60, 5)]


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


def scaled(face: Face, factor: float) -> Face:
    return Face(tuple(value * factor for value in face.box), face.score, face.landmarks * factor)


def test_blur_measures_the_blur_that_was_added():
    image = astronaut()
    sharp = blur(image, ASTRONAUT)
    assert 0.5 < sharp < 1.3
    for per_cent in (1.0, 2.0, 3.0):
        deviation = per_cent / 100 * 115  # the face is about 115 pixels high
        measured = blur(cv2.GaussianBlur(image, (0, 0), deviation), ASTRONAUT)
        assert measured == pytest.approx(np.hypot(sharp, per_cent), rel=0.25)
    assert blur(cv2.GaussianBlur(image, (0, 0), 6), ASTRONAUT) > FaceSettings().max_blur + 1


def test_blur_does_not_depend_on_resolution_light_or_noise():
    image = astronaut()
    sharp = blur(image, ASTRONAUT)
    noise = np.random.default_rng(0).normal(0, 10, image.shape)
    for changed in (image // 5, np.clip(image + noise, 0, 255).astype(np.uint8)):
        assert blur(changed, ASTRONAUT) == pytest.approx(sharp, abs=0.15)
    for factor, interpolation in ((4.0, cv2.INTER_CUBIC), (0.6, cv2.INTER_AREA)):
        other = cv2.resize(image, None, fx=factor, fy=factor, interpolation=interpolation)
        assert blur(other, scaled(ASTRONAUT, factor)) == pytest.approx(sharp, abs=0.35)


def test_blur_and_brightness_of_degenerate_pictures():
    grey = np.full((512, 512, 3), 128, np.uint8)
    assert np.isfinite(blur(grey, ASTRONAUT)) and blur(grey, ASTRONAUT) > 10
    assert brightness(grey, ASTRONAUT) == pytest.approx(128 / 255, abs=0.01)
    assert brightness(np.zeros_like(grey), ASTRONAUT) == 0
    edge = Face((-60.0, -60.0, 40.0, 60.0), 0.9, ASTRONAUT.landmarks - (210, 110))
    assert np.isfinite(blur(grey, edge))


def test_surroundings_stay_in_the_picture():
    image = np.zeros((50, 60, 3), np.uint8)
    for box in (
        (-500.0, -500.0, -400.0, -400.0),
        (20.0, 20.0, 30.0, 35.0),
        (55.0, 45.0, 90.0, 99.0),
    ):
        cut, (x, y) = surroundings(image, Face(box, 1.0, np.zeros((5, 2), np.float32)), 0.5)
        assert cut.size > 0 and 0 <= x < 60 and 0 <= y < 50


def test_smallest_face_follows_from_the_training_size():
    assert FaceSettings().smallest(512, 0.45) == pytest.approx(92.16)
    assert FaceSettings(min_face=40).smallest(512, 0.45) == 40
