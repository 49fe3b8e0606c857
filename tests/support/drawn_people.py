"""Heads and shoulders drawn from circles and lines: matte and colours are known exactly."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from mcap.contracts import Face, MaskerInfo

SKIN, HAIR, SHIRT = (0.85, 0.64, 0.52), (0.12, 0.08, 0.06), (0.15, 0.25, 0.5)


@dataclass(frozen=True)
class Person:
    """``image`` uint8[H, W, 3]; ``matte`` float32[H, W], exact; ``own`` float32[H, W, 3]."""

    image: np.ndarray
    matte: np.ndarray
    own: np.ndarray
    face: Face

    def on(self, background) -> np.ndarray:
        """The same person before another background, uint8[H, W, 3]."""
        share = self.matte[..., None]
        mixed = share * self.own + (1 - share) * np.asarray(background, np.float32)
        return np.round(mixed * 255).astype(np.uint8)


def person(
    size=(600, 700), middle=(300, 300), head=300.0, background=(0.2, 0.6, 0.3), hairs=0
) -> Person:
    """A head ``head`` pixels from crown to chin round ``middle`` = (x, y of the eyes).

    ``hairs`` thin lines stand out of the hair. ``background`` is a colour, or float[H, W, 3].
    """
    width, height = size
    scale = 3  # drawn larger and averaged, so that the edges are as soft as a camera's
    half = head / 2

    def blank(channels):
        return np.zeros((height * scale, width * scale, channels), np.float32)

    own, matte = blank(3), blank(1)
    own[:] = HAIR

    def at(x, y):
        return round((middle[0] + x * half) * scale), round((middle[1] + y * half) * scale)

    def fill(points, colour):
        corners = np.array([at(*point) for point in points], np.int32)
        cv2.fillPoly(own, [corners], colour)
        cv2.fillPoly(matte, [corners], 1.0)

    def disc(x, y, across, down, colour):
        axes = (round(across * half * scale), round(down * half * scale))
        cv2.ellipse(own, at(x, y), axes, 0, 0, 360, colour, -1)
        cv2.ellipse(matte, at(x, y), axes, 0, 0, 360, 1.0, -1)

    fill([(-0.45, 1.1), (0.45, 1.1), (2.1, 1.75), (2.3, 9), (-2.3, 9), (-2.1, 1.75)], SHIRT)
    fill([(-0.35, 0.6), (0.35, 0.6), (0.35, 1.25), (-0.35, 1.25)], SKIN)
    disc(0, -0.1, 0.85, 1.02, HAIR)
    for number in range(hairs):
        angle = np.pi * (0.1 + 0.8 * number / max(hairs - 1, 1))
        start = at(-0.8 * np.cos(angle), -0.1 - 0.95 * np.sin(angle))
        end = at(-1.0 * np.cos(angle), -0.1 - 1.17 * np.sin(angle))
        cv2.line(matte, start, end, 1.0, scale)
    disc(0, 0.15, 0.68, 0.85, SKIN)
    for x in (-0.28, 0.28):
        disc(x, 0, 0.1, 0.05, (0.95, 0.95, 0.95))
    disc(0, 0.58, 0.22, 0.06, (0.7, 0.3, 0.3))

    own, matte = (cv2.resize(values, size, interpolation=cv2.INTER_AREA) for values in (own, matte))
    landmarks = np.array(
        [(-0.28, 0), (0.28, 0), (0, 0.32), (-0.235, 0.58), (0.235, 0.58)], np.float32
    ) * half + np.array(middle, np.float32)
    x, y = middle
    face = Face((x - 0.6 * half, y - 0.7 * half, x + 0.6 * half, y + half), 0.95, landmarks)
    behind = np.broadcast_to(np.asarray(background, np.float32), own.shape)
    share = matte[..., None]
    image = np.round((share * own + (1 - share) * behind) * 255).astype(np.uint8)
    return Person(image, matte, own, face)


class KnownMasker:
    """Gives a drawn person's matte, blurred as a segmenter's is, at whatever size is asked for."""

    info = MaskerInfo()

    def __init__(self, matte: np.ndarray, blur: float = 0.0) -> None:
        self.matte = cv2.GaussianBlur(matte, (0, 0), blur) if blur else matte

    def mask(self, image, face):
        return cv2.resize(self.matte, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)


def covered_face(image: np.ndarray, landmarks: np.ndarray, kind: str, seed: int) -> np.ndarray:
    """The picture with something drawn over the face: a "mask", a "scarf" or dark "lenses"."""
    rng = np.random.default_rng(seed)
    eyes, mouth = landmarks[:2].mean(axis=0), landmarks[3:].mean(axis=0)
    down, right = mouth - eyes, landmarks[1] - landmarks[0]

    def at(x: float, y: float) -> np.ndarray:
        """x in eye distances from the middle, y in steps from the eyes (0) to the mouth (1)."""
        return eyes + x * right + y * down

    colours = [(150, 200, 222), (235, 238, 240), (30, 30, 32), (90, 130, 110), (120, 60, 70)]
    colour = np.array(colours[seed % len(colours)]) * rng.uniform(0.85, 1.05)
    shapes = {
        "mask": [[(-0.95, 0.55), (0, 0.35), (0.95, 0.55), (0.9, 1.3), (0, 1.9), (-0.9, 1.3)]],
        "scarf": [[(-4, 0.7), (0, 0.6), (4, 0.7), (4, 4), (-4, 4)]],
        "lenses": [
            [(x - 0.45, -0.3), (x + 0.45, -0.3), (x + 0.38, 0.35), (x - 0.38, 0.35)]
            for x in (-0.5, 0.5)
        ],
    }
    if kind == "lenses":
        colour = colour * 0.0 + 25
    alpha = np.zeros(image.shape[:2], np.float32)
    for shape in shapes[kind]:
        points = np.round([at(x, y) for x, y in shape]).astype(np.int32)
        cv2.fillPoly(alpha, [points], 1.0)
    soft = cv2.GaussianBlur(alpha, (0, 0), max(float(np.hypot(*right)) / 60, 0.5))[..., None]
    y, x = np.mgrid[0 : image.shape[0], 0 : image.shape[1]]
    folds = 12 * np.sin(y * 25 / np.hypot(*down) + x * 5 / np.hypot(*right))
    cloth = (colour + (folds if kind != "lenses" else 0 * folds)[..., None]).clip(0, 255)
    return np.round(image * (1 - soft) + cloth * soft).astype(np.uint8)
