"""Photos that show nearly the same: saved again, made smaller, brightened, mirrored, cut.

Two such photos teach what one does. Thumbnails are compared, so it does not matter how large the
photos are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from mcap.contracts import Float32Array, UInt8Image

SIDE = 96  # of a thumbnail
SMALL = 32  # side at which two of them are compared

ALIKE = 0.85
"""Similarity of two faces from which their photos may be parts of one picture: a cut changes the
face's embedding little (SFace: 0.88 to 1 where 2 to 12 % are cut off each side, 62 cuts), another
photo of the same person more."""

NEIGHBOURS = 8
"""So many of the photos with the most similar faces are looked at for parts."""

_COARSE = tuple(np.arange(1.0, 0.75, -0.06))
_FINE = tuple(np.arange(1.0, 0.75, -0.03))  # sides of a cut, as parts of the whole
_PROMISING = 0.88  # correlation on the coarse grid from which the fine one is tried
_SKEW = 0.13  # at most so much more is cut from one side than from the other


@dataclass(frozen=True)
class Near:
    """Which photo an other one nearly is."""

    index: int
    correlation: float
    mirrored: bool


def thumbnail(image: UInt8Image) -> UInt8Image:
    """uint8[SIDE, SIDE], grey."""
    small = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)


def near_duplicates(
    thumbnails: Sequence[UInt8Image],
    threshold: float,
    embeddings: Sequence[Float32Array] | None = None,
) -> dict[int, Near]:
    """Number of a photo -> the earlier photo that it nearly is, the most alike.

    The measure is the correlation of the thumbnails, of one and the other's mirror image or, where
    ``embeddings`` (float32[K, D], the faces of each photo) say that it may be, of one and a part of
    the other, at least three quarters of each side.

    Measured: two portraits of strangers in one framing at most 0.90 (330 portraits), two photos of
    one person at most 0.953 (44 pairs of similar ones); saved at JPEG quality 40, halved, warmed or
    at half the light 0.999, at twice the light 0.96 to 1; 2 to 6 % cut off each side, unevenly,
    0.977 to 0.997, 5 to 12 % 0.96 to 0.99.
    """
    if len(thumbnails) < 2:
        return {}
    vectors = np.stack([_vector(each) for each in thumbnails])
    turned = vectors.reshape(-1, SMALL, SMALL)[:, :, ::-1].reshape(len(vectors), -1)
    found: dict[int, Near] = {}
    for later in range(1, len(vectors)):
        plain = vectors[:later] @ vectors[later]
        mirrored = turned[:later] @ vectors[later]
        best = np.maximum(plain, mirrored)
        index = int(np.argmax(best))
        if best[index] >= threshold:
            found[later] = Near(index, float(best[index]), bool(mirrored[index] > plain[index]))
        elif embeddings is not None:
            for index in _alike(embeddings, later):
                pair = thumbnails[index], thumbnails[later]
                shared = max(part_of(*pair), part_of(*pair[::-1]))
                if shared >= threshold:
                    found[later] = Near(index, shared, False)
                    break
    return found


def part_of(whole: UInt8Image, part: UInt8Image) -> float:
    """How well one thumbnail is a part of another: the best correlation over place and size."""
    if whole.std() < 1 or part.std() < 1:
        return 0.0  # one colour is a part of anything
    small = cv2.resize(part, (SMALL, SMALL), interpolation=cv2.INTER_AREA)
    coarse = _search(whole, small, _COARSE)
    return max(coarse, _search(whole, small, _FINE)) if coarse >= _PROMISING else coarse


def _search(whole: UInt8Image, small: UInt8Image, parts: Sequence[float]) -> float:
    best = 0.0
    for across in parts:
        for down in parts:
            if abs(across - down) > _SKEW:
                continue
            size = (round(SMALL / across), round(SMALL / down))
            resized = cv2.resize(whole, size, interpolation=cv2.INTER_AREA)
            best = max(best, float(cv2.matchTemplate(resized, small, cv2.TM_CCOEFF_NORMED).max()))
    return best


def _alike(embeddings: Sequence[Float32Array], later: int) -> list[int]:
    """Earlier photos with a face like one of this photo's, the most alike first."""
    mine = embeddings[later]
    if not len(mine):
        return []
    likeness = [
        (float((embeddings[index] @ mine.T).max()), index)
        for index in range(later)
        if len(embeddings[index])
    ]
    likely = sorted((item for item in likeness if item[0] >= ALIKE), reverse=True)
    return [index for _, index in likely[:NEIGHBOURS]]


def _vector(thumb: UInt8Image) -> Float32Array:
    """float32[SMALL * SMALL], mean 0 and length 1 (0 for a picture of one colour)."""
    grey = (
        cv2.resize(thumb, (SMALL, SMALL), interpolation=cv2.INTER_AREA).astype(np.float32).ravel()
    )
    grey -= grey.mean()
    return grey / max(float(np.linalg.norm(grey)), 1e-6)
