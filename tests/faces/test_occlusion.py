"""The hidden share of a face: what a parser saw, as label maps drawn here."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from mcap.contracts import Face, MaskerInfo
from mcap.faces.masks import LandmarkMasker
from mcap.faces.occlusion import hidden_share, occlusion
from mcap.faces.oval import TEMPLATE
from mcap.faces.parts import FaceParser, FaceParts, Part
from mcap.geometry.similarity_transform import Similarity

SIDE = 128


def at(x: float, y: float) -> tuple[int, int]:
    """Unit frame -> pixels of the parser's frame, which shows a tenth more on each side."""
    return round((x + 0.1) / 1.2 * SIDE), round((y + 0.1) / 1.2 * SIDE)


def bare() -> np.ndarray:
    """uint8[S, S]: a face that looks at the camera, with hair above and a neck below."""
    labels = np.full((SIDE, SIDE), Part.OTHER, np.uint8)
    cv2.ellipse(labels, at(0.5, 0.45), (45, 50), 0, 0, 360, int(Part.HAIR), -1)
    cv2.ellipse(labels, at(0.5, 0.62), (38, 49), 0, 0, 360, int(Part.SKIN), -1)
    cv2.circle(labels, at(0.5, 0.62), 8, int(Part.NOSE), -1)
    cv2.ellipse(labels, at(0.5, 0.82), (15, 6), 0, 0, 360, int(Part.MOUTH), -1)
    for x in TEMPLATE[:2, 0]:
        cv2.ellipse(labels, at(x, 0.38), (11, 3), 0, 0, 360, int(Part.BROW), -1)
        cv2.ellipse(labels, at(x, 0.46), (7, 3), 0, 0, 360, int(Part.EYE), -1)
    return labels


def hand(labels):
    cv2.rectangle(labels, at(0.0, 0.65), at(1.0, 1.2), int(Part.OTHER), -1)


def half_a_scarf(labels):
    cv2.rectangle(labels, at(0.0, 0.2), at(0.5, 1.2), int(Part.OTHER), -1)


def beard(labels):
    labels[(labels == Part.SKIN) & (np.arange(SIDE)[:, None] > at(0, 0.7)[1])] = Part.HAIR


def fringe(labels):
    cv2.rectangle(labels, at(0.1, 0.0), at(0.9, 0.32), int(Part.HAIR), -1)


def hair_over_an_eye(labels):
    cv2.rectangle(labels, at(0.0, 0.0), at(0.48, 0.6), int(Part.HAIR), -1)


def spectacles(labels, seen=(True, True)):
    for x, eye_is_seen in zip(TEMPLATE[:2, 0], seen, strict=True):
        lens = np.zeros_like(labels)
        cv2.circle(lens, at(x, 0.47), 13, 1, -1)
        labels[(lens > 0) & ((labels != Part.EYE) | (not eye_is_seen))] = Part.GLASSES


def sunglasses(labels):
    spectacles(labels, (False, False))


def eye_patch(labels):
    spectacles(labels, (True, False))


def seen(change=None) -> tuple[FaceParts, np.ndarray]:
    """The parts, and the landmarks in a picture of which the frame shows a turned, larger part."""
    labels = bare()
    if change is not None:
        change(labels)
    scores = np.eye(len(Part), dtype=np.float32)[labels].transpose(2, 0, 1)
    angle, scale = 0.7, 0.4  # the picture is 2.5 times as fine as the frame
    c, s = np.cos(angle) * scale, np.sin(angle) * scale
    to_frame = Similarity(np.array([[c, -s, 30.0], [s, c, -70.0]]))
    frame = (TEMPLATE + 0.1) / 1.2 * SIDE
    landmarks = to_frame.apply_inverse(frame)
    return FaceParts(scores, to_frame), landmarks.astype(np.float32)


@pytest.mark.parametrize(
    ("change", "low", "high"),
    [
        (None, 0.0, 0.02),
        (beard, 0.0, 0.02),
        (fringe, 0.0, 0.02),
        (spectacles, 0.0, 0.02),
        (eye_patch, 0.06, 0.15),
        (sunglasses, 0.15, 0.3),
        (hair_over_an_eye, 0.12, 0.3),
        (half_a_scarf, 0.45, 0.55),
        (hand, 0.4, 0.6),
    ],
)
def test_what_hides_a_face_counts_and_what_belongs_to_it_does_not(change, low, high):
    assert low <= hidden_share(*seen(change)) <= high


def test_only_a_masker_that_parses_can_tell():
    parts, landmarks = seen(sunglasses)

    class Parses(LandmarkMasker):
        info = MaskerInfo(finds_parts=True)

        def parts(self, image, face):
            return parts

    image = np.zeros((8, 8, 3), np.uint8)
    face = Face((0, 0, 1, 1), 0.9, landmarks)
    assert isinstance(Parses(), FaceParser)
    assert occlusion(Parses(), image, face) == hidden_share(parts, landmarks)
    assert occlusion(LandmarkMasker(), image, face) is None


def test_where_the_frame_does_not_show_the_face_all_of_it_is_hidden():
    parts, landmarks = seen()
    assert hidden_share(parts, landmarks + 5000) == 1.0
