"""A toy that does not exist, before backgrounds that change: a subject of the kind "object"."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

ORANGE, BROWN, CREAM, BLACK = (230, 120, 20), (120, 50, 10), (250, 240, 220), (20, 20, 20)


def toy(seed: int, size: tuple[int, int] = (480, 640)) -> tuple[np.ndarray, np.ndarray]:
    """A bird of orange clay uint8[H, W, 3], somewhere about the middle, and where: bool[H, W]."""
    rng = np.random.default_rng(seed)
    height, width = size
    blots = rng.normal(128, 45, (6, 8, 3)) * (0.4, 1.0, 1.2)
    image = cv2.resize(blots, (width, height), interpolation=cv2.INTER_CUBIC)
    image = (image + rng.normal(0, 6, image.shape)).clip(0, 255).astype(np.uint8)
    zoom = height / 480 * rng.uniform(1.0, 1.3)
    x, y = rng.uniform(0.42, 0.58) * width, rng.uniform(0.45, 0.55) * height
    mask = np.zeros((height, width), np.uint8)
    tilt = float(rng.uniform(-12, 12))

    def disc(right: float, down: float, radius: float, colour: tuple[int, int, int]) -> None:
        centre = (round(x + right * zoom), round(y + down * zoom))
        cv2.circle(image, centre, round(radius * zoom), colour, -1, cv2.LINE_AA)
        cv2.circle(mask, centre, round(radius * zoom), 255, -1)

    body = (round(x), round(y)), (round(110 * zoom), round(70 * zoom)), tilt, 0, 360
    cv2.ellipse(image, *body, ORANGE, -1, cv2.LINE_AA)
    cv2.ellipse(mask, *body, 255, -1)
    disc(80, -60, 50, ORANGE)
    disc(95, -70, 10, BLACK)
    for number in range(-2, 3):
        disc(40 * number, 10, 9, CREAM)
    tail = np.array([(-100, -15), (-160, -60), (-85, -40)]) * zoom + (x, y)
    cv2.fillPoly(image, [np.round(tail).astype(np.int32)], BROWN, cv2.LINE_AA)
    cv2.fillPoly(mask, [np.round(tail).astype(np.int32)], 255)
    return image, mask > 0


def toy_photos(folder: Path, count: int = 4, size: tuple[int, int] = (480, 640)) -> list[Path]:
    """Photos of the toy, NUMBER.png."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number}.png" for number in range(count)]
    for number, path in enumerate(paths):
        Image.fromarray(toy(number, size)[0]).save(path)
    return paths
