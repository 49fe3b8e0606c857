"""How much of a face something hides, where a face-parsing masker can tell.

A face parser says for every pixel which part of a face it shows. What should be a bare face by the
five landmarks and is something else (a hand, a microphone, a scarf, a dark lens) counts as hidden.

Shapes: P is the number of `Part`s, S the side in pixels of the upright square frame that the parser
looks at.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import cv2
import numpy as np

from mcap.face_oval import outline
from mcap.masks import transform, unit_frame

if TYPE_CHECKING:
    from mcap.contracts import Face, Float32Array, Masker, UInt8Image


class Part(IntEnum):
    """What a pixel shows, in the groups that masks need."""

    OTHER = 0  # background, clothes, neck, ears, hat: no part of the face
    SKIN = 1
    BROW = 2
    EYE = 3
    NOSE = 4
    MOUTH = 5  # the lips and what is between them
    GLASSES = 6
    HAIR = 7  # a beard too, where the parser has no class for it


BARE = (Part.SKIN, Part.BROW, Part.EYE, Part.NOSE, Part.MOUTH)
"""The face itself."""


@dataclass(frozen=True)
class FaceParts:
    """What a parser saw of one face, in an upright frame around it."""

    scores: Float32Array
    """float32[P, S, S]: the probability of each `Part`; they sum to 1 at each pixel."""
    to_frame: np.ndarray
    """float64[2, 3]: the similarity from the picture's pixels to the frame's."""

    @property
    def side(self) -> int:
        """S."""
        return self.scores.shape[-1]

    @property
    def labels(self) -> np.ndarray:
        """uint8[S, S]: the most probable `Part` of each pixel."""
        return self.scores.argmax(axis=0).astype(np.uint8)


@runtime_checkable
class FaceParser(Protocol):
    """A masker that can say what it saw."""

    def parts(self, image: UInt8Image, face: Face) -> FaceParts:
        """The parts of one face in a picture uint8[H, W, 3]."""
        ...


def occlusion(masker: Masker, image: UInt8Image, face: Face) -> float | None:
    """The hidden share of a face, 0 (nothing is hidden) to 1; None where the masker cannot tell.

    ``masker`` tells where it is a `FaceParser` (the masker ``parsing``).
    """
    if not isinstance(masker, FaceParser):
        return None
    return hidden_share(masker.parts(image, face), face.landmarks)


EXPECTED = 0.88
"""The part of the landmarks' outline, about its middle, that is looked at: a parser and five
landmarks never agree on the very edge."""

LENS = 0.07
"""Radius, in unit frames, of the disc around an eye's landmark in which an eye must be seen for a
pair of glasses to be clear."""


def hidden_share(parts: FaceParts, landmarks: Float32Array) -> float:
    """The share of the expected face, 0 to 1, where the parser sees something else.

    Expected is the outline of `mcap.face_oval` from the brows to the chin: hair on the forehead
    is how people look. Likewise hair below the nose is a beard. Glasses hide nothing where an eye
    is seen through them; where it is not (sunglasses) their half of the face's glasses counts as
    hidden. ``landmarks`` are float32[5, 2] in the picture's pixels.

    What the figure is worth depends on the parser: those trained on CelebAMask-HQ (Lee et al.,
    arXiv 1907.11922), whose annotators drew the parts that they could infer behind small
    obstacles, report less than there is. On label maps drawn in tests/test_occlusion.py (not on
    photographs) a bare face, a beard, a fringe and spectacles give 0.00, one dark lens 0.13,
    hair over an eye 0.20, sunglasses 0.26, a hand from the nose down or half a scarf 0.52.
    """
    labels = parts.labels
    to_unit = unit_frame(landmarks)
    points = transform(to_unit, np.asarray(landmarks, dtype=np.float64))
    x, y = _unit_grid(parts, to_unit)
    expected = _expected(points, parts, to_unit) & (y > _brows(points))
    if not expected.any():
        return 1.0
    hidden = ~np.isin(labels, BARE)
    hidden &= ~((labels == Part.HAIR) & (y > points[2, 1]))
    glasses = labels == Part.GLASSES
    middle = float(points[:2, 0].mean())
    for eye, half in zip(points[:2], (x < middle, x >= middle), strict=True):
        around = np.hypot(x - eye[0], y - eye[1]) < LENS
        if (labels[around] == Part.EYE).any():
            hidden &= ~(glasses & half)
    return float((hidden & expected).sum() / expected.sum())


def _brows(points: np.ndarray) -> float:
    """Where the forehead begins, in the unit frame: a quarter of eyes to mouth above the eyes."""
    eyes, mouth = points[:2, 1].mean(), points[3:, 1].mean()
    return float(eyes - 0.25 * max(mouth - eyes, 0.0))


def _expected(points: np.ndarray, parts: FaceParts, to_unit: np.ndarray) -> np.ndarray:
    """bool[S, S]: inside the outline that the landmarks (in the unit frame) suggest, shrunk."""
    oval = outline(points)
    middle = (oval.min(axis=0) + oval.max(axis=0)) / 2
    oval = middle + EXPECTED * (oval - middle)
    back = np.linalg.inv(to_unit[:, :2])
    corners = transform(parts.to_frame, (oval - to_unit[:, 2]) @ back.T)
    filled = np.zeros((parts.side, parts.side), dtype=np.uint8)
    cv2.fillPoly(filled, [np.round(corners - 0.5).astype(np.int32)], 1)
    return filled.astype(bool)


def _unit_grid(parts: FaceParts, to_unit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the frame's pixels lie in the unit frame: x and y, float64[S, S] each."""
    linear = to_unit[:, :2] @ np.linalg.inv(parts.to_frame[:, :2])
    shift = to_unit[:, 2] - linear @ parts.to_frame[:, 2]
    centres = np.arange(parts.side) + 0.5
    across, down = np.meshgrid(centres, centres)
    return (
        linear[0, 0] * across + linear[0, 1] * down + shift[0],
        linear[1, 0] * across + linear[1, 1] * down + shift[1],
    )
