"""The thing in the middle of a picture, by its colours: GrabCut (Rother et al., SIGGRAPH 2004)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from mcap.faces.masks import LandmarkMasker
from mcap_plugins.opencv import FOREGROUND

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mcap.contracts import Face, Float32Array, UInt8Image

SIDE = 256
"""Longer side in pixels at which the picture is cut; the mask's edge is softer than that."""

RIM = 0.04
"""Of the shorter side, along each edge of the picture, taken for background."""

MIDDLE = 0.36
"""Radius, in sides of the picture, in which the thing is looked for first."""

ROUNDS = 5

HOLES = 0.05
"""Of the thing's area; larger holes, as in a handle, stay."""

SHARES = (0.01, 0.85)
"""Of the picture, that a thing may cover; where less or more is found, nothing was told apart."""


class ForegroundMasker:
    """1 on what differs in colour from the picture's rim and lies about its middle.

    Good where a thing stands before another colour; a thing of its background's colours, or one
    that reaches the picture's edge, is cut wrongly, and masks made by hand are better. Measured in
    docs/faces.md, "Things".
    """

    info = FOREGROUND

    def object_mask(self, image: UInt8Image) -> Float32Array:
        """Return float32[H, W] in [0, 1]; 0 everywhere where nothing is told apart."""
        return self._cut(image, None)

    def mask(self, image: UInt8Image, face: Face) -> Float32Array:
        """Return the same of what the face's oval lies on."""
        return self._cut(image, LandmarkMasker().mask(image, face))

    def _cut(self, image: UInt8Image, certain: Float32Array | None) -> Float32Array:
        """Cut out of uint8[H, W, 3] what lies about the middle, or about ``certain`` > 0.5."""
        height, width = image.shape[:2]
        scale = min(1.0, SIDE / max(height, width))
        size = (max(round(width * scale), 1), max(round(height * scale), 1))
        nothing = np.zeros((height, width), dtype=np.float32)
        if min(size) < 16:
            return nothing
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        y, x = np.mgrid[0 : size[1], 0 : size[0]]
        from_middle = np.hypot((x + 0.5) / size[0] - 0.5, (y + 0.5) / size[1] - 0.5)
        labels = np.full(from_middle.shape, cv2.GC_PR_BGD, dtype=np.uint8)
        labels[from_middle < MIDDLE] = cv2.GC_PR_FGD
        rim = max(1, round(RIM * min(size)))
        inside = np.zeros(labels.shape, dtype=bool)
        inside[rim:-rim, rim:-rim] = True
        labels[~inside] = cv2.GC_BGD
        near = np.exp(-((from_middle / 0.3) ** 2))
        if certain is not None:
            oval = cv2.resize(certain, size, interpolation=cv2.INTER_AREA) > 0.5
            labels[oval] = cv2.GC_FGD
            near = oval.astype(np.float64)
        if small.std(axis=(0, 1)).max() < 1.0:  # of one colour there is nothing to cut
            return nothing
        cv2.setRNGSeed(0)  # its colour clusters begin at random
        cv2.grabCut(
            np.ascontiguousarray(small[..., ::-1]),
            labels,
            None,  # type: ignore[call-overload]
            np.zeros((1, 65)),
            np.zeros((1, 65)),
            ROUNDS,
            cv2.GC_INIT_WITH_MASK,
        )
        found = ((labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)).astype(np.uint8)
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
        found = cv2.morphologyEx(found, cv2.MORPH_OPEN, disc)
        found = cv2.morphologyEx(found, cv2.MORPH_CLOSE, disc)
        piece = heaviest_piece(np.asarray(found, np.uint8), near)
        if piece is None or not SHARES[0] <= piece.mean() <= SHARES[1]:
            return nothing
        soft = cv2.GaussianBlur(without_small_holes(piece).astype(np.float32), (0, 0), 1.0)
        whole = cv2.resize(soft, (width, height), interpolation=cv2.INTER_LINEAR)
        return np.asarray(np.clip(whole, 0.0, 1.0), dtype=np.float32)


def heaviest_piece(found: NDArray[np.uint8], near: NDArray[np.float64]) -> NDArray[np.bool_] | None:
    """Return the connected piece of ``found`` that weighs most by ``near``; None for no piece."""
    count, pieces = cv2.connectedComponents(found)
    if count < 2:
        return None
    weights = np.bincount(pieces.ravel(), weights=near.ravel(), minlength=count)
    weights[0] = -1.0
    return np.asarray(pieces == int(weights.argmax()))


def without_small_holes(piece: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return a piece with the holes filled that are smaller than `HOLES` of it: spots, eyes."""
    _, pieces, facts, _ = cv2.connectedComponentsWithStats(
        (~piece).astype(np.uint8), connectivity=4
    )
    small = facts[:, cv2.CC_STAT_AREA] < HOLES * piece.sum()
    small[0] = False  # the piece itself
    edge = np.concatenate([pieces[0], pieces[-1], pieces[:, 0], pieces[:, -1]])
    small[np.unique(edge)] = False
    return np.asarray(piece | small[pieces])
