"""One similarity transform in numpy and OpenCV: what `mcap.geometry.align` does, for measuring.

Measuring needs no gradient; and without torch and its converter ``mcap mask`` starts within half a
second of work instead of four.

Shapes: H, W are pixels of the picture that a transform starts from; the *frame* is the picture that
it leads to. Points are (x, y) pixels that count from the corner of the first pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in whole pixels
    FrameSize = int | tuple[int, int]  # the side of a square, or (width, height)


@dataclass(frozen=True, eq=False)
class Similarity:
    """A rotation (perhaps with a mirroring), uniform scale and shift, from a picture to a frame.

    After `reduced` the two axes' scales may differ by what whole pixels ask for, less than one
    pixel over the picture.
    """

    matrix: NDArray[np.float64]
    """[2, 3]: ``matrix @ (x, y, 1)`` is where a point of the picture lies in the frame."""

    @classmethod
    def estimate(cls, points: ArrayLike, template: ArrayLike) -> Similarity:
        """Return the similarity that takes ``points`` [N, 2] closest to ``template`` [N, 2].

        The closed form of `mcap.geometry.align.similarity` (Umeyama, IEEE PAMI 13(4), 1991), never
        a mirroring. Points that all coincide have none: ValueError.
        """
        points = np.asarray(points, dtype=np.float64)
        template = np.asarray(template, dtype=np.float64)
        centre, target = points.mean(axis=0), template.mean(axis=0)
        a, b = points - centre, template - target
        spread = float((a * a).sum())
        if not spread > 0:
            raise ValueError("landmarks that all lie in one point cannot be aligned")
        real = float((a * b).sum()) / spread
        imaginary = float((a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum()) / spread
        rotation = np.array([[real, -imaginary], [imaginary, real]])
        return cls.of(rotation, target - rotation @ centre)

    @classmethod
    def of(cls, linear: NDArray[Any], shift: NDArray[Any]) -> Similarity:
        """Return ``linear @ (x, y) + shift``, from float64[2, 2] and float64[2]."""
        return cls(np.concatenate([linear, shift[:, None]], axis=1))

    @classmethod
    def scaling(cls, zoom: float, x: float = 0.0, y: float = 0.0) -> Similarity:
        """Return the enlargement by ``zoom`` about the origin and then the shift by (x, y)."""
        return cls(np.array([[zoom, 0.0, x], [0.0, zoom, y]], dtype=np.float64))

    @property
    def linear(self) -> NDArray[np.float64]:
        """[2, 2]: rotation and scale."""
        return self.matrix[:, :2]

    @property
    def shift(self) -> NDArray[np.float64]:
        """[2]: where the picture's corner lies in the frame."""
        return self.matrix[:, 2]

    @property
    def scale(self) -> float:
        """Frame pixels per picture pixel."""
        return float(np.hypot(self.matrix[0, 0], self.matrix[1, 0]))

    def apply(self, points: NDArray[Any]) -> NDArray[np.float64]:
        """Return where points [N, 2] of the picture lie in the frame."""
        return points @ self.linear.T + self.shift

    def apply_inverse(self, points: NDArray[Any]) -> NDArray[np.float64]:
        """Return where points [N, 2] of the frame lie in the picture."""
        return (points - self.shift) @ np.linalg.inv(self.linear).T

    def inverse(self) -> Similarity:
        """Return the way back, from the frame to the picture."""
        linear = np.linalg.inv(self.linear)
        return Similarity.of(linear, -(linear @ self.shift))

    def __matmul__(self, first: Similarity) -> Similarity:
        """Return ``first`` and then this one, as with matrices."""
        return Similarity.of(self.linear @ first.linear, self.linear @ first.shift + self.shift)

    def shifted(self, origin: Sequence[float]) -> Similarity:
        """Return the same transform for a part of the picture whose corner is ``origin`` (x, y)."""
        corner = np.asarray(origin, dtype=np.float64)
        return Similarity.of(self.linear, self.linear @ corner + self.shift)

    def between_centres(self) -> NDArray[np.float64]:
        """Return the matrix for OpenCV, which counts from the centre of the first pixel: [2, 3]."""
        shift = self.linear @ np.array([0.5, 0.5]) + self.shift - 0.5
        return np.concatenate([self.linear, shift[:, None]], axis=1)

    def corners(self, size: FrameSize) -> NDArray[np.float64]:
        """Return where the corners of a frame lie in the picture: [4, 2], row by row."""
        width, height = (size, size) if isinstance(size, int) else size
        frame = np.array([[0, 0], [width, 0], [0, height], [width, height]], dtype=np.float64)
        return self.apply_inverse(frame)

    def footprint(self, size: FrameSize, margin: int = 0) -> Box:
        """Return the box of whole picture pixels that a frame shows, and ``margin`` more.

        It may reach outside the picture: see `clip`.
        """
        places = self.corners(size)
        (x0, y0), (x1, y1) = np.floor(places.min(axis=0)), np.ceil(places.max(axis=0))
        return int(x0) - margin, int(y0) - margin, int(x1) + margin, int(y1) + margin

    def reduced(self, image: NDArray[Any], below: float = 1.0) -> tuple[NDArray[Any], Similarity]:
        """Return the picture [H, W(, C)] averaged by area to the size that the frame shows, and the
        transform from there.

        Unchanged where `scale` is ``below`` or more: a warp looks at few pixels for each of the
        frame's and would skip the others.
        """
        scale = self.scale
        if scale >= below:
            return image, self
        height, width = image.shape[:2]
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        factors = np.array([width / size[0], height / size[1]])
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        return image, Similarity.of(self.linear * factors, self.shift)

    def warp(
        self,
        image: NDArray[Any],
        size: tuple[int, int],
        *,
        interpolation: int = cv2.INTER_LINEAR,
        border: int = cv2.BORDER_CONSTANT,
    ) -> NDArray[Any]:
        """Resample the picture [H, W(, C)] into a frame of ``size`` (width, height), of its type.

        ``interpolation`` and ``border`` (what lies outside the picture) are OpenCV's constants.
        """
        return cv2.warpAffine(
            image, self.between_centres(), size, flags=interpolation, borderMode=border
        )


