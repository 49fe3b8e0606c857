"""Masked photo -> crops of a style profile's aspect, the head where its ``[framing]`` wants it.

What the composed prompt is trained on is what it draws: from squares around the face a model
learns squares around the face, in which no passport photo is framed.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from mcap.framing.crop import largest_box
from mcap.framing.head import crown_to_chin
from mcap.geometry.ffhq import ffhq_alignment
from mcap.geometry.similarity_transform import Similarity
from mcap.masking.crops import TILT, TrainingCrop, crop_through

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mcap.contracts import Face
    from mcap.masking.records import MaskedPhoto
    from mcap.style.profile import Framing

INSIDE = 0.3
"""So much of a range is kept away from at either end: another detector puts the chin elsewhere, by
up to 5 % of the head."""

PLACES = 5
"""Places that are tried in each range."""

OFF_TARGET = 0.05
"""A crop that is off its target by a whole range is as bad as one that shows so much, in sides of
the crop, of what lies beyond the photo."""


@dataclass(frozen=True)
class CropFrame:
    """The crop's size, and where in it the finished picture lies."""

    size: tuple[int, int]
    """(width, height) in pixels."""
    aspect: float
    """Of the finished picture, width over height; it is the largest of that aspect in the crop."""
    framing: Framing

    @property
    def finished(self) -> tuple[float, float, int, int]:
        """Left, top, width and height of the finished picture, in the middle of the crop."""
        width, height = largest_box(self.size, self.aspect)
        return (self.size[0] - width) / 2, (self.size[1] - height) / 2, width, height


def framed_crops(
    masked: MaskedPhoto, frame: CropFrame, face_height: float, count: int
) -> list[TrainingCrop]:
    """Return ``count`` crops of one photo, the head within the profile's ranges in each.

    The first aims at the ranges' middles; the others at places in them, and tilts, that are drawn
    from the photo's hash. All of them come as close to that as they can without showing what lies
    beyond the photo. ``face_height`` is how high the detector's box of the face is, as a fraction
    of the crop's height, where the profile does not say how large the head is.
    """
    crops = []
    for number in range(count):
        target, tilt = np.full(3, 0.5), 0.0
        if number:
            random = np.random.default_rng([int(masked.photo.sha256[:16], 16), number])
            target, tilt = random.uniform(0, 1, 3), TILT * random.uniform(-1, 1)
        to_crop = framed(masked.face, frame, face_height, target, tilt, masked.shape)
        crops.append(crop_through(masked, to_crop, frame.size, number))
    return crops


def framed(
    face: Face,
    frame: CropFrame,
    face_height: float,
    target: NDArray[np.float64],
    tilt: float,
    photo: tuple[int, int],
) -> Similarity:
    """Return the similarity from the pixels of a photo of (height, width) to those of its crop.

    ``target`` is where in the ranges of head height, eye line and middle the head should be,
    float64[3] in [0, 1]; ``tilt`` is how far it stays turned, in degrees.
    """
    left, top, width, height = frame.finished
    framing = frame.framing
    upright = ffhq_alignment(face.landmarks, frame.size[1], face_height)
    turn = np.radians(tilt)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    linear = rotation @ upright.linear / upright.scale
    head = crown_to_chin(face)
    # Along the picture's height; a tilted head is longer than that.
    length = head.height / max(abs(float(linear[0, 0])), 0.2)
    middle = np.array([(face.box[0] + face.box[2]) / 2, (face.box[1] + face.box[3]) / 2])
    eyes = np.asarray(face.landmarks[:2], dtype=np.float64).mean(axis=0)
    as_it_is = length * upright.scale / height  # where the profile does not ask for a head's height
    ranges = [
        kept_inside(framing.head_height, as_it_is),
        kept_inside(framing.eye_line, 0.53),
        kept_inside(framing.head_center_x, 0.5),
    ]
    best: tuple[float, Similarity] | None = None
    for place in product(np.linspace(0, 1, PLACES), repeat=3):
        share, line, across = (
            low + part * (high - low) for (low, high), part in zip(ranges, place, strict=True)
        )
        turned = linear * (share * height / length)
        there = (left + across * width, top + (1 - line) * height)
        shift = np.array([there[0] - (turned @ middle)[0], there[1] - (turned @ eyes)[1]])
        found = Similarity.of(turned, shift)
        off = float(np.abs(np.array(place) - target).max())
        cost = overhang(found, frame.size, photo) + OFF_TARGET * off
        if best is None or cost < best[0]:
            best = cost, found
    assert best is not None, "there is always a place to try"
    return best[1]


def kept_inside(wanted: tuple[float, float] | None, otherwise: float) -> tuple[float, float]:
    """Return a range without its ends; the one value ``otherwise`` where the profile gives none."""
    if wanted is None:
        return otherwise, otherwise
    margin = INSIDE * (wanted[1] - wanted[0])
    return wanted[0] + margin, wanted[1] - margin


def overhang(to_crop: Similarity, size: tuple[int, int], photo: tuple[int, int]) -> float:
    """Return how far a crop reaches beyond its photo: shares of the crop's sides, added up."""
    places = to_crop.corners(size) * to_crop.scale / np.array(size)
    far = np.array([photo[1], photo[0]]) * to_crop.scale / np.array(size)
    before, beyond = np.maximum(-places.min(axis=0), 0), np.maximum(places.max(axis=0) - far, 0)
    return float((before + beyond).sum())
