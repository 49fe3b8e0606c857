"""A heat map over a picture: what a learned token attends to, or where an edit changes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from mcap.contracts import Float32Array, UInt8Image


def overlay(image: UInt8Image, heat: Float32Array) -> UInt8Image:
    """Return a picture uint8[H, W, 3] in grey under a heat map float32[h, w] of any size and range.

    The map is scaled to its own minimum and maximum; a constant one shows nothing.
    """
    height, width = image.shape[:2]
    span = float(heat.max() - heat.min())
    scaled = (heat - heat.min()) / span if span > 0 else np.zeros_like(heat)
    large = cv2.resize(scaled, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    colours = cv2.applyColorMap((large * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    grey = image.astype(np.float32).mean(axis=2, keepdims=True)
    mixed = 0.45 * grey + 0.75 * colours.astype(np.float32)
    return mixed.clip(0, 255).astype(np.uint8)
