"""Necks, shoulders and clothes where a frame has room for them and the picture has none.

A picture that is all face ends below the chin. Stretched down to the edge of a passport photo
(frames.py) its last rows become columns, and a model that learns columns draws them. So what lies
below the chin is painted: a neck of the person's skin, and a garment of the colour that shows at
the lower corners, else one of a wardrobe. Long hair stays over it.

Lengths are in pixels of the canvas; H is the head's height there, as profiles count it.
"""

from __future__ import annotations

import cv2
import numpy as np
from frames import Frame, HeadAt

WARDROBE = np.array(
    [[28, 32, 48], [22, 22, 24], [70, 72, 78], [222, 222, 226], [150, 175, 205], [110, 35, 45],
     [196, 180, 155], [78, 86, 62], [45, 70, 110], [165, 60, 60], [60, 100, 95], [205, 170, 180]],
    np.float32,
) / 255  # fmt: skip
NECK = 0.245  # half-width of a neck, in H, where hair or a collar hides it
WIDEST = 0.31  # and of one that can be told from the matte
FACE = 0.37  # half-width of a face with its ears, in H
KINDS = {"crew": (0.05, 0.1), "v": (0.14, 0.24), "shirt": (0.1, 0.16), "jacket": (0.3, 0.45)}
"""How deep each opens at the neck, least and most, in H."""


def dress(image: np.ndarray, matte: np.ndarray, frame: Frame, head: HeadAt, rng):
    """Image float32[H, W, 3] and matte float32[H, W] of frames.apply with a painted bust."""
    height, width = matte.shape
    chin = float(frame.to_canvas(np.array([0.0, head.chin]))[1])
    middle = float(frame.to_canvas(np.array([head.middle, 0.0]))[0])
    tall = 2 * (head.chin - head.eyes) * frame.scale
    if height - chin < 0.04 * tall:
        return image, matte
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    row = int(np.clip(chin, 0, height - 1))
    half, hair, clothes = _beside(matte, row, middle, tall)
    away = np.abs(x - middle)

    skin = _skin(image, frame, head)
    below = (y - chin) / tall
    # Darker under the chin and towards the sides, as from light that comes from above.
    light = 0.97 - 0.13 * np.exp(-((below / 0.1) ** 2)) - 0.12 * np.clip(away / half, 0, 1.2) ** 3
    last = cv2.GaussianBlur(image[min(row + 2, height - 1)][None], (0, 0), 5.0)
    fade = np.clip(below / 0.1, 0, 1)[..., None]
    flesh = last + fade * (skin * light[..., None] - last)
    neck_edge = half * (1 + 0.25 * np.clip(below, 0, 1) ** 1.5)
    neck = _smooth(neck_edge - away, 1.5) * _smooth(y - chin - 4, 4.0)
    result = image + neck[..., None] * (flesh - image)
    cut = np.maximum(matte * _above(y, chin, away, half, np.maximum(hair, clothes), tall), neck)

    start = chin + tall * rng.uniform(0.09, 0.15)
    slope, bow = rng.uniform(0.4, 0.68), rng.uniform(0.85, 1.0)
    out = np.clip(away - half * 0.96, 0, None)
    shoulder = start + slope * out**bow + 0.0012 * out**2
    # What is worn as high as the chin goes on from there.
    high = clothes * np.clip((away - half) / (0.15 * tall), 0, 1)
    shoulder = shoulder + high * np.minimum(chin + 1 - shoulder, 0)
    garment = _smooth(y - shoulder, 1.2)
    kind = str(rng.choice(list(KINDS)))
    depth = tall * rng.uniform(*KINDS[kind])
    inside = np.clip(away / (half * 1.02), 0, 1)
    line = start + depth * (np.sqrt(1 - inside**2) if kind == "crew" else 1 - inside)
    line = np.where(inside < 1, line, -height)
    worn = garment * _smooth(y - line, 1.2) * (1 - hair)
    colour = _colour(image, matte, (middle, half), hair, clothes, rng)
    cloth = _cloth(colour, x, y, (middle, start), tall, rng)
    if kind in ("shirt", "jacket"):
        shirt = WARDROBE[3] if kind == "jacket" or rng.random() < 0.4 else colour
        under = np.where(inside < 1, start + tall * 0.13 * (1 - inside), -height)
        linen = garment * _smooth(y - under, 1.0) * (1 - hair)
        white = _cloth(np.asarray(shirt), x, y, (middle, start), tall, rng)
        result = result + linen[..., None] * (white - result)
        cut = np.maximum(cut, linen)
        # A collar: two bands that lie along its opening, lighter than the cloth, with an edge.
        band = _smooth(tall * 0.055 - np.abs(y - under + tall * 0.015), 1.2) * (1 - hair)
        collar = np.clip(white * 1.05 + 0.015, 0, 1)
        result = result + band[..., None] * (collar - result)
        cut = np.maximum(cut, band)
    if kind != "shirt":
        result = result + worn[..., None] * (cloth - result)
        cut = np.maximum(cut, worn)
        edge = worn * np.exp(-(((y - line) / 2.2) ** 2)) * (away < half * 1.02)
        shade = {"crew": 0.12, "v": 0.1, "jacket": 0.22}[kind]
        result = result * (1 - shade * edge[..., None])
    # As soft as the photo round it.
    made = np.maximum(neck, garment * (1 - hair))[..., None]
    result = result + made * (cv2.GaussianBlur(result.astype(np.float32), (0, 0), 0.9) - result)
    return result.clip(0, 1).astype(np.float32), cut.clip(0, 1).astype(np.float32)


