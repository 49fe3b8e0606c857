"""Light, colours and features of a face beside the photos': patches of a face's own show here.

A face network can be pleased by what no eye takes for the person: a red nose, a shadow where the
smile should be. So faces are laid over one another by their landmarks and compared as pictures, in
coarse squares, after the mean colour of each has been taken off (so that the light of a room does
not count), with the most similar of the person's photos.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np

from mcap.geometry.similarity_transform import cut_upright
from mcap_plugins.shared.arcface_template import INPUT_SIZE, TEMPLATE

if TYPE_CHECKING:
    from mcap.contracts import Face, Float32Array, MetricInput, UInt8Image

SQUARES = 14
INNER = slice(2, 13)
"""Squares that show the face itself: the template's borders show hair and background."""
GREY = 4.0
"""Mean chroma (CIE Lab) below which a style counts as black and white."""


def look(given: MetricInput) -> list[float | None]:
    """Return each face's distance to the most similar photo, CIE Lab; by lightness alone where the
    style is black and white."""
    grey = bool(given.references) and is_grey([one.image for one in given.references])
    photos = FaceLook([(photo.image, photo.faces[0]) for photo in given.photos], grey)
    return [
        None if one.face is None else photos.distance(one.image, one.face) for one in given.pictures
    ]


class FaceLook:
    """The photos of a person; `distance` of a drawn face to the nearest of them."""

    def __init__(self, photos: Sequence[tuple[UInt8Image, Face]], grey: bool) -> None:
        self.grey = grey
        self.photos = [self.describe(image, face) for image, face in photos]

    def describe(self, image: UInt8Image, face: Face) -> Float32Array:
        """Return CIE Lab less its mean: uint8[H, W, 3] RGB and its face -> float32[11, 11, 3]."""
        aligned = cut_upright(image, face.landmarks, TEMPLATE, INPUT_SIZE) / np.float32(255)
        small = cv2.resize(aligned, (SQUARES, SQUARES), interpolation=cv2.INTER_AREA)
        lab = cv2.cvtColor(np.clip(small, 0, 1), cv2.COLOR_RGB2LAB)[INNER, INNER]
        if self.grey:
            lab[..., 1:] = 0
        return np.asarray(lab - lab.mean(axis=(0, 1)), np.float32)

    def distance(self, image: UInt8Image, face: Face) -> float:
        """Return the root mean square over the squares, in CIE Lab (2.3 can just be seen)."""
        return nearest(self.describe(image, face), self.photos)

    def own(self) -> float:
        """Return the same between the photos: the mean over each to its nearest other."""
        others = [[p for p in self.photos if p is not photo] for photo in self.photos]
        pairs = zip(self.photos, others, strict=True)
        return float(np.mean([nearest(photo, rest) for photo, rest in pairs]))


def nearest(one: Float32Array, others: Sequence[Float32Array]) -> float:
    """Return the smallest root mean square distance to one of ``others``."""
    return min(float(np.sqrt(((one - other) ** 2).sum(axis=-1).mean())) for other in others)


def is_grey(images: Sequence[UInt8Image]) -> bool:
    """Return whether photos, uint8[H, W, 3] RGB, are black and white."""
    labs = [cv2.cvtColor(i.astype(np.float32) / 255, cv2.COLOR_RGB2LAB) for i in images]
    return float(np.mean([np.hypot(lab[..., 1], lab[..., 2]).mean() for lab in labs])) < GREY
