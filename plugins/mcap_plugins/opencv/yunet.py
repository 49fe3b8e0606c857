"""YuNet (Wu, Peng, Yu: YuNet, Machine Intelligence Research 2023) over several scales.

YuNet finds faces of about 10 to 300 pixels. A face that fills a telephone's picture is ten times
that, so the picture is searched at several sizes and the findings are merged.

It hardly knows faces that lie on their side: where it finds none, the picture is searched again
turned to either side.

It also draws the landmarks of a tilted face towards the upright: of a head tilted by 30 degrees it
reports 0 to 20. So each face is looked at again in a patch of its own, which is turned until the
face in it stands upright.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from mcap.contracts import Face
from mcap.geometry.similarity_transform import Similarity
from mcap_plugins.opencv import YUNET

if TYPE_CHECKING:
    from mcap.contracts import UInt8Image

LONG_SIDES = (320, 640, 1280)
"""The sizes that a picture is searched at. 320 finds faces as large as the picture, 1280 those of
1/80 of its side; smaller ones are nobody's portrait."""

SMALLEST_SIDE = 16  # pixels; less than this holds no face at any magnification
RECOMMENDED = (40.0, 280.0)  # heights in searched pixels at which the landmarks are the most exact

REFINED = 12  # so many of the largest faces get the second look
PATCH = 416  # side in pixels of the turned patch; the face fills half of it
UPRIGHT = 3.0  # degrees of tilt in the patch at which turning ends
SURE = 0.92
"""Score in the patch below which sideways and overhead are tried as well. Of 24 faces upright ones
had 0.94 to 0.96, the same upside down 0.74 to 0.905, with the landmarks of an upright face."""

LOG_LEVEL = threading.Lock()
"""Held by the thread that has OpenCV's log level lowered."""


