"""Masked photo -> the crops that training uses: squares framed as FFHQ frames its portraits, or of
a profile's aspect with the head where the profile wants it.

FFHQ's framing is that of Karras, Laine and Aila (arXiv 1812.04948, appendix A, and their published
alignment): eyes levelled, the square's side and centre from the eyes and the mouth. A thing is
framed by its mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from mcap.geometry.ffhq import FFHQ_FACE_HEIGHT, ffhq_alignment
from mcap.geometry.resample import resample
from mcap.geometry.similarity_transform import Similarity

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mcap.contracts import Float32Array, UInt8Image
    from mcap.masking.records import MaskedPhoto

TIGHTEST = 0.9
"""The same fraction in a crop of a photo that shows no more than the face: so much and no more,
then the photo is continued."""

FILLS = 0.98
"""Share of the photo's width and height from which on a thing fills it."""

ZOOM = 0.10
SHIFT = 0.03
TILT = 3.0
"""How far the further crops of a photo stray from the first: the side by this part, the place by
this fraction of the side, the tilt by these degrees. Small, because a backbone that was trained on
aligned faces draws others badly."""


@dataclass(frozen=True)
class TrainingCrop:
    """The part of a photo that training sees, H x W pixels: a square, or of a profile's aspect."""

    name: str
    image: UInt8Image  # uint8[H, W, 3] RGB
    mask: Float32Array
    """float32[H, W], 1 on the face, head or thing, 0 elsewhere and outside the photo."""
    landmarks: Float32Array | None  # float32[5, 2], pixels of the crop; None of a thing
    embedding: Float32Array | None  # float32[D], unit length, measured on the photo
    sha256: str  # of the photo's file
    inside: Float32Array | None = None
    """float32[H, W], 1 where the photo is and 0 where it had to be continued; None: 1 all over."""


def portrait_crops(
    masked: MaskedPhoto, size: int, face_height: float, count: int
) -> list[TrainingCrop]:
    """Return ``count`` crops of one photo: the plain one, then others a little off it.

    Their deviation is drawn from the photo's hash, so that a photo's crops do not depend on
    the photos beside it, and are the same in every run. None is mirrored: faces are not symmetric.
    """
    return [portrait_crop(masked, size, face_height, number) for number in range(count)]


def portrait_crop(
    masked: MaskedPhoto, size: int, face_height: float, variation: int = 0
) -> TrainingCrop:
    """Return the upright square of ``size`` pixels around the subject's face, or the thing.

    An upright face's box is ``face_height`` of the side high (on average over people: the scale
    comes from eyes and mouth, which a tilted head does not change, and not from the box, which it
    does). ``face_height = 0.742`` is FFHQ's own framing; smaller values show more of the body, the
    face's centre staying at the same place of the frame. A thing's longer side takes that fraction
    (`object_alignment`).

    Where the photo shows less than that, the crop is moved and made tighter, up to `TIGHTEST`,
    rather than filled up (`fitted`); not so for FFHQ's own framing, which backbones ask for that
    know faces in that place alone. What is still outside the photo is mirrored and, further out,
    blurred and faded, as in FFHQ; the mask is 0 there, and ``inside``, too.

    ``variation`` 0 is the plain crop; other numbers are other zooms, places and tilts.
    """
    image = masked.photo.image
    if masked.found is None:
        to_crop = object_alignment(masked.box, image.shape[:2], size, face_height)
        tightest = 1.0
    else:
        to_crop = ffhq_alignment(masked.face.landmarks, size, face_height)
        tightest = TIGHTEST / face_height if face_height < FFHQ_FACE_HEIGHT else 1.0
    if variation:
        to_crop = varied(to_crop, size, masked.photo.sha256, variation)
    to_crop = fitted(to_crop, size, image.shape[:2], tightest)
    return crop_through(masked, to_crop, (size, size), variation)


def crop_through(
    masked: MaskedPhoto, to_crop: Similarity, size: tuple[int, int], variation: int
) -> TrainingCrop:
    """Return what a frame of ``size`` = (width, height) shows of a photo, continued beyond it."""
    image = masked.photo.image
    crop = resample(image, to_crop, size, cv2.BORDER_REFLECT_101)
    outside = distance_outside(to_crop, size, image.shape[:2])
    inside = None
    if outside is not None:
        crop = fade_outside(crop, outside)
        inside = np.clip(1.0 - outside, 0.0, 1.0).astype(np.float32)
    mask = resample(masked.cutout, to_crop.shifted(masked.mask_origin), size)
    landmarks = None
    if masked.found is not None:
        landmarks = to_crop.apply(masked.face.landmarks).astype(np.float32)
    return TrainingCrop(
        name=f"{masked.photo.name} ({variation + 1})" if variation else masked.photo.name,
        image=crop,
        mask=mask.astype(np.float32) / np.float32(255.0),
        landmarks=landmarks,
        embedding=masked.embedding,
        sha256=masked.photo.sha256,
        inside=inside,
    )


