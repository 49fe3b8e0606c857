"""Histogram of oriented gradients (Dalal and Triggs, CVPR 2005), as OpenCV computes it.

OpenCV 5 keeps its own among the modules of ``opencv-contrib-python``, which mcap does not need
otherwise and which cannot be installed beside ``opencv-python`` without harm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK, CELL, BINS = 16, 8, 9
"""Pixels a side of a block and of a cell in it; bins of half a turn."""
LARGEST = 0.2
"""At which a normalised block is cut off, before it is normalised again."""


def oriented_gradients(grey: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return float32[N] in [0, 1] of uint8[H, W], whose sides are multiples of `BLOCK`.

    Blocks do not overlap and stand column by column, as do the four cells of each; a cell has
    `BINS` numbers. Equal to OpenCV's HOGDescriptor of these sizes but for the last bits.
    """
    height, width = grey.shape
    # The square root evens out light and shadow.
    padded = cv2.copyMakeBorder(
        np.sqrt(grey.astype(np.float32)), 1, 1, 1, 1, cv2.BORDER_REFLECT_101
    )
    size, angle = cv2.cartToPolar(
        padded[1:-1, 2:] - padded[1:-1, :-2], padded[2:, 1:-1] - padded[:-2, 1:-1]
    )
    # Each pixel votes for the two bins next to its direction, whose sign does not count.
    place = angle * np.float32(BINS / np.pi) - np.float32(0.5)
    beyond = place - np.floor(place)
    lower = np.floor(place).astype(int) % BINS
    votes = np.zeros((height, width, BINS), np.float32)
    rows, columns = np.indices(grey.shape)
    votes[rows, columns, lower] = size * (1 - beyond)
    votes[rows, columns, (lower + 1) % BINS] += size * beyond
    # And, the more the nearer the block's middle, for the cells next to it along each axis.
    pixels = np.arange(BLOCK, dtype=np.float32)
    bell = np.exp(-((pixels - BLOCK / 2) ** 2) / (2 * (BLOCK / 4) ** 2))
    cells = np.arange(BLOCK // CELL)[:, None]
    share = np.maximum(0, 1 - np.abs((pixels + 0.5) / CELL - 0.5 - cells)) * bell
    blocks = votes.reshape(height // BLOCK, BLOCK, width // BLOCK, BLOCK, BINS)
    made = np.einsum("yixjb,ci,dj->xydcb", blocks, share, share)
    made = made.reshape(-1, (BLOCK // CELL) ** 2 * BINS)
    made /= np.linalg.norm(made, axis=1, keepdims=True) + 0.1 * made.shape[1]
    made = np.minimum(made, LARGEST)
    made /= np.linalg.norm(made, axis=1, keepdims=True) + 1e-3
    return made.ravel().astype(np.float32)