def clip(box: Box, size: tuple[int, int], least: int = 0) -> Box:
    """Return the part of a box inside a picture of ``size`` (width, height).

    It is at least ``least`` pixels wide and high, at the picture's edge where the box lies outside;
    with 0 it may be empty, which x1 <= x0 or y1 <= y0 says.
    """
    x0, y0 = (min(max(edge, 0), side - least) for edge, side in zip(box[:2], size, strict=True))
    low = (x0, y0)
    x1, y1 = (
        min(max(edge, start + least), side)
        for edge, start, side in zip(box[2:], low, size, strict=True)
    )
    return x0, y0, x1, y1


def cut_upright(
    image: NDArray[Any],
    landmarks: ArrayLike,
    template: ArrayLike,
    size: int,
    border: int = cv2.BORDER_CONSTANT,
) -> NDArray[np.float32]:
    """Return a face in an upright frame: uint8[H, W(, 3)], float[5, 2] -> float32[size, size(, 3)].

    As `mcap.geometry.align.align_faces`: where the face is more than twice as large as in the
    template the picture is halved by area averaging as often as needed, then sampled bilinearly.
    ``border`` is OpenCV's name for what lies outside the picture.
    """
    to_frame = Similarity.estimate(landmarks, template)
    factor = 1
    while to_frame.scale * factor <= 0.5 and min(image.shape[:2]) >= 2 * factor:
        factor *= 2
    box = to_frame.footprint(size, margin=2 * factor)
    x0, y0, x1, y1 = clip(box, image.shape[1::-1], least=factor)
    part = image[y0:y1, x0:x1].astype(np.float32)
    if factor > 1:  # whole squares of pixels: an odd last row is dropped, the origin stays
        width, height = part.shape[1] // factor, part.shape[0] // factor
        whole = part[: height * factor, : width * factor]
        part = np.asarray(cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA))
    local = to_frame.shifted((x0, y0))
    halved = Similarity.of(local.linear * factor, local.shift)
    return halved.warp(part, (size, size), border=border)
