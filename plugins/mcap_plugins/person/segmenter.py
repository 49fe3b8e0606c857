"""Person segmentation with MediaPipe's selfie_segmentation.tflite, run by OpenCV.

The file's own operator (Convolution2DTransposeBias) is known to OpenCV's reader; its numbers agree
with the same network written out in PyTorch to 2e-5.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import cv2
import numpy as np

from mcap.contracts import MaskerInfo
from mcap.errors import MissingResourceError
from mcap.faces.masks import LandmarkMasker
from mcap.faces.pose import pose

if TYPE_CHECKING:
    from mcap.contracts import Face, Float32Array, UInt8Image

SIDE = 256  # pixels; the network's input and output, whatever the picture's aspect

NEAR = (2.5, 2.0, 2.5, 3.0)
"""Face sizes left of, above, right of and below an upright face's middle that the network is shown
first: head and shoulders. The sides that the person reaches are moved out until they are not."""

GROW, FAR = 1.7, 10.0
"""By how much such a side is moved, and how many face sizes away it ends."""

WORKING = 1024
"""The longer side in pixels at which the edge is refined; finer than hair is in most photos."""


@dataclass(frozen=True)
class WindowLook:
    window: tuple[int, int, int, int]  # x0, y0, x1, y1 in the photo
    seen: UInt8Image  # [h, w, 3], the window at the working size
    answer: Float32Array  # [h, w] in [0, 1], this person's
    open_sides: np.ndarray  # bool[4], left, top, right, bottom: the person goes on beyond it


class PersonMasker:
    """1 on the person whose face is given, hair and clothes included, 0 on everything else.

    Made for what stands behind a person, not for training a face. People who touch the person in
    the picture are not told apart from them. Where the network sees nobody at the face, the
    landmarks' oval stands in.
    """

    info = MaskerInfo()

    def __init__(self, weights: Path) -> None:
        """``weights`` is selfie_segmentation.tflite.

        Raises `MissingResourceError` where OpenCV cannot read it.
        """
        try:
            self._network = cv2.dnn.readNetFromTFLite(str(weights))
        except cv2.error as error:
            raise MissingResourceError(
                f"OpenCV {cv2.__version__} cannot read the person segmenter {weights} "
                f"({error.err}). Install opencv-python 4.10 or newer, or fetch the file again with "
                "'mcap models pull selfie-segmentation'."
            ) from error
        self._plain = LandmarkMasker()

    def mask(self, image: UInt8Image, face: Face) -> Float32Array:
        """float32[H, W] in [0, 1] for a picture uint8[H, W, 3] and one face in it."""
        # Heads are up in what the network has learned from: lying people are stood up for it.
        turns = round(pose(face.landmarks).roll / 90.0) % 4
        reach = np.roll(NEAR, turns)
        best = None
        while (look := self._look(image, face, reach, turns)) is not None:
            best = look
            further = np.where(look.open_sides, np.minimum(reach * GROW, FAR), reach)
            if (further == reach).all():
                break
            reach = further
        if best is None:
            return self._plain.mask(image, face)
        mask = np.zeros(image.shape[:2], dtype=np.float32)
        x0, y0, x1, y1 = best.window
        whole = (x1 - x0, y1 - y0)
        mask[y0:y1, x0:x1] = cv2.resize(refined_matte(best), whole, interpolation=cv2.INTER_LINEAR)
        return np.clip(mask, 0.0, 1.0, out=mask)

    def _look(
        self, image: UInt8Image, face: Face, reach: np.ndarray, turns: int
    ) -> WindowLook | None:
        """Return the network's answer for one window; None where it sees nobody at the face."""
        x0, y0, x1, y1 = window = window_around(image, face, reach)
        seen, size = reduced(image[y0:y1, x0:x1])
        answer = self.segment(seen, turns)
        own = own_piece(answer, (face.landmarks - (x0, y0)) * size / (x1 - x0, y1 - y0))
        if own is None:
            return None
        return WindowLook(
            window, seen, answer * own, sides_reached(own) & sides_within(window, image)
        )

    def segment(self, picture: UInt8Image, turns: int) -> Float32Array:
        """uint8[h, w, 3] -> float32[h, w] in [0, 1], the network's own answer.

        It is asked about the picture turned by so many quarters anticlockwise.
        """
        small = cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        self._network.setInput(cv2.dnn.blobFromImage(np.rot90(small, turns).copy(), 1 / 255.0))
        answer = np.rot90(np.clip(self._network.forward()[0, 0], 0.0, 1.0), -turns).copy()
        return cv2.resize(answer, picture.shape[1::-1], interpolation=cv2.INTER_LINEAR)


