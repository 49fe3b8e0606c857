"""Pairs of aligned faces: as the demo backbone leaves them, and as they should be.

From the arrays of tools/demo_sr/prepare_pairs.py. A face is brought into FFHQ's frame as
`mcap.enhancement.face_restoration` does it, by landmarks that are a little off, as a detector's
are; what is given and what is wanted by the same transform.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import sr_tools  # noqa: F401
from degrade import blur, compress, noise
from face_restorer import SIDE, WINDOW
from pairs import REBUILT, RIGHT_LEFT, Pictures, tone

from mcap.enhancement.face_restoration import FFHQ_512, warp
from mcap.geometry.similarity_transform import Similarity

SLACK = 2.5  # pixels of the frame: standard deviation of a landmark's error
X0, Y0, X1, Y1 = WINDOW


@dataclass(frozen=True)
class Pair:
    """The window of the frame, given and wanted float32[H, W, 3], and landmarks in its pixels."""

    given: np.ndarray
    wanted: np.ndarray
    points: np.ndarray


class AlignedFaces:
    """Faces of both sizes; `enlarged` holds what demo-sr makes of those seen by the backbone."""

    def __init__(self, folder: Path):
        self.pictures = Pictures(folder)
        self.enlarged: dict[str, np.ndarray] = {}
        for name in self.pictures.arrays:
            path = folder / f"enlarged_{name}.npy"
            if path.exists():
                self.enlarged[name] = np.load(path, mmap_mode="r")
        self.enlarged_rows = {
            name: set(np.flatnonzero(array[:, ::64, ::64].any((1, 2, 3))))
            for name, array in self.enlarged.items()
        }

    def pair(self, name: str, row: int, seen: np.ndarray, rng=None) -> Pair:
        """A face of the array ``name``, and what it was ``seen`` as: uint8[S, S, 3] of any side.

        ``rng`` moves the landmarks and mirrors the face now and then; None: as it is.
        """
        wanted = np.asarray(self.pictures.arrays[name][row])
        points = self.pictures.points[name][row] + 0.5
        moved, mirrored = FFHQ_512.template, False
        if rng is not None:
            moved = FFHQ_512.template + rng.normal(0, SLACK, (5, 2))
            mirrored = rng.random() < 0.5
        to_frame = Similarity.estimate(points, moved)
        from_seen = to_frame @ Similarity.scaling(wanted.shape[0] / seen.shape[0])
        pictures = [
            warp(image, way, SIDE, cv2.BORDER_REFLECT_101).clip(0, 1)
            for image, way in ((seen, from_seen), (wanted, to_frame))
        ]
        placed = to_frame.apply(points) - 0.5
        if mirrored:
            pictures = [image[:, ::-1] for image in pictures]
            placed = placed[RIGHT_LEFT] * [-1, 1] + [SIDE - 1, 0]
        given, wanted = (np.ascontiguousarray(i[Y0:Y1, X0:X1]) for i in pictures)
        return Pair(given, wanted, (placed - [X0, Y0]).astype(np.float32))

    def draw(self, rng) -> Pair:
        """A face in training, as the backbone drew it, enlarged or not, now and then worse."""
        name = "full" if rng.random() < 0.4 else "half"
        row = int(rng.choice(self.pictures.train[name]))
        if row in self.enlarged_rows.get(name, ()) and rng.random() < 0.7:
            pair = self.pair(name, row, np.asarray(self.enlarged[name][row]), rng)
        else:
            kind = int(rng.integers(len(self.pictures.seen[name])))
            pair = self.pair(name, row, np.asarray(self.pictures.seen[name][kind, row]), rng)
            given = pair.given
            if kind == REBUILT and rng.random() < 0.3:  # as a better autoencoder would leave it
                given = given + np.float32(rng.uniform(0, 0.8)) * (pair.wanted - given)
            if rng.random() < 0.4:  # as programs sharpen
                soft = cv2.GaussianBlur(given, (0, 0), rng.uniform(1.5, 3))
                given = given + np.float32(rng.uniform(0.2, 1.5)) * (given - soft)
            pair = Pair(given, pair.wanted, pair.points)
        given = pair.given
        if rng.random() < 0.15:
            given = blur(given, rng, 2.5)
        if rng.random() < 0.15:
            given = noise(given, rng, 10)
        if rng.random() < 0.15:
            given = compress(given, rng.integers(50, 96))
        change = tone(rng)
        return Pair(change(np.clip(given, 0, 1)), change(pair.wanted), pair.points)
