"""Prepared pictures -> random training pairs: what is given, and what should be made of it."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
from degrade import SCALE, degrade
from draw_large import HELD_OUT

RIGHT_LEFT = [1, 0, 2, 4, 3]
REBUILT = 0  # of the kinds of seen.py
MARGIN = 8  # input pixels around a patch that are degraded with it and cut off, at random


class Pictures:
    """Arrays of prepare_pairs.py with their train and held-out rows and landmarks.

    Of pictures that the backbone has not seen yet there are no rows.
    """

    def __init__(self, folder: Path):
        table = json.loads((folder / "table.json").read_text())
        self.arrays, self.points, self.train, self.held_out, self.numbers = {}, {}, {}, {}, {}
        self.seen = {}
        for name in ("half", "full"):
            self.seen[name] = np.load(folder / f"seen_{name}.npy", mmap_mode="r")
            there = self.seen[name][0, :, ::64, ::64].any((1, 2, 3))
            self.arrays[name] = np.load(folder / f"{name}.npy", mmap_mode="r")
            self.numbers[name] = np.array([r["number"] for r in table[name]])
            self.points[name] = np.array([r["points"] for r in table[name]], np.float32)
            held = self.numbers[name] % HELD_OUT == 0
            self.train[name] = np.flatnonzero(~held & there)
            self.held_out[name] = np.flatnonzero(held & there)

    def corner(self, name: str, row: int, side: int, rng) -> tuple[int, int]:
        """Upper left corner (y, x) of a square of some side: half of them near a landmark."""
        last = self.arrays[name].shape[1] - side
        if rng.random() < 0.5:
            return int(rng.integers(last + 1)), int(rng.integers(last + 1))
        x, y = self.points[name][row][rng.integers(5)] + rng.normal(0, side / 4, 2) - side / 2
        return int(np.clip(y, 0, last)), int(np.clip(x, 0, last))


def tone(rng):
    """A random change of light and colour, or black and white: picture -> picture in [0, 1]."""
    gains = np.ones(3, np.float32)
    power, grey = 1.0, rng.random() < 0.06
    if rng.random() < 0.4:
        gains = rng.uniform(0.85, 1.1, 3).astype(np.float32)
        power = rng.uniform(0.7, 1.4)

    def apply(image: np.ndarray) -> np.ndarray:
        if power != 1.0:
            # Rounding and compression leave values a little outside.
            image = np.clip(image, 0, 1) ** np.float32(power) * gains
        if grey:
            weights = np.array([0.299, 0.587, 0.114], np.float32)
            image = np.repeat((image @ weights)[..., None], 3, 2)
        return np.clip(image, 0, 1)

    return apply


def cut(array: np.ndarray, row: int, y: int, x: int, side: int) -> np.ndarray:
    return np.asarray(array[row, y : y + side, x : x + side], np.float32) / 255


def generated_pair(pictures: Pictures, side: int, rng):
    """As generated: at 256 pixels of 1024, as the demo backbone makes it (seen.py).

    Rebuilt pictures are now and then mixed with the original made small, as a better autoencoder
    would leave them.
    """
    row = rng.choice(pictures.train["full"])
    y, x = (v // SCALE for v in pictures.corner("full", row, side * SCALE, rng))
    change, kind = tone(rng), int(rng.integers(len(pictures.seen["full"])))
    wanted = cut(pictures.arrays["full"], row, y * SCALE, x * SCALE, side * SCALE)
    given = cut(pictures.seen["full"][kind], row, y, x, side)
    if kind == REBUILT and rng.random() < 0.4:
        small = cv2.resize(wanted, (side, side), interpolation=cv2.INTER_AREA)
        given += np.float32(rng.uniform(0, 0.8)) * (small - given)
    return change(given), change(wanted)


def degraded_pair(pictures: Pictures, side: int, rng, clean_share: float):
    """As photographed: a square of some size, made smaller at random, then degraded."""
    name = "full" if rng.random() < 0.6 and len(pictures.train["full"]) else "half"
    row, whole = rng.choice(pictures.train[name]), (side + MARGIN) * SCALE
    most = min(pictures.arrays[name].shape[1], whole * 3)
    taken = int(rng.integers(whole, max(most, whole) + 1))
    y, x = pictures.corner(name, row, taken, rng)
    image = cut(pictures.arrays[name], row, y, x, taken)
    if taken != whole:
        image = cv2.resize(image, (whole, whole), interpolation=cv2.INTER_AREA)
    image = tone(rng)(image)
    given = degrade(image, rng, clean_share)
    y, x = rng.integers(MARGIN + 1, size=2)
    wanted = image[y * SCALE : (y + side) * SCALE, x * SCALE : (x + side) * SCALE]
    return given[y : y + side, x : x + side], wanted


def patches(pictures: Pictures, count: int, side: int, rng, generated: float, clean_share: float):
    """Given float32[count, side, side, 3] and wanted float32[count, 4 side, 4 side, 3]."""
    made = []
    for _ in range(count):
        if rng.random() < generated and len(pictures.train["full"]):
            pair = generated_pair(pictures, side, rng)
        else:
            pair = degraded_pair(pictures, side, rng, clean_share)
        made.append([p[:, ::-1] for p in pair] if rng.random() < 0.5 else pair)
    return tuple(np.stack(part) for part in zip(*made, strict=True))


def whole_face(pictures: Pictures, side: int, rng, clean_share: float):
    """A whole face: given [side, side, 3], wanted [4 side, 4 side, 3], landmarks in wanted.

    Of a portrait degraded to between side and 4 / 3 of it, the square around the landmarks: what
    the recogniser looks at covers four fifths of a portrait.
    """
    row = rng.choice(pictures.train["half"])
    portrait = int(rng.integers(side, side * 4 // 3 + 1))
    large = portrait * SCALE
    image = np.asarray(pictures.arrays["half"][row], np.float32) / 255
    image = tone(rng)(cv2.resize(image, (large, large), interpolation=cv2.INTER_AREA))
    points = (pictures.points["half"][row] + 0.5) * (large / 512) - 0.5
    given = degrade(image, rng, clean_share)
    x, y = np.clip(np.round(points.mean(0) / SCALE - side / 2), 0, portrait - side).astype(int)
    given = given[y : y + side, x : x + side]
    image = image[y * SCALE : (y + side) * SCALE, x * SCALE : (x + side) * SCALE]
    points = points - [x * SCALE, y * SCALE]
    if rng.random() < 0.5:
        image, given = image[:, ::-1], given[:, ::-1]
        points = points[RIGHT_LEFT] * [-1, 1] + [side * SCALE - 1, 0]
    return given, image, points.astype(np.float32)
