"""Photos that show nearly the same: saved again, made smaller, brightened, mirrored, cut.

Two such photos teach what one does. Thumbnails are compared, so it does not matter how large the
photos are.

ImageHash does not do it: below the distance at which two portraits of different people meet, its
perceptual and difference hashes find 0 of 100 copies cut by 2 to 6 % (here 99) and 2 at twice the
light (here 31); at 64 bits strangers in one framing are nearer than a saved copy.
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

ALIKE_CUT = 0.5
"""The same where the photo's edge cuts one of the two faces (SFace: 0.70 with a third outside)."""

HALVES = tuple(np.arange(1.0, 0.45, -0.06))
"""Sides of the cut that are tried then, as parts of the whole."""

NEIGHBOURS = 8
"""So many of the photos with the most similar faces are looked at for parts."""

COARSE = tuple(np.arange(1.0, 0.75, -0.06))
FINE = tuple(np.arange(1.0, 0.75, -0.03))  # sides of a cut, as parts of the whole
PROMISING = 0.88  # correlation on the coarse grid from which the fine one is tried
SKEW = 0.13  # at most so much more is cut from one side than from the other


@dataclass(frozen=True)
class Near:
    """The photo that another one nearly is."""

    index: int
    correlation: float
    mirrored: bool


def thumbnail(image: UInt8Image) -> UInt8Image:
    """Return uint8[H, W, 3] as grey uint8[SIDE, SIDE]."""
    small = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), dtype=np.uint8)


def near_duplicates(
    thumbnails: Sequence[UInt8Image],
    threshold: float,
    embeddings: Sequence[Float32Array] | None = None,
    cut: Sequence[bool] | None = None,
) -> dict[int, Near]:
    """Return the number of a photo -> the earlier photo that it nearly is, the most alike.

    The measure is the correlation of the thumbnails, of one and the other's mirror image or, where
    ``embeddings`` (float32[K, D], the faces of each photo) say that it may be, of one and a part of
    the other, at least three quarters of each side; half, where ``cut`` says that the photo's edge
    cuts a face of one of them.

    Measured: two portraits of strangers in one framing at most 0.90 (330 portraits), two photos of
    one person at most 0.953 (44 pairs of similar ones); saved at JPEG quality 40, halved, warmed or
    at half the light 0.999, at twice the light 0.96 to 1; 2 to 6 % cut off each side, unevenly,
    0.977 to 0.997, 5 to 12 % 0.96 to 0.99.
    """
    if len(thumbnails) < 2:
        return {}
    vectors = np.stack([compared(each).ravel() for each in thumbnails]).astype(np.float32)
    vectors -= vectors.mean(axis=1, keepdims=True)
    # Mean 0 and length 1, so that a product is the correlation; 0 for a picture of one colour.
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
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
            any_cut = cut is not None and any(cut)
            for index in with_similar_faces(embeddings, later, ALIKE_CUT if any_cut else ALIKE):
                halves = cut is not None and (cut[index] or cut[later])
                if not halves and (embeddings[index] @ embeddings[later].T).max() < ALIKE:
                    continue
                pair = thumbnails[index], thumbnails[later]
                shared = max(part_of(*pair, halves), part_of(*pair[::-1], halves))
                if shared >= threshold:
                    found[later] = Near(index, shared, False)
                    break
    return found


def part_of(whole: UInt8Image, part: UInt8Image, halves: bool = False) -> float:
    """Return the best correlation of one thumbnail with a part of another, over place and size.

    ``halves``: parts down to a half of either side, however much more is cut from one.
    """
    if whole.std() < 1 or part.std() < 1:
        return 0.0  # one colour is a part of anything
    small = compared(part)
    if halves:
        best = best_match(whole, small, HALVES, skew=1.0)
        finer = tuple(np.arange(1.0, 0.45, -0.03))
        return max(best, best_match(whole, small, finer, 1.0)) if best >= PROMISING else best
    best = best_match(whole, small, COARSE)
    return max(best, best_match(whole, small, FINE)) if best >= PROMISING else best


def best_match(
    whole: UInt8Image, small: UInt8Image, parts: Sequence[float], skew: float = SKEW
) -> float:
    """Return the best correlation of uint8[SMALL, SMALL] with parts of those sizes, anywhere."""
    best = 0.0
    for across in parts:
        for down in parts:
            if abs(across - down) > skew:
                continue
            size = (round(SMALL / across), round(SMALL / down))
            resized = cv2.resize(whole, size, interpolation=cv2.INTER_AREA)
            best = max(best, float(cv2.matchTemplate(resized, small, cv2.TM_CCOEFF_NORMED).max()))
    return best


def with_similar_faces(
    embeddings: Sequence[Float32Array], later: int, alike: float = ALIKE
) -> list[int]:
    """Return the earlier photos with a face like one of this photo's, the most alike first."""
    mine = embeddings[later]
    if not len(mine):
        return []
    likeness = [
        (float((embeddings[index] @ mine.T).max()), index)
        for index in range(later)
        if len(embeddings[index])
    ]
    likely = sorted((item for item in likeness if item[0] >= alike), reverse=True)
    return [index for _, index in likely[:NEIGHBOURS]]


def compared(thumb: UInt8Image) -> UInt8Image:
    """Return a thumbnail at the size at which two of them are compared: uint8[SMALL, SMALL]."""
    small = cv2.resize(thumb, (SMALL, SMALL), interpolation=cv2.INTER_AREA)
    return np.asarray(small, dtype=np.uint8)
