"""Pairs of aligned faces of redraw.py: as the demo backbone draws them, and as they should be."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import sr_tools  # noqa: F401
from degrade import blur, compress, noise
from pairs import RIGHT_LEFT, tone

from mcap_plugins.demo_face import FFHQ_SIDE as SIDE

MARGIN = 8
"""Pixels around the frame that a pair has, for training to move the frame in. The pictures show
little more than FFHQ's frame: what lies beyond is their mirror image."""

HELD_OUT = 160
"""A person whose number this divides is not trained on."""


@dataclass(frozen=True)
class Pair:
    """The frame, given and wanted float32[`SIDE`, `SIDE`, 3], and landmarks in its pixels."""

    given: np.ndarray
    wanted: np.ndarray
    points: np.ndarray


class AlignedFaces:
    """The pairs that are whole, of people who are trained on and of people who are not."""

    def __init__(self, folder: Path):
        self.given, self.wanted = (
            np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("given", "wanted")
        )
        self.points = np.load(folder / "points.npy")
        shape = (SIDE + 2 * MARGIN, SIDE + 2 * MARGIN, 3)
        if self.given.shape[1:] != shape:
            raise SystemExit(f"{folder}: pairs of another frame than {SIDE}; make them anew")
        held = np.array(json.loads((folder / "table.json").read_text())) % HELD_OUT == 0
        whole = self.given[:, ::32, ::32].any((1, 2, 3))
        self.train, self.held_out = np.flatnonzero(whole & ~held), np.flatnonzero(whole & held)

    def pair(self, row: int, rng=None) -> Pair:
        """A face; ``rng`` moves it by up to half of `MARGIN`, as a detector's landmarks are off,
        and mirrors it now and then; None: as it is."""
        x, y, mirrored = MARGIN, MARGIN, False
        if rng is not None:
            x, y = (int(rng.integers(MARGIN // 2, 3 * MARGIN // 2 + 1)) for _ in range(2))
            mirrored = rng.random() < 0.5
        part = (row, slice(y, y + SIDE), slice(x, x + SIDE))
        pictures = [np.float32(array[part]) / 255 for array in (self.given, self.wanted)]
        points = self.points[row] - [x, y]
        if mirrored:
            pictures = [image[:, ::-1] for image in pictures]
            points = points[RIGHT_LEFT] * [-1, 1] + [SIDE - 1, 0]
        given, wanted = map(np.ascontiguousarray, pictures)
        return Pair(given, wanted, points.astype(np.float32))

    def draw(self, rng) -> Pair:
        """A face in training, more often than not softer than it was redrawn: portraits of a
        trained subject are."""
        pair = self.pair(int(rng.choice(self.train)), rng)
        given = pair.given
        if rng.random() < 0.6:
            given = cv2.GaussianBlur(given, (0, 0), rng.uniform(1.0, 4.0))
        elif rng.random() < 0.2:
            given = blur(given, rng, 2.5)
        if rng.random() < 0.3:  # as programs sharpen
            soft = cv2.GaussianBlur(given, (0, 0), rng.uniform(1.5, 3))
            given = given + np.float32(rng.uniform(0.2, 1.0)) * (given - soft)
        if rng.random() < 0.15:
            given = noise(given, rng, 10)
        if rng.random() < 0.15:
            given = compress(given, rng.integers(50, 96))
        change = tone(rng)
        return Pair(change(np.clip(given, 0, 1)), change(pair.wanted), pair.points)