class YuNetDetector:
    """``detect(uint8[H, W, 3] RGB)`` -> faces in pixels of that picture, largest first."""

    info = YUNET

    def __init__(self, weights: Path, score: float = 0.6, overlap: float = 0.3) -> None:
        self.overlap = overlap
        self._weights, self._score = weights, score
        self._networks = threading.local()  # a network keeps its input size between two calls
        self._network()  # a damaged file shows at once

    def detect(self, image: UInt8Image) -> list[Face]:
        height, width = image.shape[:2]
        if min(height, width) < SMALLEST_SIDE:
            return []
        found: list[tuple[float, Face]] = []
        sides = search_sizes(max(height, width))
        for side in sides:
            found += self.search(image, side)
        if not found:
            for quarter in (1, 3):
                turned = np.ascontiguousarray(np.rot90(image, quarter))
                for side in sides[:2]:
                    found += [
                        (rank, turned_back(face, quarter, width, height))
                        for rank, face in self.search(turned, side)
                    ]
        faces = suppress(found, self.overlap)
        faces.sort(key=lambda face: face.area, reverse=True)
        faces[:REFINED] = [self.refined(image, face) for face in faces[:REFINED]]
        # Two findings of one tilted face may only now lie on each other.
        faces = suppress([(face.score, face) for face in faces], self.overlap)
        return sorted(faces, key=lambda face: face.area, reverse=True)

    def search(self, image: UInt8Image, long_side: int) -> list[tuple[float, Face]]:
        height, width = image.shape[:2]
        scale = long_side / max(height, width)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        resized = cv2.resize(
            image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        )
        rows = self._run(resized)
        # The two axes are rounded apart, which matters in long thin pictures.
        factor = np.array([width / size[0], height / size[1]], dtype=np.float32)
        found = []
        for row in rows:
            corner, extent = row[:2] * factor, row[2:4] * factor
            # OpenCV counts from the centre of the first pixel and mcap from its corner.
            landmarks = (row[4:14].reshape(5, 2) + 0.5) * factor
            (x0, y0), (x1, y1) = corner.tolist(), (corner + extent).tolist()
            face = Face(
                box=(x0, y0, x1, y1),
                score=float(min(row[14], 1.0)),
                landmarks=landmarks.astype(np.float32),
            )
            low, high = RECOMMENDED
            strain = max(low / max(row[3], 1.0), row[3] / high, 1.0)
            found.append((face.score / strain**0.25, face))
        return found

    def _run(self, image: np.ndarray) -> np.ndarray:
        """Rows of x, y, width, height, five landmarks x y, score: float32[N, 15]."""
        network = self._network()
        network.setInputSize((image.shape[1], image.shape[0]))
        _, rows = network.detect(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        return np.empty((0, 15), dtype=np.float32) if rows is None else rows

    def _network(self) -> cv2.FaceDetectorYN:
        """This thread's own."""
        if not hasattr(self._networks, "network"):
            # OpenCV 5 warns on stderr that its new engine takes no target, which nobody asked for.
            # Its level is the whole process's: one thread alone sets it and puts it back.
            with LOG_LEVEL:
                level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
                try:
                    self._networks.network = cv2.FaceDetectorYN.create(
                        str(self._weights), "", (320, 320), self._score, 0.3, 500
                    )
                finally:
                    cv2.utils.logging.setLogLevel(level)
        return self._networks.network

    def refined(self, image: UInt8Image, face: Face) -> Face:
        """The face with landmarks read off a patch in which it stands upright."""
        best = self.turn_upright(image, face, 0.0)
        if best is None or abs(best.angle) > 8 or best.score < SURE:
            tries = [best, *(self.turn_upright(image, face, angle) for angle in (-40.0, 40.0))]
            best = max((look for look in tries if look), key=lambda look: look.rank, default=None)
        if best is None or best.score < SURE:
            tries = [
                best,
                *(self.turn_upright(image, face, angle) for angle in (-90.0, 90.0, 180.0)),
            ]
            best = max((look for look in tries if look), key=lambda look: look.rank, default=None)
        if best is None or best.score < face.score - 0.15:
            return face
        # The mean over the patch and its mirror image: what one of them shifts, the other shifts
        # back.
        centre, size = best.landmarks.mean(axis=0), max(face.width, face.height)
        looks = [
            self._look(image, centre, size, best.angle, mirrored) for mirrored in (False, True)
        ]
        landmarks = [look.landmarks for look in looks if look] or [best.landmarks]
        return Face(
            # The box of a tilted face is drawn around its upright one, as detectors do.
            box=best.box,
            score=max(face.score, min(best.score, 1.0)),
            landmarks=np.mean(landmarks, axis=0).astype(np.float32),
        )

    def turn_upright(self, image: UInt8Image, face: Face, angle: float) -> PatchLook | None:
        """Turn the patch by what the face in it is tilted, until little is left; from ``angle``."""
        centre = np.array([face.box[0] + face.box[2], face.box[1] + face.box[3]]) / 2
        best = None
        for _ in range(4):
            look = self._look(image, centre, max(face.width, face.height), angle)
            if look is None:
                break
            if best is None or look.rank > best.rank:
                best = look
            if abs(look.tilt) < UPRIGHT:
                break
            # The reported tilt falls short of the true one: go further than it says.
            angle += 1.4 * look.tilt
            centre = look.landmarks.mean(axis=0)
        return best

    def _look(
        self,
        image: UInt8Image,
        centre: np.ndarray,
        size: float,
        angle: float,
        mirrored: bool = False,
    ) -> PatchLook | None:
        scale = PATCH / (2.0 * size)
        cosine, sine = np.cos(np.radians(angle)) * scale, np.sin(np.radians(angle)) * scale
        linear = np.array([[cosine, sine], [-sine, cosine]])
        if mirrored:
            linear[0] *= -1
        to_patch = Similarity.of(linear, PATCH / 2 - linear @ centre)
        # Reduced by area averaging first: a bilinear look at every third pixel is noise.
        small, from_small = to_patch.reduced(image, below=0.5)
        patch = from_small.warp(small, (PATCH, PATCH), border=cv2.BORDER_REPLICATE)
        best, nearest = None, 0.2 * PATCH
        for row in self._run(patch):
            points = row[4:14].reshape(5, 2).astype(np.float64) + 0.5
            if mirrored:
                points = points[[1, 0, 2, 4, 3]]
            if np.hypot(*(points.mean(axis=0) - PATCH / 2)) < nearest and (
                best is None or row[14] > best[0][14]
            ):
                best = row, points
        if best is None:
            return None
        row, points = best
        across = points[1] - points[0] + points[4] - points[3]
        tilt = float(np.degrees(np.arctan2(across[1], across[0])))
        (middle,) = to_patch.apply_inverse(row[None, :2] + row[None, 2:4] / 2 + 0.5)
        # The upright box in the patch, turned into the picture, and the upright box around that.
        turn = np.radians(angle)
        width, height = row[2:4] / scale
        across_x = abs(width * np.cos(turn)) + abs(height * np.sin(turn))
        across_y = abs(width * np.sin(turn)) + abs(height * np.cos(turn))
        half = np.array([across_x, across_y]) / 2
        (x0, y0), (x1, y1) = (middle - half).tolist(), (middle + half).tolist()
        return PatchLook(
            landmarks=to_patch.apply_inverse(points),
            box=(x0, y0, x1, y1),
            score=float(row[14]),
            tilt=tilt,
            angle=angle + tilt,
        )


@dataclass(frozen=True)
class PatchLook:
    """The face in a turned patch; points in pixels of the picture."""

    landmarks: np.ndarray
    box: tuple[float, float, float, float]
    score: float
    tilt: float  # degrees left in the patch
    angle: float  # degrees in the picture

    @property
    def rank(self) -> float:
        return self.score - abs(self.tilt) / 100.0


def turned_back(face: Face, quarter: int, width: int, height: int) -> Face:
    """A face of ``np.rot90(image, quarter)``, quarter 1 or 3, in the image, width x height."""

    def back(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return (width - y, x) if quarter == 1 else (y, height - x)

    x, y = back(*np.array(face.box, dtype=np.float64).reshape(2, 2).T)
    points = np.stack(back(*face.landmarks.T), axis=1)
    box = (float(x.min()), float(y.min()), float(x.max()), float(y.max()))
    return Face(box, face.score, points.astype(np.float32))


def search_sizes(longest: int) -> list[int]:
    """The long sides to search at: never more than twice the picture, once for each distinct."""
    limit = max(LONG_SIDES[0], 2 * longest if longest <= LONG_SIDES[0] else longest)
    return sorted({min(side, limit) for side in LONG_SIDES})


def suppress(found: list[tuple[float, Face]], overlap: float) -> list[Face]:
    """Of findings that overlap, the one of the best rank; also where one lies inside the other."""
    kept: list[Face] = []
    for _, face in sorted(found, key=lambda item: item[0], reverse=True):
        if all(_shared(face, other) < overlap for other in kept):
            kept.append(face)
    return kept


def _shared(a: Face, b: Face) -> float:
    width = min(a.box[2], b.box[2]) - max(a.box[0], b.box[0])
    height = min(a.box[3], b.box[3]) - max(a.box[1], b.box[1])
    if width <= 0 or height <= 0:
        return 0.0
    inner = width * height
    union = inner / (a.area + b.area - inner)
    # A face within a face is one face seen twice; a child before an adult covers far less.
    return max(union, 0.5 * inner / min(a.area, b.area))
