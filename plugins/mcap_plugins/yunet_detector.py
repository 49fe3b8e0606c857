"""YuNet (Wu, Peng, Yu: YuNet, Machine Intelligence Research 2023) over several scales.

YuNet finds faces of about 10 to 300 pixels. A face that fills a telephone's picture is ten times
that, so the picture is searched at several sizes and the findings are merged.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from mcap.contracts import Face

if TYPE_CHECKING:
    from mcap.contracts import UInt8Image

LONG_SIDES = (320, 640, 1280)
"""The sizes that a picture is searched at. 320 finds faces as large as the picture, 1280 those of
1/80 of its side; smaller ones are nobody's portrait."""

SMALLEST_SIDE = 16  # pixels; less than this holds no face at any magnification
COMFORTABLE = (40.0, 280.0)  # heights in searched pixels at which the landmarks are the most exact


class YuNetDetector:
    """``detect(uint8[H, W, 3] RGB)`` -> faces in pixels of that picture, largest first."""

    def __init__(self, weights: Path, score: float = 0.6, overlap: float = 0.3) -> None:
        self.overlap = overlap
        # OpenCV 5 warns on stderr that its new engine takes no target, which nobody has asked for.
        level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
        try:
            self._network = cv2.FaceDetectorYN.create(str(weights), "", (320, 320), score, 0.3, 500)
        finally:
            cv2.utils.logging.setLogLevel(level)

    def detect(self, image: UInt8Image) -> list[Face]:
        height, width = image.shape[:2]
        if min(height, width) < SMALLEST_SIDE:
            return []
        found: list[tuple[float, Face]] = []
        for side in _sizes(max(height, width)):
            found += self._search(image, side)
        faces = _suppress(found, self.overlap)
        return sorted(faces, key=lambda face: face.area, reverse=True)

    def _search(self, image: UInt8Image, long_side: int) -> list[tuple[float, Face]]:
        height, width = image.shape[:2]
        scale = long_side / max(height, width)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        resized = cv2.resize(
            image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        )
        self._network.setInputSize(size)
        _, rows = self._network.detect(cv2.cvtColor(resized, cv2.COLOR_RGB2BGR))
        if rows is None:
            return []
        # The two axes are rounded apart, which matters in long thin pictures.
        factor = np.array([width / size[0], height / size[1]], dtype=np.float32)
        found = []
        for row in rows:
            corner, extent = row[:2] * factor, row[2:4] * factor
            # OpenCV counts from the centre of the first pixel and mcap from its corner.
            landmarks = (row[4:14].reshape(5, 2) + 0.5) * factor
            face = Face(
                box=tuple(float(value) for value in (*corner, *(corner + extent))),
                score=float(min(row[14], 1.0)),
                landmarks=landmarks.astype(np.float32),
            )
            low, high = COMFORTABLE
            strain = max(low / max(row[3], 1.0), row[3] / high, 1.0)
            found.append((face.score / strain**0.25, face))
        return found


def _sizes(longest: int) -> list[int]:
    """The long sides to search at: never more than twice the picture, once for each distinct."""
    limit = max(LONG_SIDES[0], 2 * longest if longest <= LONG_SIDES[0] else longest)
    return sorted({min(side, limit) for side in LONG_SIDES})


def _suppress(found: list[tuple[float, Face]], overlap: float) -> list[Face]:
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
