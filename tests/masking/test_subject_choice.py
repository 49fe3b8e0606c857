"""Which face of each photo is the subject's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mcap.contracts import Face
from mcap.faces.measure import FoundFace
from mcap.faces.pose import Pose
from mcap.faces.similarity import mean_embedding
from mcap.masking.subject_choice import choose_subject, cluster, dominant_face, other_people


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


def test_the_same_face_many_times_is_one_person():
    faces = np.repeat(np.float32([[0.6, 0.8, 0.0], [0.8, -0.6, 1e-4]]) * 1.0000001, 3, axis=0)
    assert cluster(faces, np.arange(6), 0.5) == [[0, 1, 2], [3, 4, 5]]


def merged_by_hand(embeddings: np.ndarray, photos: np.ndarray, threshold: float) -> list[list[int]]:
    """Average linkage as its definition says it, one merge after the other."""
    similarity = embeddings.astype(float) @ embeddings.astype(float).T
    groups = [[index] for index in range(len(embeddings))]
    while True:
        best, pair = threshold, None
        for a, first in enumerate(groups):
            for b, second in enumerate(groups[:a]):
                if set(photos[first]) & set(photos[second]):
                    continue
                mean = similarity[np.ix_(first, second)].mean()
                if mean >= best:
                    best, pair = mean, (b, a)
        if pair is None:
            return sorted(sorted(group) for group in groups)
        groups[pair[0]] += groups.pop(pair[1])


def test_clusters_are_those_of_the_definition():
    random = np.random.default_rng(0)
    for _ in range(200):
        people = random.normal(size=(random.integers(1, 7), 16))
        owners = [
            (photo, who)
            for photo in range(random.integers(1, 8))
            for who in random.choice(len(people), random.integers(0, 4))
        ]
        if not owners:
            continue
        noise = random.uniform(0.2, 1.4) * random.normal(size=(len(owners), 16))
        faces = people[[who for _, who in owners]] + noise
        faces = (faces / np.linalg.norm(faces, axis=1, keepdims=True)).astype(np.float32)
        photos, threshold = np.array([photo for photo, _ in owners]), random.uniform(0.1, 0.7)
        assert cluster(faces, photos, threshold) == merged_by_hand(faces, photos, threshold)


def pair(similarity: float) -> list[list[FoundFace]]:
    """Two photos of a face each, so much alike."""
    first, second = np.eye(4, dtype=np.float32)[:2]
    second = similarity * first + np.sqrt(1 - similarity**2) * second
    return [[replace(found(ME), embedding=np.float32(each))] for each in (first, second)]


def test_two_strangers_who_look_alike_are_no_subject_unless_one_is_named():
    choices = choose_subject(pair(0.37))
    assert [choice.kind for choice in choices] == ["undecided", "undecided"]
    for choice in choices:
        assert choice.similarity == pytest.approx(0.37, abs=1e-3)
        assert "may show two people" in choice.reason and "--subject" in choice.reason
    named = choose_subject(pair(0.37), pinned=pair(0.37)[0][0].embedding)
    assert [choice.index for choice in named] == [0, 0]
    assert named[1].similarity == pytest.approx(0.37, abs=1e-3)
    # Three of one person and three of another who is much like them: no guess either.
    look_alikes = pair(0.4)
    photos = [look_alikes[number // 3] for number in range(6)]
    assert chosen(photos) == [None] * 6
    # Who is in more photos is the subject, and the others are compared with these.
    choices = choose_subject(photos[:5])
    assert [choice.index for choice in choices] == [0] * 5
    assert choices[4].similarity == pytest.approx(0.4, abs=1e-3)


def test_a_face_is_never_compared_with_a_mean_that_holds_it():
    choices = choose_subject(pair(0.5))
    assert [choice.similarity for choice in choices] == pytest.approx([0.5, 0.5], abs=1e-3)
    assert choose_subject(pair(0.5)[:1])[0].similarity is None
    photos = [[found(ME, sample=sample)] for sample in range(4)]
    for number, choice in enumerate(choose_subject(photos)):
        others = [faces[0].embedding for faces in photos[:number] + photos[number + 1 :]]
        assert choice.similarity == pytest.approx(
            mean_embedding(others) @ photos[number][0].embedding
        )