def object_alignment(
    box: tuple[int, int, int, int], photo: tuple[int, int], size: int, share: float
) -> Similarity:
    """Return the similarity from a photo's pixels to those of the square around a thing.

    ``box`` is what its mask covers (x0, y0, x1, y1), ``photo`` is the photo's (height, width). The
    thing's longer side is ``share`` of the crop's, or more, up to `TIGHTEST`, where the photo shows
    less around it; a thing need not lie in the crop's middle, so the crop is moved into the photo.
    Of a thing that fills the photo it is the square in the middle.
    """
    width, height = box[2] - box[0], box[3] - box[1]
    extent = max(width, height)
    if width >= FILLS * photo[1] and height >= FILLS * photo[0]:
        side = float(min(photo))
    else:
        side = min(extent / share, max(min(photo), extent / max(TIGHTEST, share)))
    centre = np.array([box[0] + box[2], box[1] + box[3]]) / 2
    frame = np.array([photo[1], photo[0]], dtype=np.float64)
    low, high = np.minimum(side, frame) / 2, np.maximum(frame - side / 2, frame / 2)
    zoom = size / side
    return Similarity.scaling(zoom, *(size / 2 - zoom * np.clip(centre, low, high)))


def fitted(
    to_crop: Similarity, size: int, photo: tuple[int, int], tightest: float = 1.0
) -> Similarity:
    """Return a crop's similarity, changed to show as little as can be outside the photo.

    ``to_crop`` takes the photo's pixels to the crop's, ``photo`` is its (height, width). The crop
    is enlarged at most ``tightest`` times, which leaves the part of it that must stay in sight;
    then it is moved, at most until what the photo shows of that part touches the crop's edge. The
    tilt stays.
    """
    height, width = photo
    scale = to_crop.scale
    linear = to_crop.linear / scale
    reach = abs(linear[0, 0]) + abs(linear[0, 1])  # of a tilted square of side 1, along the axes
    side = size / scale
    least = side / max(tightest, 1.0)
    new_side = float(np.clip(min(height, width) / reach, least, side))
    room = (new_side - least) / 2
    centre = linear.T @ (np.full(2, size / 2) - to_crop.shift) / scale
    frame = np.array([width, height], dtype=np.float64)

    def inwards(half: float) -> NDArray[np.float64]:
        # Brings a square of that half extent into the photo, or to its middle if too large.
        low, high = np.minimum(half, frame / 2), np.maximum(frame - half, frame / 2)
        return np.clip(centre, low, high) - centre

    centre = centre + np.clip(inwards(least * reach / 2), -room, room)
    move = linear @ inwards(new_side * reach / 2)
    centre = centre + linear.T @ np.clip(move, -room, room)
    rotation = linear * (size / new_side)
    return Similarity.of(rotation, size / 2 - rotation @ centre)


def varied(to_crop: Similarity, size: int, sha256: str, number: int) -> Similarity:
    """Return the crop a little larger or smaller, beside its place and tilted.

    By at most `ZOOM`, `SHIFT` and `TILT`, drawn from the photo's hash and the crop's number.
    """
    random = np.random.default_rng([int(sha256[:16], 16), number])
    zoom, angle, *shift = random.uniform(-1, 1, 4)
    zoom, angle = (1 + ZOOM) ** zoom, np.radians(TILT) * angle
    turn = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle = np.full(2, size / 2)
    shift = middle - turn @ middle + SHIFT * size * np.array(shift)
    return Similarity.of(turn, shift) @ to_crop


def distance_outside(
    to_crop: Similarity, size: tuple[int, int], photo: tuple[int, int]
) -> Float32Array | None:
    """Return the distance of each pixel of the crop from the photo: float32[H, W].

    In pixels of the crop, 0 inside; None where the crop lies inside altogether. ``size`` is the
    crop's (width, height), ``photo`` the photo's (height, width).
    """
    height, width = photo
    places = to_crop.corners(size)
    if (places >= -0.5).all() and (places <= np.array([width, height]) + 0.5).all():
        return None
    back = np.linalg.inv(to_crop.linear).astype(np.float32)
    across = np.arange(size[0]) + 0.5 - to_crop.shift[0]
    down = np.arange(size[1]) + 0.5 - to_crop.shift[1]
    x, y = (row[0] * across + row[1] * down[:, None] for row in back)
    beyond_x = np.maximum(np.maximum(-x, x - width), 0.0).astype(np.float32)
    beyond_y = np.maximum(np.maximum(-y, y - height), 0.0).astype(np.float32)
    return repeatable_magnitude(beyond_x, beyond_y) * np.float32(to_crop.scale)


def repeatable_magnitude(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return ``cv2.magnitude(x, y)`` of float32 arrays, the same bits in every run.

    OpenCV's last bit depends on where in memory an array begins, which would make one command's
    masks differ between two runs; here copies begin at a multiple of 64 bytes.
    """
    copies = []
    for values in (x, y, x):  # the last one is for the result
        room = np.empty(values.nbytes + 64, np.uint8)
        start = -room.ctypes.data % 64
        copy = room[start : start + values.nbytes].view(np.float32).reshape(values.shape)
        copy[...] = values
        copies.append(copy)
    return cv2.magnitude(*copies)


def fade_outside(crop: UInt8Image, outside: Float32Array) -> UInt8Image:
    """Return the crop uint8[H, W, 3] blurred and faded outside the photo.

    So no mirrored hair or face is learned. ``outside`` is that of `distance_outside`.
    """
    size = min(crop.shape[:2])
    picture = crop.astype(np.float32)
    blurred = cv2.GaussianBlur(picture, (0, 0), 0.02 * size)
    picture += (blurred - picture) * np.clip(outside / (0.03 * size), 0, 1)[..., None]
    # Towards the colour at the photo's edge, and not that of the person in its middle.
    edge = crop[(outside > 0) & (outside <= max(2.0, 0.02 * size))]
    if len(edge):
        colour = np.median(edge, axis=0)
        picture += (colour - picture) * np.clip(outside / (0.12 * size) - 0.25, 0, 1)[..., None]
    return np.round(picture).clip(0, 255).astype(np.uint8)