def _smooth(distance: np.ndarray, softness: float) -> np.ndarray:
    """1 where distance > 0, 0 where below, with an edge of so many pixels."""
    return np.clip(distance / (2 * softness) + 0.5, 0, 1)


def _beside(
    matte: np.ndarray, row: int, middle: float, tall: float
) -> tuple[float, np.ndarray, np.ndarray]:
    """Half-width of the neck; hair and clothes float32[W], from the matte at the chin's height.

    What is somebody beside the neck is hair if it hangs down past the mouth, else worn.
    """
    here = matte[row]
    columns = np.arange(len(here))
    empty = np.abs(columns - middle)[here < 0.5]
    reach = float(empty.min()) if len(empty) else np.inf
    half = reach if 0.17 * tall < reach <= WIDEST * tall else NECK * tall
    outside = _smooth(np.abs(columns - middle) - half * 1.02, 2.0)
    hanging = matte[max(row - round(0.22 * tall), 0) : row + 1].min(0)
    # Up to the face's own width a column of hair cannot be told from a cheek above a collar; there
    # it is what it is farther out.
    for side in (-1, 1):
        edge = int(np.clip(round(middle + side * FACE * tall), 0, len(here) - 1))
        behind = (columns - edge) * side < 0
        hanging = np.where(behind & ((columns - middle) * side > 0), hanging[edge], hanging)
    hair, worn = hanging * outside, (here - hanging).clip(0, 1) * outside
    soft = [cv2.GaussianBlur(a.astype(np.float32)[None], (0, 0), 2.0)[0] for a in (hair, worn)]
    return half, soft[0], soft[1]


def _above(y, chin: float, away, half: float, kept, tall: float) -> np.ndarray:
    """Share of the picture's own matte that stays: all above the chin, the kept columns below."""
    gone = _smooth(y - chin + 0.02 * tall, 3.0) * _smooth(away - half, 2.0) * (1 - kept)
    return 1 - gone


def _skin(image: np.ndarray, frame: Frame, head: HeadAt) -> np.ndarray:
    """Colour float32[3] of both cheeks."""
    down = head.eyes + 0.5 * (head.chin - head.eyes)
    aside = 0.33 * (head.chin - head.eyes)
    patches = []
    for side in (-1, 1):
        x, y = frame.to_canvas(np.array([head.middle + side * aside, down])).round().astype(int)
        patches.append(image[max(y - 4, 0) : y + 5, max(x - 4, 0) : x + 5].reshape(-1, 3))
    return np.median(np.concatenate(patches), 0)


def _colour(image, matte, neck: tuple[float, float], hair, clothes, rng) -> np.ndarray:
    """Colour of the clothes at the lower corners, or of the wardrobe where none show.

    neck: its middle and half-width.
    """
    away = np.abs(np.arange(matte.shape[1]) - neck[0])
    seen = (matte[-8:] > 0.9) & (away > neck[1] * 1.25) & (hair < 0.2)
    if seen.sum() > 60 and (clothes.max() > 0.3 or rng.random() < 0.6):
        return np.median(image[-8:][seen], 0)
    return WARDROBE[rng.integers(len(WARDROBE))]


def _cloth(colour, x, y, at: tuple[float, float], tall: float, rng) -> np.ndarray:
    """Cloth float32[H, W, 3] of a colour, with broad folds, a weave and light from above."""
    folds = cv2.GaussianBlur(rng.normal(size=x.shape).astype(np.float32), (0, 0), tall * 0.05)
    folds = folds / (np.abs(folds).max() + 1e-6)
    weave = cv2.GaussianBlur(rng.normal(size=x.shape).astype(np.float32), (0, 0), 0.7)
    far = np.hypot(x - at[0], 1.5 * (y - at[1])) / tall
    light = 1.06 - 0.3 * far + 0.12 * folds + 0.02 * weave
    return np.clip(colour * light[..., None] + 0.012 * folds[..., None], 0, 1)
