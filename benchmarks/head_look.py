"""How far a drawn head, hair and ears included, is from the person's photos: the measure ``look``
over the whole head.

Heads are laid over one another by their landmarks, in a frame with room for hair, and compared in
coarse squares. What counts are the squares that both heads cover, by how much they do; the mean
colour that is taken off is that of the face, so that hair is compared by how it differs from the
skin.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from mcap.contracts import Face
from mcap.faces.heads import head_mask, person_mask
from mcap.faces.masks import LandmarkMasker
from mcap.geometry.ffhq import ffhq_alignment
from mcap.geometry.resample import resample
from mcap.registry import registry


class HeadLook:
    """The photos of a person; `distance` of a drawn head to the nearest of them."""

    SIDE = 256
    HEAD_SQUARES = 20
    FACE_HEIGHT = 0.5
    """Of the frame, that the detector's box is high: a head with its hair fills most of it."""

    def __init__(self, photos: Sequence[tuple[np.ndarray, Face]], grey: bool) -> None:
        self.person, self.face = registry().create("masker", "person"), LandmarkMasker()
        self.grey = grey
        self.photos = [self.describe(image, face) for image, face in photos]

    def describe(self, image: np.ndarray, face: Face) -> tuple[np.ndarray, np.ndarray]:
        """uint8[H, W, 3] RGB and its face -> CIE Lab float32[20, 20, 3] and the head's share of
        each square, float32[20, 20]."""
        face_mask = self.face.mask(image, face)
        head = head_mask(person_mask(self.person, image, face), face_mask, face)
        to_frame = ffhq_alignment(face.landmarks, self.SIDE, self.FACE_HEIGHT)
        layers = (image, *(np.round(mask * 255).astype(np.uint8) for mask in (head, face_mask)))
        seen, share, in_face = (
            resample(layer, to_frame, self.SIDE).astype(np.float32) / 255 for layer in layers
        )
        squares = (self.HEAD_SQUARES, self.HEAD_SQUARES)

        def mean(values: np.ndarray) -> np.ndarray:
            return cv2.resize(values, squares, interpolation=cv2.INTER_AREA)

        share, in_face = mean(share), mean(in_face)
        # The head's own colour in each square, without what is behind it.
        head_in_frame = resample(layers[1], to_frame, self.SIDE).astype(np.float32)[..., None] / 255
        own = mean(seen * head_in_frame) / np.maximum(share, 1e-3)[..., None]
        lab = cv2.cvtColor(np.clip(own, 0, 1), cv2.COLOR_RGB2LAB)
        if self.grey:
            lab[..., 1:] = 0
        return lab - np.average(lab.reshape(-1, 3), axis=0, weights=in_face.ravel()), share

    def distance(self, image: np.ndarray, face: Face) -> float:
        """Root mean square over the head's squares, in CIE Lab, to the nearest of the photos."""
        return min(apart(self.describe(image, face), photo) for photo in self.photos)

    def own(self) -> float:
        """The same between the photos themselves: mean over each to its nearest other."""
        others = [[p for p in self.photos if p is not photo] for photo in self.photos]
        pairs = zip(self.photos, others, strict=True)
        return float(np.mean([min(apart(photo, each) for each in rest) for photo, rest in pairs]))


def apart(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> float:
    both = np.minimum(one[1], other[1])
    difference = ((one[0] - other[0]) ** 2).sum(axis=-1)
    return float(np.sqrt((difference * both).sum() / both.sum()))
