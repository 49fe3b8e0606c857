"""The parts of a face as a parser sees them, and the soft mask that follows from it.

A face parser says for every pixel which part of a face it shows. It looks at an upright square
frame around the face, so that a tilted head is upright to it.

Shapes: P is the number of `Part`s, S the side of the frame in pixels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import cv2
import numpy as np

from mcap.faces.masks import SOFTNESS, place, raise_forehead, unit_frame
from mcap.faces.oval import face_oval

if TYPE_CHECKING:
    from mcap.contracts import Face, Float32Array, UInt8Image
    from mcap.geometry.similarity_transform import Similarity


class Part(IntEnum):
    """The content of a pixel, in the groups that masks need."""

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

CLASS_NAMES = (
    (Part.GLASSES, r"eye_g|(eye|sun)?_?glass(es)?|spectacles|goggles"),
    (Part.BROW, r"((l|r|left|right)_)?(eye_?)?brows?(_(l|r|left|right))?"),
    (Part.EYE, r"((l|r|left|right)_)?eyes?(_(l|r|left|right))?"),
    (Part.NOSE, r"nose"),
    (Part.MOUTH, r"((in|inner|u|l|upper|lower)_)?(mouth|lips?)|teeth|tongue"),
    (Part.SKIN, r"(face_?)?skin|face|facial_?hair|beard|m(o)?ustache"),
    (Part.HAIR, r"hairs?"),
)


def part_of(label: str) -> Part:
    """Return the `Part` of a class by its name in ``id2label``, whichever data set named it.

    CelebAMask-HQ's names ("l_brow", "u_lip", "eye_g") and spelled-out ones ("Left eyebrow") are
    known; a beard's own class is skin, because it is part of how a face looks. Anything else is
    `Part.OTHER`.
    """
    name = re.sub(r"[^a-z]+", "_", label.lower()).strip("_")
    return next((part for part, words in CLASS_NAMES if re.fullmatch(words, name)), Part.OTHER)


def class_map(id2label: Mapping[int, str]) -> dict[int, Part]:
    """Return class number -> `Part`; ValueError, with the names, where no class is skin."""
    parts = {int(number): part_of(label) for number, label in id2label.items()}
    if Part.SKIN not in parts.values():
        names = ", ".join(str(label) for label in id2label.values())
        raise ValueError(f"no class is called skin or face; the classes are: {names}")
    return parts


@dataclass(frozen=True)
class FaceParts:
    """A parser's view of one face, in an upright frame around it."""

    scores: Float32Array
    """float32[P, S, S]: the probability of each `Part`; they sum to 1 at each pixel."""
    to_frame: Similarity
    """From the picture's pixels to the frame's."""

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
        """Return the parts of one face in a picture uint8[H, W, 3]."""
        ...


class UnitFrame:
    """The five landmarks' unit frame, seen from a parser's frame."""

    def __init__(self, parts: FaceParts, landmarks: Float32Array) -> None:
        """``landmarks`` are float32[5, 2] in the picture's pixels."""
        to_unit = unit_frame(landmarks)
        self.side = parts.side
        self.landmarks = to_unit.apply(np.asarray(landmarks, dtype=np.float64))
        """float64[5, 2] in the unit frame."""
        self._to_unit = to_unit @ parts.to_frame.inverse()
        self._to_frame = self._to_unit.inverse()

    @property
    def pixels(self) -> float:
        """Pixels of the parser's frame for one unit frame."""
        return self._to_frame.scale

    def grid(self) -> tuple[np.ndarray, np.ndarray]:
        """Return where the frame's pixels lie in the unit frame: x and y, float64[S, S] each."""
        centres = np.arange(self.side) + 0.5
        across, down = np.meshgrid(centres, centres)
        m = self._to_unit.matrix
        return (
            m[0, 0] * across + m[0, 1] * down + m[0, 2],
            m[1, 0] * across + m[1, 1] * down + m[1, 2],
        )

    def rasterize(self, oval: np.ndarray, by: float) -> np.ndarray:
        """Return bool[S, S]: inside an oval of the unit frame, stretched about its middle."""
        middle = (oval.min(axis=0) + oval.max(axis=0)) / 2
        corners = self._to_frame.apply(middle + by * (oval - middle))
        # Far outside the frame OpenCV's fixed-point polygons would overflow.
        corners = np.clip(np.round(corners - 0.5), -30 * self.side, 30 * self.side)
        inside = np.zeros((self.side, self.side), dtype=np.uint8)
        cv2.fillPoly(inside, [corners.astype(np.int32)], 1)
        return inside.astype(bool)


ROOM = 1.3
"""Skin beyond the landmarks' outline, forehead included, times this belongs to somebody else: the
outline errs by a twentieth and the parser is trusted for the rest."""

ENOUGH = 0.3
"""Where the parser sees less than this share of the outline as face, it has not seen the face."""


def parts_mask(
    parts: FaceParts, landmarks: Float32Array, size: tuple[int, int], *, hair: bool = False
) -> Float32Array | None:
    """Return float32[height, width] in [0, 1] for the picture's ``size`` (height, width), or None.

    None where the parser does not see a face at the landmarks (float32[5, 2], picture's pixels).

    Skin, brows, eyes, nose, mouth and glasses are the face; so is hair within the outline below
    the nose, which is how parsers without a class for it name a beard. Other people's skin is
    kept out by the room that the landmarks leave, and by what hangs together with this face.
    ``hair`` adds the hair on the head, as far as the frame shows it.
    """
    frame = UnitFrame(parts, landmarks)
    oval = face_oval(frame.landmarks)
    inside = frame.rasterize(oval, 1.0)
    room = frame.rasterize(raise_forehead(oval, 1.5), ROOM)
    _, y = frame.grid()
    beard = frame.rasterize(oval, 1.1) & (y > frame.landmarks[2, 1])

    hairy = parts.scores[Part.HAIR]
    mask = parts.scores[[*BARE, Part.GLASSES]].sum(axis=0) * room + hairy * beard
    seen = (mask > 0.5) & inside
    if not inside.any() or seen.sum() < ENOUGH * inside.sum():
        return None
    if hair:
        mask = np.maximum(mask, hairy + mask * ~beard)
    _, pieces = cv2.connectedComponents((mask > 0.5).astype(np.uint8))
    own = np.isin(pieces, np.setdiff1d(pieces[seen], 0)).astype(np.uint8)
    margin = max(1, round(0.02 * frame.pixels))
    mask = mask * cv2.dilate(own, np.ones((2 * margin + 1, 2 * margin + 1), np.uint8))
    mask = cv2.GaussianBlur(
        mask.astype(np.float32), (0, 0), max(0.5 * SOFTNESS * frame.pixels, 0.3)
    )
    mask = np.clip((mask - 0.02) / 0.96, 0.0, 1.0)
    # Falling to 0 at the frame's rim, where hair would end in a straight cut.
    depth = np.minimum(np.arange(parts.side), np.arange(parts.side)[::-1])
    ramp = np.clip(depth / max(1.0, 0.03 * parts.side), 0.0, 1.0).astype(np.float32)
    return place(mask * (ramp[:, None] * ramp[None, :]), parts.to_frame, size)