def refined_matte(look: WindowLook) -> Float32Array:
    """float32[h, w]: the network's answer with its edge where the picture's is."""
    guide = cv2.cvtColor(look.seen, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255.0
    radius = max(1, round(max(guide.shape) * 4 / SIDE))  # what the network's own pixels blur
    matte = guided_filter(guide, look.answer, radius, 1e-3)
    return np.clip((matte - 0.15) / 0.7, 0.0, 1.0) * faded(guide.shape, look.open_sides)


def guided_filter(guide: Float32Array, mask: Float32Array, radius: int, eps: float) -> Float32Array:
    """``mask`` with its edges where the picture's are (He, Sun and Tang, ECCV 2010, eq. 5, 6, 8).

    ``guide`` and ``mask`` are float32[H, W] in [0, 1], ``radius`` is in pixels, ``eps`` in squared
    units of the guide -> float32[H, W], a little outside [0, 1] at strong edges.
    """
    side = (2 * radius + 1, 2 * radius + 1)

    def mean(values: Float32Array) -> Float32Array:
        return cast("Float32Array", cv2.blur(values, side, borderType=cv2.BORDER_REFLECT))

    mean_guide, mean_mask = mean(guide), mean(mask)
    variance = np.maximum(mean(guide * guide) - mean_guide * mean_guide, 0.0)
    covariance = mean(guide * mask) - mean_guide * mean_mask
    slope = cast("Float32Array", covariance / (variance + eps))
    return mean(slope) * guide + mean(mean_mask - slope * mean_guide)


def window_around(image: UInt8Image, face: Face, reach: np.ndarray) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 of the part of the picture within ``reach`` of the face's middle.

    ``reach`` is in face sizes: float[4], left, top, right, bottom.
    """
    height, width = image.shape[:2]
    room = reach * max(face.width, face.height, 1.0)
    x, y = (face.box[0] + face.box[2]) / 2, (face.box[1] + face.box[3]) / 2
    # A face that lies wholly outside the picture still has a window of one pixel.
    x0, y0 = int(np.clip(x - room[0], 0, width - 1)), int(np.clip(y - room[1], 0, height - 1))
    x1, y1 = int(np.clip(x + room[2], x0 + 1, width)), int(np.clip(y + room[3], y0 + 1, height))
    return x0, y0, x1, y1


def reduced(part: UInt8Image) -> tuple[UInt8Image, np.ndarray]:
    """A window's pixels, reduced to WORKING where they are more, and their (width, height)."""
    scale = min(1.0, WORKING / max(part.shape[:2]))
    size = np.maximum(np.round(np.multiply(part.shape[1::-1], scale)), 1).astype(int)
    made = cv2.resize(part, (int(size[0]), int(size[1])), interpolation=cv2.INTER_AREA)
    return cast("UInt8Image", made), size


def own_piece(answer: Float32Array, landmarks: np.ndarray) -> Float32Array | None:
    """float32[h, w], 1 on the piece that the face hangs on to and its soft edge; None: no piece."""
    height, width = answer.shape
    _, pieces = cv2.connectedComponents((answer > 0.5).astype(np.uint8))
    columns = np.clip(landmarks[:, 0].astype(int), 0, width - 1)
    rows = np.clip(landmarks[:, 1].astype(int), 0, height - 1)
    here = pieces[rows, columns]
    here = here[here > 0]
    if len(here) < 3:  # of five landmarks
        return None
    own = (pieces == np.bincount(here).argmax()).astype(np.float32)
    margin = max(1, round(0.015 * max(height, width)))
    square = np.ones((2 * margin + 1, 2 * margin + 1), np.uint8)
    return cast("Float32Array", cv2.dilate(own, square))


def sides_reached(own: Float32Array) -> np.ndarray:
    """bool[4], left, top, right, bottom: is a twentieth of this side of the window the person?"""
    sides = (own[:, 0], own[0], own[:, -1], own[-1])
    return np.array([float(side.mean()) > 0.05 for side in sides])


def sides_within(window: tuple[int, int, int, int], image: UInt8Image) -> np.ndarray:
    """bool[4], left, top, right, bottom: is there more of the picture beyond the window?"""
    height, width = image.shape[:2]
    x0, y0, x1, y1 = window
    return np.array([x0 > 0, y0 > 0, x1 < width, y1 < height])


def faded(shape: tuple[int, int], sides: np.ndarray) -> Float32Array:
    """float32[h, w]: 1, falling to 0 over a tenth at the given sides (left, top, right, bottom)."""
    columns, rows = (
        np.minimum(1.0, (np.arange(length, dtype=np.float32) + 0.5) / max(0.1 * length, 1.0))
        for length in (shape[1], shape[0])
    )
    left, top, right, bottom = sides
    across = np.where(left, columns, 1.0) * np.where(right, columns[::-1], 1.0)
    down = np.where(top, rows, 1.0) * np.where(bottom, rows[::-1], 1.0)
    return (down[:, None] * across[None, :]).astype(np.float32)
