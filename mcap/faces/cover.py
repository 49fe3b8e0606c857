"""The likelihood that something covers a face, from its own pixels: no network is asked.

A logistic regression over how the colours of eleven places of the face differ from its skin, and
over the directions of its edges (Dalal and Triggs, CVPR 2005). Its weights, in cover.json, were
fitted by benchmarks/covers.py to portraits of people who do not exist, half of them with a mask, a
hand, a scarf, a bar, a phone or sunglasses drawn onto them; docs/faces.md has what it finds.
"""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from mcap.faces.oriented_gradients import oriented_gradients
from mcap.faces.oval import TEMPLATE
from mcap.geometry.similarity_transform import cut_upright

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mcap.contracts import Float32Array, UInt8Image

WEIGHTS = Path(__file__).with_name("cover.json")

SIDE = 128
"""Pixels of the upright frame ..."""
UNIT, ROOM = 96, 16
"""... in which a unit frame of `mcap.faces.oval` is so large, with so much around it."""

PLACES = {
    "brow": (0.42, 0.58, 0.36, 0.42),
    "right cheek": (0.27, 0.36, 0.58, 0.66),
    "left cheek": (0.64, 0.73, 0.58, 0.66),
    "nose": (0.46, 0.54, 0.56, 0.66),
    "upper lip": (0.42, 0.58, 0.70, 0.75),
    "mouth": (0.40, 0.60, 0.80, 0.85),
    "chin": (0.42, 0.58, 0.92, 0.99),
    "right jaw": (0.28, 0.36, 0.76, 0.86),
    "left jaw": (0.64, 0.72, 0.76, 0.86),
    "right eye": (0.27, 0.41, 0.43, 0.49),
    "left eye": (0.59, 0.73, 0.43, 0.49),
}
"""Place -> left, right, top, bottom in the unit frame."""

SKIN = ("right cheek", "left cheek", "brow", "nose")
"""Places whose median colour is taken for the skin's."""

FACE = (0.25, 0.75, 0.3, 1.0)
"""The part of the frame whose spread of lightness is the unit of all differences, so that neither
light nor contrast matters."""

LEAST_SPREAD = 4.0
"""That unit is no less than this, of 100: a face in the dark has none to speak of."""


def cover(image: UInt8Image, landmarks: Float32Array) -> float:
    """Return how likely something covers the face at ``landmarks`` float[5, 2], 0 to 1.

    ``image`` is uint8[H, W, 3]. Measured on faces of about 100 pixels and more.
    """
    weights, bias = read_weights()
    logit = float(cover_features(upright(image, landmarks)) @ weights + bias)
    return 1.0 / (1.0 + math.exp(-min(max(logit, -30.0), 30.0)))


def upright(image: UInt8Image, landmarks: Float32Array) -> UInt8Image:
    """Return the face in its upright frame, uint8[SIDE, SIDE, 3]."""
    cut = cut_upright(image, landmarks, TEMPLATE * UNIT + ROOM, SIDE)
    return np.clip(cut, 0, 255).astype(np.uint8)


def cover_features(face: UInt8Image) -> NDArray[np.float64]:
    """Return what is looked at, float64[675], of a face uint8[SIDE, SIDE, 3] in its frame.

    Nine numbers a place: its colour's difference from the skin's in CIELAB, the same without sign,
    and its deviation; then the histogram of oriented gradients of the face at half the size.
    """

    def seen(box: tuple[float, float, float, float]) -> NDArray[np.float32]:
        x0, x1, y0, y1 = (round(edge * UNIT + ROOM) for edge in box)
        return np.asarray(lab[y0:y1, x0:x1].reshape(-1, 3))

    lab = cv2.cvtColor(face.astype(np.float32) / np.float32(255.0), cv2.COLOR_RGB2LAB)
    places = {name: seen(box) for name, box in PLACES.items()}
    skin = np.median(np.concatenate([places[name] for name in SKIN]), axis=0)
    unit = max(float(seen(FACE)[:, 0].std()), LEAST_SPREAD)
    numbers: list[float] = []
    for pixels in places.values():
        difference = (np.median(pixels, axis=0) - skin) / unit
        numbers += [*difference, *np.abs(difference), *(pixels.std(axis=0) / unit)]
    grey = cv2.cvtColor(face, cv2.COLOR_RGB2GRAY)
    half = cv2.resize(grey, (SIDE // 2, SIDE // 2), interpolation=cv2.INTER_AREA)
    gradients = oriented_gradients(np.asarray(half, np.uint8))
    return np.concatenate([np.array(numbers), gradients]).astype(np.float64)


@cache
def read_weights() -> tuple[NDArray[np.float64], float]:
    """Return the weight of each feature, and the bias, in log odds."""
    stored = json.loads(WEIGHTS.read_text(encoding="utf-8"))
    return np.array(stored["weights"]), float(stored["bias"])
