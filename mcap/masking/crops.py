"""Masked photo -> the square crops that training uses, framed as FFHQ frames its portraits.

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
    from mcap.masking.select import MaskedPhoto

FFHQ_FACE_HEIGHT = 0.742
"""YuNet's box of an upright face, as a fraction of the side of FFHQ's square: the median over
10,477 pictures framed so (5 to 95 %: 0.68 to 0.79)."""

TIGHTEST = 0.9
"""The same fraction in a crop of a photo that shows no more than the face: so much and no more,
then the photo is continued."""

ZOOM = 0.10
SHIFT = 0.03
TILT = 3.0
"""How far the further crops of a photo stray from the first: the side by this part, the place by
this fraction of the side, the tilt by these degrees. Small, because a backbone that was trained on
aligned faces draws others badly."""


@dataclass(frozen=True)
class TrainingCrop:
    """What training sees of a photo. S is the side in pixels."""

    name: str
    image: UInt8Image  # uint8[S, S, 3] RGB
    mask: Float32Array  # float32[S, S], 1 on the face, 0 elsewhere and outside the photo
    landmarks: Float32Array  # float32[5, 2], pixels of the crop
    embedding: Float32Array  # float32[D], unit length, measured on the photo
    sha256: str  # of the photo's file
    inside: Float32Array | None = None
    """float32[S, S], 1 where the photo is and 0 where it had to be continued; None: 1 all over."""


def portrait_crops(
    masked: MaskedPhoto, size: int, face_height: float, count: int
) -> list[TrainingCrop]:
    """``count`` crops of one photo: the plain one, then others a little off it.

    What they are off by is drawn from the photo's hash, so that a photo's crops do not depend on
    the photos beside it, and are the same in every run. None is mirrored: faces are not symmetric.
    """
    return [portrait_crop(masked, size, face_height, number) for number in range(count)]


def portrait_crop(
    masked: MaskedPhoto, size: int, face_height: float, variation: int = 0
) -> TrainingCrop:
    """The upright square of ``size`` pixels around the subject's face.

    An upright face's box is ``face_height`` of the side high (on average over people: the scale
    comes from eyes and mouth, which a tilted head does not change, and not from the box, which it
    does). ``face_height = 0.742`` is FFHQ's own framing; smaller values show more of the body, the
    face's centre staying at the same place of the frame.

    Where the photo shows less than that, the crop is moved and made tighter, up to `TIGHTEST`,
    rather than filled up (`fitted`); not so for FFHQ's own framing, which backbones ask for that
    know faces in that place alone. What is still outside the photo is mirrored and, further out,
    blurred and faded, as in FFHQ; the mask is 0 there, and ``inside``, too.

    ``variation`` 0 is the plain crop; other numbers are other zooms, places and tilts.
    """
    image = masked.photo.image
    matrix = framing(masked.face.landmarks, size, face_height)
    if variation:
        matrix = _varied(matrix, size, masked.photo.sha256, variation)
    tightest = TIGHTEST / face_height if face_height < FFHQ_FACE_HEIGHT else 1.0
    matrix = fitted(matrix, size, image.shape[:2], tightest)
    crop = resample(image, matrix, size, cv2.BORDER_REFLECT_101)
    outside = _outside(matrix, size, image.shape[:2])
    inside = None
    if outside is not None:
        crop = _fade_outside(crop, outside)
        inside = np.clip(1.0 - outside, 0.0, 1.0).astype(np.float32)
    mask = resample(masked.cutout, _shifted(matrix, masked.mask_origin), size)
    landmarks = masked.face.landmarks @ matrix[:, :2].T + matrix[:, 2]
    return TrainingCrop(
        name=f"{masked.photo.name} ({variation + 1})" if variation else masked.photo.name,
        image=crop,
        mask=mask.astype(np.float32) / np.float32(255.0),
        landmarks=landmarks.astype(np.float32),
        embedding=masked.embedding,
        sha256=masked.photo.sha256,
        inside=inside,
    )


def fitted(
    matrix: np.ndarray, size: int, photo: tuple[int, int], tightest: float = 1.0
) -> np.ndarray:
    """A crop's similarity, changed so that the crop shows as little as can be outside the photo.

    ``matrix`` float64[2, 3] takes the photo's pixels to the crop's, ``photo`` is its (height,
    width). The crop is enlarged at most ``tightest`` times, which leaves the part of it that must
    stay in sight; then it is moved, at most until what the photo shows of that part touches the
    crop's edge. The tilt stays.
    """
    height, width = photo
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    linear = matrix[:, :2] / scale
    reach = abs(linear[0, 0]) + abs(linear[0, 1])  # of a tilted square of side 1, along the axes
    side = size / scale
    least = side / max(tightest, 1.0)
    new_side = float(np.clip(min(height, width) / reach, least, side))
    room = (new_side - least) / 2
    centre = linear.T @ (np.full(2, size / 2) - matrix[:, 2]) / scale
    frame = np.array([width, height], dtype=np.float64)
    centre = centre + np.clip(_inwards(centre, least * reach / 2, frame), -room, room)
    move = linear @ _inwards(centre, new_side * reach / 2, frame)
    centre = centre + linear.T @ np.clip(move, -room, room)
    rotation = linear * (size / new_side)
    return np.concatenate([rotation, (size / 2 - rotation @ centre)[:, None]], axis=1)


def _inwards(centre: np.ndarray, half: float, frame: np.ndarray) -> np.ndarray:
    """What brings a square of that half extent into the frame, or to its middle if too large."""
    low, high = np.minimum(half, frame / 2), np.maximum(frame - half, frame / 2)
    return np.clip(centre, low, high) - centre


def _varied(matrix: np.ndarray, size: int, sha256: str, number: int) -> np.ndarray:
    """The crop a little larger or smaller, beside its place and tilted."""
    random = np.random.default_rng([int(sha256[:16], 16), number])
    zoom, angle, *shift = random.uniform(-1, 1, 4)
    zoom, angle = (1 + ZOOM) ** zoom, np.radians(TILT) * angle
    turn = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle = np.full(2, size / 2)
    shift = middle - turn @ middle + SHIFT * size * np.array(shift)
    return np.concatenate([turn @ matrix[:, :2], (turn @ matrix[:, 2] + shift)[:, None]], axis=1)


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


def _outside(matrix: np.ndarray, size: int, photo: tuple[int, int]) -> np.ndarray | None:
    """How far outside the photo each pixel of the crop lies, float32[size, size] in pixels of the
    crop; None where the crop lies inside altogether."""
    height, width = photo
    back = np.linalg.inv(matrix[:, :2])
    corners = np.array([[0, 0], [size, 0], [0, size], [size, size]], dtype=np.float64)
    places = (corners - matrix[:, 2]) @ back.T
    if (places >= -0.5).all() and (places <= np.array([width, height]) + 0.5).all():
        return None
    centres = np.arange(size) + 0.5 - matrix[:, 2:]
    x, y = (row[0] * centres[0] + row[1] * centres[1][:, None] for row in back.astype(np.float32))
    beyond_x = np.maximum(np.maximum(-x, x - width), 0.0)
    beyond_y = np.maximum(np.maximum(-y, y - height), 0.0)
    scale = np.float32(np.hypot(matrix[0, 0], matrix[1, 0]))
    return cv2.magnitude(beyond_x.astype(np.float32), beyond_y.astype(np.float32)) * scale


def _fade_outside(crop: UInt8Image, outside: np.ndarray) -> UInt8Image:
    """Blur and fade what lies outside the photo, so that no mirrored hair or face is learned."""
    size = len(crop)
    picture = crop.astype(np.float32)
    blurred = cv2.GaussianBlur(picture, (0, 0), 0.02 * size)
    picture += (blurred - picture) * np.clip(outside / (0.03 * size), 0, 1)[..., None]
    # Towards the colour at the photo's edge, and not that of the person in its middle.
    edge = crop[(outside > 0) & (outside <= max(2.0, 0.02 * size))]
    if len(edge):
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
