"""The mask of a person -> the soft mask of the head: hair, ears and hat beside the face.

What belongs to the head is what the mask shows above the chin line and within a head's width
of the face's axis, nearer to this face than to another one, and hanging together with it; and the
face's own mask. Long hair ends at the chin line, as the head of a bust does. Below the mouth the
sides come nearer, because shoulders rise there beside a head that leans or turns.

Lengths are in the five landmarks' unit frame (`mcap.faces.masks.unit_frame`), so that all of it
turns and grows with the head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import cv2
import numpy as np

from mcap.faces.masks import unit_frame
from mcap.faces.oval import face_oval
from mcap.faces.parts import parts_mask
from mcap.geometry.similarity_transform import Similarity

if TYPE_CHECKING:
    from mcap.contracts import Face, Float32Array, Masker, UInt8Image
    from mcap.faces.parts import FaceParser

WIDTH = 2 / 3
"""A head's width over its height from crown to chin: 15.5 to 23 cm, near the mean of adults. Of a
head in profile, which is longer than wide, the same from the middle of what is seen of the face
still reaches the back."""

BESIDE_CHIN = 0.12
"""How far the sides are from the face's outline at the chin line."""

EDGE = 0.06
"""The line at the chin and those at the sides fall from 1 to 0 over this length, ..."""
BETWEEN = 0.1
"""... and that between two heads over this difference of distances, in radii of a head."""


@dataclass(frozen=True)
class HeadFrame:
    """Where a head is, by its five landmarks alone."""

    to_unit: Similarity
    """From the picture's pixels to the unit frame."""
    axis: float
    """x of the face's middle."""
    chin: float
    """y of its lowest point."""
    height: float
    """Crown to chin; the eyes are half way (`mcap.framing.head`)."""
    mouth: float
    """y of the mouth."""
    half_face: float
    """Half of the width of the face's outline."""

    @classmethod
    def of(cls, face: Face) -> HeadFrame:
        to_unit = unit_frame(face.landmarks)
        landmarks = to_unit.apply(np.asarray(face.landmarks, dtype=np.float64))
        oval = face_oval(landmarks)
        chin = float(oval[:, 1].max())
        left, right = float(oval[:, 0].min()), float(oval[:, 0].max())
        return cls(
            to_unit,
            axis=(left + right) / 2,
            chin=chin,
            height=2 * (chin - float(landmarks[:2, 1].mean())),
            mouth=float(landmarks[3:, 1].mean()),
            half_face=(right - left) / 2,
        )

    def places(self, box: tuple[int, int, int, int]) -> tuple[Float32Array, Float32Array]:
        """Return the unit frame's x and y of a picture's pixels in ``box``, float32[h, w] each."""
        x0, y0, x1, y1 = box
        across = (np.arange(x0, x1) + 0.5).astype(np.float32)
        down = (np.arange(y0, y1) + 0.5).astype(np.float32)[:, None]
        (a, b, c), (d, e, f) = self.to_unit.matrix.astype(np.float32)
        return a * across + b * down + c, d * across + e * down + f

    def distance(self, box: tuple[int, int, int, int]) -> Float32Array:
        """Return the distance of the pixels in ``box`` from the head's middle in its radii."""
        x, y = self.places(box)
        radii = WIDTH * self.height / 2, self.height / 2
        middle = self.chin - self.height / 2
        return np.hypot((x - self.axis) / radii[0], (y - middle) / radii[1]).astype(np.float32)


def head_mask(
    person: Float32Array, face_mask: Float32Array, face: Face, others: Sequence[Face] = ()
) -> Float32Array:
    """Return the head's mask, float32[H, W] in [0, 1], of a picture of H x W pixels.

    ``person`` is 1 on the whole person and ``face_mask`` on the face, float32[H, W]; ``others`` are
    the faces of other people in the picture. Nowhere below ``face_mask``.
    """
    rows = np.flatnonzero((person > 0).any(axis=1))
    columns = np.flatnonzero((person > 0).any(axis=0))
    if len(rows) == 0:
        return face_mask
    box = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
    here = slice(box[1], box[3]), slice(box[0], box[2])
    head = HeadFrame.of(face)
    x, y = head.places(box)
    width, least = WIDTH * head.height, head.half_face + BESIDE_CHIN
    to_chin = np.clip((y - head.mouth) / max(head.chin - head.mouth, EDGE), 0, 1)
    beside = width + (least - width) * to_chin - np.abs(x - head.axis)
    above = np.clip((head.chin - y) / EDGE + 0.5, 0, 1)
    part = person[here] * above * np.clip(beside / EDGE + 0.5, 0, 1)
    for other in others:
        further = HeadFrame.of(other).distance(box) - head.distance(box)
        part *= np.clip(further / BETWEEN + 0.5, 0, 1)
    part *= hanging_together(part, face_mask[here])
    mask = face_mask.copy()
    np.maximum(mask[here], part, out=mask[here])
    return mask


def hanging_together(part: Float32Array, face_mask: Float32Array) -> Float32Array:
    """Return 1 on the pieces of ``part`` that touch the face and on their soft rim, else 0."""
    inside = np.maximum(part, face_mask) > 0.5
    _, pieces = cv2.connectedComponents(inside.astype(np.uint8))
    own = np.isin(pieces, np.setdiff1d(pieces[face_mask > 0.5], 0)).astype(np.float32)
    margin = max(1, round(0.01 * max(part.shape)))
    square = np.ones((2 * margin + 1, 2 * margin + 1), np.uint8)
    return cast("Float32Array", cv2.dilate(own, square))


def person_mask(masker: Masker, image: UInt8Image, face: Face) -> Float32Array:
    """Return what ``masker`` sees of the person, float32[H, W] in [0, 1]: more than the face.

    Of one that tells a face's parts (``info.finds_parts``) that is face and hair, without ears and
    hats, and 0 all over where it sees no face; of others their mask.
    """
    if not masker.info.finds_parts:
        return masker.mask(image, face)
    parts = cast("FaceParser", masker).parts(image, face)
    seen = parts_mask(parts, face.landmarks, image.shape[:2], hair=True)
    return np.zeros(image.shape[:2], np.float32) if seen is None else seen
