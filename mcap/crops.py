"""Masked photo -> the square crop that training uses, framed as FFHQ frames its portraits.

The framing is that of Karras, Laine and Aila (arXiv 1812.04948, appendix A, and their published
alignment): eyes levelled, the square's side and centre from the eyes and the mouth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from mcap.contracts import Float32Array, UInt8Image
    from mcap.masking import MaskedPhoto

FFHQ_FACE_HEIGHT = 0.742
"""YuNet's box of an upright face, as a fraction of the side of FFHQ's square: the median over
10,477 pictures framed so (5 to 95 %: 0.68 to 0.79)."""


@dataclass(frozen=True)
class TrainingCrop:
    """What training sees of a photo. S is the side in pixels."""

    name: str
    image: UInt8Image  # uint8[S, S, 3] RGB
    mask: Float32Array  # float32[S, S], 1 on the face, 0 elsewhere and outside the photo
    landmarks: Float32Array  # float32[5, 2], pixels of the crop
    embedding: Float32Array  # float32[D], unit length, measured on the photo
    sha256: str  # of the photo's file


def portrait_crop(masked: MaskedPhoto, size: int, face_height: float) -> TrainingCrop:
    """The upright square of ``size`` pixels around the subject's face.

    An upright face's box is ``face_height`` of the side high (on average over people: the scale
    comes from eyes and mouth, which a tilted head does not change, and not from the box, which it
    does). ``face_height = 0.742`` is FFHQ's own framing; smaller values show more of the body, the
    face's centre staying at the same place of the frame. Outside the photo the picture is
    mirrored and, further out, blurred and faded, as in FFHQ, and the mask 0.
    """
    image = masked.photo.image
    matrix = framing(masked.face.landmarks, size, face_height)
    crop = resample(image, matrix, size, cv2.BORDER_REFLECT_101)
    crop = _fade_outside(crop, matrix, image.shape[:2])
    mask = resample(masked.cutout, _shifted(matrix, masked.mask_origin), size)
    landmarks = masked.face.landmarks @ matrix[:, :2].T + matrix[:, 2]
    return TrainingCrop(
        name=masked.photo.name,
        image=crop,
        mask=mask.astype(np.float32) / np.float32(255.0),
        landmarks=landmarks.astype(np.float32),
        embedding=masked.embedding,
        sha256=masked.photo.sha256,
    )


def framing(landmarks: Float32Array, size: int, face_height: float) -> np.ndarray:
    """The similarity float64[2, 3] from a photo's pixels to those of its portrait crop."""
    points = np.asarray(landmarks, dtype=np.float64)
    eyes = (points[0] + points[1]) / 2
    mouth = (points[3] + points[4]) / 2
    between_eyes = points[1] - points[0]
    down = mouth - eyes
    # FFHQ: the mean of the eye line and of the upright's perpendicular, so that neither a turned
    # head (narrow eyes) nor an open mouth (long face) alone decides.
    across = between_eyes + np.array([down[1], -down[0]])
    length = float(np.hypot(*across))
    if length == 0:
        raise ValueError("landmarks that all lie in one point cannot be framed")
    across = across / length
    half = max(float(np.hypot(*between_eyes)) * 2.0, float(np.hypot(*down)) * 1.8)
    side = 2.0 * half * FFHQ_FACE_HEIGHT / face_height
    centre = eyes + 0.1 * down
    rotation = (size / side) * np.array([[across[0], across[1]], [-across[1], across[0]]])
    shift = size / 2.0 - rotation @ centre
    return np.concatenate([rotation, shift[:, None]], axis=1)


def upright_height(landmarks: Float32Array) -> float:
    """Pixels that the detector's box would be high if the head were upright.

    The box of a tilted head is larger by the tilt; eyes and mouth do not change.
    """
    return FFHQ_FACE_HEIGHT / float(np.hypot(*framing(landmarks, 1, FFHQ_FACE_HEIGHT)[:, 0]))


