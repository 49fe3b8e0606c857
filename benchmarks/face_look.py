"""Does a face have the light, colours and features of the photos, or odd patches of its own?

A face network can be pleased by what no eye takes for the person: a red nose, a shadow where the
smile should be. So faces are laid over one another by their landmarks and compared as pictures, in
coarse squares, after the mean colour of each has been taken off (so that the light of a room does
not count), with the most similar of the person's photos.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch

from mcap.contracts import Face, IdentityModel
from mcap.geometry.align import align_faces

SQUARES = 14
INNER = slice(2, 13)
"""Squares that show the face itself: the template's borders show hair and background."""
GREY = 4.0
"""Mean chroma (CIE Lab) below which a style counts as black and white."""


class FaceLook:
    """The photos of a person; `distance` of a drawn face to the nearest of them."""

    def __init__(
        self, model: IdentityModel, photos: Sequence[tuple[np.ndarray, Face]], grey: bool
    ) -> None:
        self.template, self.size = torch.as_tensor(model.template), model.input_size
        self.grey = grey
        self.photos = [self.describe(image, face) for image, face in photos]

    def describe(self, image: np.ndarray, face: Face) -> np.ndarray:
        """uint8[H, W, 3] RGB and its face -> CIE Lab less its mean, float32[11, 11, 3]."""
        picture = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
        points = torch.as_tensor(face.landmarks, dtype=torch.float32)[None]
        aligned = align_faces(picture, points, self.template, self.size)
        aligned = aligned[0].permute(1, 2, 0).numpy()
        small = cv2.resize(aligned, (SQUARES, SQUARES), interpolation=cv2.INTER_AREA)
        lab = cv2.cvtColor(np.clip(small, 0, 1), cv2.COLOR_RGB2LAB)[INNER, INNER]
        if self.grey:
            lab[..., 1:] = 0
        return lab - lab.mean(axis=(0, 1))

    def distance(self, image: np.ndarray, face: Face) -> float:
        """Root mean square over the squares, in CIE Lab (2.3 can just be seen)."""
        return nearest(self.describe(image, face), self.photos)

    def own(self) -> float:
        """The same between the photos themselves: mean over each to its nearest other."""
        others = [[p for p in self.photos if p is not photo] for photo in self.photos]
        pairs = zip(self.photos, others, strict=True)
        return float(np.mean([nearest(photo, rest) for photo, rest in pairs]))


def nearest(one: np.ndarray, others: Sequence[np.ndarray]) -> float:
    return min(float(np.sqrt(((one - other) ** 2).sum(axis=-1).mean())) for other in others)


def is_grey(images: Sequence[np.ndarray]) -> bool:
    """Whether photos, uint8[H, W, 3] RGB, are black and white."""
    labs = [cv2.cvtColor(i.astype(np.float32) / 255, cv2.COLOR_RGB2LAB) for i in images]
    return float(np.mean([np.hypot(lab[..., 1], lab[..., 2]).mean() for lab in labs])) < GREY