def resample(
    image: np.ndarray, matrix: np.ndarray, size: int, border: int = cv2.BORDER_CONSTANT
) -> np.ndarray:
    """uint8[H, W(, 3)] through a similarity (mcap's pixel coordinates) -> uint8[size, size(, 3)].

    Pictures larger than the crop shows them are reduced by area averaging first; the rotation and
    the remaining enlargement are cubic.
    """
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    image, matrix = _cut(image, matrix, size, border)
    if scale < 1.0:
        height, width = image.shape[:2]
        reduced = (max(1, round(width * scale)), max(1, round(height * scale)))
        factors = np.array([width / reduced[0], height / reduced[1]])
        image = cv2.resize(image, reduced, interpolation=cv2.INTER_AREA)
        matrix = np.concatenate([matrix[:, :2] * factors, matrix[:, 2:]], axis=1)
    return cv2.warpAffine(
        image,
        _centred(matrix),
        (size, size),
        flags=cv2.INTER_CUBIC,
        borderMode=border,
    )


def _fade_outside(crop: UInt8Image, matrix: np.ndarray, photo: tuple[int, int]) -> UInt8Image:
    """Blur and fade what lies outside the photo, so that no mirrored hair or face is learned."""
    height, width = photo
    size = len(crop)
    # How far outside each pixel of the crop lies, in pixels of the crop; the transform keeps shape.
    centres = np.arange(size) + 0.5
    grid = np.stack(np.meshgrid(centres, centres), axis=-1) - matrix[:, 2]
    places = grid @ np.linalg.inv(matrix[:, :2]).T
    beyond = np.maximum(np.maximum(-places, places - (width, height)), 0.0)
    outside = np.hypot(beyond[..., 0], beyond[..., 1]) * np.hypot(matrix[0, 0], matrix[1, 0])
    if not outside.any():
        return crop
    picture = crop.astype(np.float32)
    blurred = cv2.GaussianBlur(picture, (0, 0), 0.02 * size)
    picture += (blurred - picture) * np.clip(outside / (0.03 * size), 0, 1)[..., None]
    # Towards the colour at the photo's edge, and not that of the person in its middle.
    edge = crop[(outside > 0) & (outside <= max(2.0, 0.02 * size))]
    colour = np.median(edge, axis=0)
    picture += (colour - picture) * np.clip(outside / (0.12 * size) - 0.25, 0, 1)[..., None]
    return np.round(picture).clip(0, 255).astype(np.uint8)


def _cut(
    image: np.ndarray, matrix: np.ndarray, size: int, border: int
) -> tuple[np.ndarray, np.ndarray]:
    """Only the part of a large photo that the crop can show, plus what a mirror image repeats."""
    height, width = image.shape[:2]
    linear = np.linalg.inv(matrix[:, :2])
    corners = np.array([[0, 0], [size, 0], [0, size], [size, size]], dtype=np.float64)
    places = (corners - matrix[:, 2]) @ linear.T
    low, high = np.floor(places.min(axis=0)) - 8, np.ceil(places.max(axis=0)) + 8
    if border != cv2.BORDER_CONSTANT and ((low < 0).any() or (high > (width, height)).any()):
        return image, matrix
    x0, y0 = (int(value) for value in np.clip(low, 0, (width - 1, height - 1)))
    x1, y1 = (int(value) for value in np.clip(high, (x0 + 1, y0 + 1), (width, height)))
    return image[y0:y1, x0:x1], _shifted(matrix, (x0, y0))


def _shifted(matrix: np.ndarray, origin: tuple[float, float] | np.ndarray) -> np.ndarray:
    """The same transform for a cut-out whose corner lies at ``origin``."""
    shift = matrix[:, :2] @ np.asarray(origin, dtype=np.float64) + matrix[:, 2]
    return np.concatenate([matrix[:, :2], shift[:, None]], axis=1)


def _centred(matrix: np.ndarray) -> np.ndarray:
    """From coordinates that count from a pixel's corner to OpenCV's, from its centre."""
    shift = matrix[:, :2] @ np.array([0.5, 0.5]) + matrix[:, 2] - 0.5
    return np.concatenate([matrix[:, :2], shift[:, None]], axis=1)
