"""A person apart from the background: the soft edge, and the two colours that are mixed in it.

H x W pixels of one picture; colours are float32[H, W, 3] in [0, 1], mattes float32[H, W] in [0, 1]
with 1 on the person. A pixel of the edge shows ``matte * person + (1 - matte) * background``; on
another background the old one's colour would stay in it as a halo, so both are estimated first.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from mcap.faces.masks import LandmarkMasker, iou
from mcap.framing.head import Head, crown_to_chin
from mcap.framing.resize import shrink
from mcap.framing.silhouette import crown_overhang, silhouette, touches
from mcap.images.colour import on_white

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mcap.contracts import Face, Float32Array, Masker

WORKING_HEAD = 800.0
"""The height in pixels of a head at which its matte and colours are worked out; larger pictures
get them enlarged. Hair is softer than that in most photos."""

WORKING_SIDE = 2400

FACE_ALONE = 0.85
"""A matte that is this much the same as the face's oval (intersection over union) is no person's:
the person masker falls back to the oval where it sees nobody, and hair and body would be lost."""

HEAD_REACH = 0.8
"""A head with its hair is within this of its own height, crown to chin, from its middle."""

BESIDE_HEAD = 0.02
"""Of the square of a head's height: what stands beside it and is larger is no strand of hair."""

STRAY = 0.08
"""Share of what a picture's transparency leaves that may be no person. Of 40 people that were cut
out, 0.003 in the median and 0.05 at most; of the same photos as round avatars, 0.13."""

TINY = 1e-5


@dataclass(frozen=True)
class Layers:
    """A picture as foreground over background: both smooth estimates, defined everywhere.

    The person's own colour of a pixel is `foreground_colour`.
    """

    matte: Float32Array  # [H, W]
    person: Float32Array  # [H, W, 3]
    background: Float32Array  # [H, W, 3]


@dataclass(frozen=True)
class Cutout:
    """A picture at the working size, its person told from the background."""

    image: Float32Array  # [h, w, 3]
    layers: Layers
    head: Head  # in working pixels
    scale: float  # working pixels per pixel of the picture
    skin: Float32Array  # [3], the face's colour
    sure: bool  # the matte is a person's
    coloured: bool  # the background becomes the profile's colour
    notes: tuple[str, ...]

    def touches(self, side: int) -> bool:
        """Return whether the picture cuts the person off at a side: left, top, right, bottom."""
        return touches(self.layers.matte, side)

    def shows(self, others: Iterable[Face]) -> bool:
        """Return whether the matte takes another face, in the picture's pixels, for the person."""
        height, width = self.layers.matte.shape
        for face in others:
            x, y = (face.landmarks.mean(axis=0) * self.scale).astype(int)
            if 0 <= x < width and 0 <= y < height and self.layers.matte[y, x] > 0.5:
                return True
        return False

    def beside_head(self) -> frozenset[int]:
        """Return the sides of the head, 0 (left) and 2 (right), at which there is more than it.

        It is somebody else's who touches the person, or a hand: what lies at the head's height
        and does not hang on to it there, or reaches further than hair does.
        """
        if not self.sure:
            return frozenset()
        head, matte = self.head, self.layers.matte
        first, last = round(max(head.crown, 0.0)), round(head.eyes + 0.3 * head.height)
        rows = matte[first : max(last, first + 1)] > 0.5
        _, pieces = cv2.connectedComponents(rows.astype(np.uint8))
        middle = int(np.clip(head.center_x, 0, matte.shape[1] - 1))
        eyes = int(np.clip(round(head.eyes) - first, 0, len(rows) - 1))
        columns = np.arange(matte.shape[1]) - head.center_x
        other = (pieces > 0) & (pieces != pieces[eyes, middle])
        other |= rows & (np.abs(columns) > HEAD_REACH * head.height)
        least = BESIDE_HEAD * head.height**2
        sides = ((0, columns < 0), (2, columns > 0))
        return frozenset(side for side, there in sides if other[:, there].sum() > least)

    def top_of_hair(self) -> float | None:
        """Return the row of the picture in which the hair begins; above 0 where it is cut off."""
        if not self.sure:
            return None
        reach = 0.45 * self.head.height
        columns = np.clip([self.head.center_x - reach, self.head.center_x + reach], 0, None)
        first, last = columns.astype(int)
        above = self.layers.matte[: max(1, round(self.head.eyes)), first : last + 1]
        rows = np.flatnonzero((above > 0.5).any(axis=1))
        if len(rows) == 0:
            return None
        if rows[0] > 0:
            return float(rows[0]) / self.scale
        line = silhouette(self.layers.matte, round(0.05 * self.head.height), top=True)
        return -crown_overhang(line) / self.scale if line else 0.0


def cut_out(
    image: NDArray[Any],
    white: float,
    face: Face,
    masker: Masker | None,
    colour: str | None,
    shown: NDArray[np.bool_] | None = None,
) -> Cutout:
    """Tell the person of ``face`` from the background that becomes ``colour`` (None: stays).

    ``image`` [H, W, 3 or 4] with values from 0 to ``white``; an alpha that hides something is the
    matte, otherwise ``masker`` finds it, where there is something ``shown`` [H, W].
    """
    height, width = image.shape[:2]
    head = crown_to_chin(face)
    scale = min(1.0, WORKING_HEAD / max(head.height, 1.0), WORKING_SIDE / max(height, width))
    small = shrink(image, scale)
    # The two sides are rounded apart by less than a pixel, which no landmark notices.
    scale = small.shape[0] / height
    floats = small[..., :3].astype(np.float32) / np.float32(white)
    face = face.moved(zoom=scale)
    alpha = transparency(small, white)
    notes: tuple[str, ...] = ()
    if alpha is not None:
        matte, sure = alpha, True
    elif masker is None:
        matte, sure = np.zeros(small.shape[:2], np.float32), False
        if colour:
            notes = (f"The background is not replaced by {colour}: there is no person masker.",)
    else:
        found = person_matte(floats, face, masker)
        sure = found is not None
        matte = np.zeros(small.shape[:2], np.float32) if found is None else found
        if shown is not None:
            there = cv2.resize(
                shown.astype(np.float32), matte.shape[::-1], interpolation=cv2.INTER_AREA
            )
            matte = np.minimum(matte, np.asarray(there, np.float32))
        if found is None:
            notes = ("The person could not be told from the background, which is left as it is.",)
    layers = Layers(matte, floats, floats)
    if sure and alpha is None:
        layers = estimate_foreground(floats, matte, face.height)
    # The face's colour: the median between eyes and mouth.
    low, high = face.landmarks.min(axis=0), face.landmarks.max(axis=0)
    x0, y0 = np.maximum(low, 0).astype(int)
    x1, y1 = np.maximum(high, (x0 + 1, y0 + 1)).astype(int)
    part = floats[y0:y1, x0:x1].reshape(-1, 3)
    skin = np.median(part if len(part) else floats.reshape(-1, 3), axis=0).astype(np.float32)
    return Cutout(
        floats, layers, crown_to_chin(face), scale, skin, sure, sure and colour is not None, notes
    )


def transparency(image: NDArray[Any], white: float) -> Float32Array | None:
    """Return a picture's alpha float32[H, W] in [0, 1]; None where it hides nothing."""
    if image.shape[2] != 4:
        return None
    alpha: Float32Array = image[..., 3].astype(np.float32) / np.float32(white)
    return alpha if float(alpha.min()) < 0.5 else None


@dataclass(frozen=True)
class Flattened:
    """A picture whose transparency is no person's outline (a round avatar, a window's shadow)."""

    image: NDArray[Any]
    """The part that is not transparent, on white, with as many channels as before."""
    shown: NDArray[np.bool_]
    """[H, W]: the pixels of that part that are not transparent, either."""
    corner: tuple[int, int]
    """(x, y) of that part in the picture."""
    open_sides: frozenset[int]
    """Sides (left, top, right, bottom) most of which is transparent."""


def flattened(
    image: NDArray[Any], white: float, face: Face, masker: Masker | None
) -> Flattened | None:
    """Lay a picture on white whose transparency shows more than the person; None for all others.

    ``image`` [H, W, 3 or 4] with values from 0 to ``white``. ``masker`` looks at the picture on
    white; where it sees nobody, or there is none, the transparency is believed.
    """
    if masker is None or image.shape[2] != 4 or image[..., 3].min() >= white / 2:
        return None
    scale = min(1.0, WORKING_SIDE / max(image.shape[:2]))
    small = shrink(image, scale).astype(np.float32) / np.float32(white)
    alpha = small[..., 3]
    on_paper = on_white(small[..., :3], alpha)
    seen = person_matte(on_paper, face.moved(zoom=small.shape[0] / image.shape[0]), masker)
    if seen is None or np.minimum(alpha, seen).sum() >= (1 - STRAY) * alpha.sum():
        return None
    shown = image[..., 3] >= 0.98 * white
    rows, columns = np.flatnonzero(shown.any(axis=1)), np.flatnonzero(shown.any(axis=0))
    y0, y1, x0, x1 = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    part, shown = image[y0:y1, x0:x1], shown[y0:y1, x0:x1]
    laid = np.full_like(part, white)
    laid[..., :3] = on_white(part[..., :3], part[..., 3])
    sides = (shown[:, 0], shown[0], shown[:, -1], shown[-1])
    open_sides = frozenset(side for side, line in enumerate(sides) if line.mean() < 0.5)
    return Flattened(laid, shown, (int(x0), int(y0)), open_sides)


def person_matte(image: Float32Array, face: Face, masker: Masker) -> Float32Array | None:
    """Return the matte of the person of ``face`` in float32[H, W, 3]; None where nobody is seen."""
    seen = np.ascontiguousarray(np.round(image * 255.0).astype(np.uint8))
    matte = np.asarray(masker.mask(seen, face), np.float32)
    if iou(matte, LandmarkMasker().mask(seen, face)) > FACE_ALONE:
        return None
    return matte


def estimate_foreground(image: Float32Array, matte: Float32Array, face_height: float) -> Layers:
    """Estimate the layers of ``image`` float32[H, W, 3] by a segmenter's ``matte`` float32[H, W].

    ``face_height`` in pixels sets how wide the edge may be. The matte is sharpened where the
    colours of person and background differ enough to tell how much of each a pixel shows.
    """
    coarse, fine = (max(1, round(share * face_height)) for share in (0.25, 0.02))
    layers = blur_fusion(image, matte, coarse, fine)
    sharper = sharpen_matte(image, layers, max(2, round(0.03 * face_height)))
    return blur_fusion(image, sharper, coarse, fine)


def foreground_colour(image: Float32Array, matte: Float32Array, layers: Layers) -> Float32Array:
    """Return the person's own colour of each pixel, without the background that shines through.

    Forte, "Approximate Fast Foreground Colour Estimation" (ICIP 2021): the smooth estimate
    plus the part of the pixel's deviation from the mixture that is the person's; where the matte
    is 1 it is the picture.
    """
    share = matte[..., None]
    mixed = share * layers.person + (1 - share) * layers.background
    return layers.person + share * (image - mixed)


def blur_fusion(image: Float32Array, matte: Float32Array, coarse: int, fine: int) -> Layers:
    """Estimate the smooth colours of both sides: from far away, then from near by.

    Blur fusion, twice, of Forte (see `foreground_colour`); ``coarse`` and ``fine`` are radii in
    pixels.
    """
    person, background = (
        normalized_blur(image, matte, coarse),
        normalized_blur(image, 1 - matte, coarse),
    )
    person = foreground_colour(image, matte, Layers(matte, person, background))
    return Layers(
        matte, normalized_blur(person, matte, fine), normalized_blur(background, 1 - matte, fine)
    )


def normalized_blur(values: Float32Array, weights: Float32Array, radius: int) -> Float32Array:
    """Return the mean of the values [H, W, 3] round each pixel, by the weights [H, W].

    Where there are none within the radius, it is taken from ever wider rings. Worked out on a
    reduced copy: a mean over hundreds of pixels is as smooth there.
    """
    size = values.shape[1::-1]
    by = max(1, radius // 4)
    smaller = tuple(max(1, round(side / by)) for side in size)
    sums = np.dstack([values * weights[..., None], weights])
    if by > 1:
        sums = cv2.resize(sums, smaller, interpolation=cv2.INTER_AREA)
    result = np.zeros_like(sums)
    empty = np.ones(sums.shape[:2], bool)
    reach = max(1, round(radius / by))
    while empty.any():
        side = (2 * reach + 1, 2 * reach + 1)
        wide = cv2.blur(sums, side, borderType=cv2.BORDER_REFLECT)
        # Beyond the picture's own size there is only the mean of all of it.
        last = reach > max(smaller)
        fresh = empty if last else empty & (wide[..., 3] > 1e-3)
        result[fresh] = wide[fresh]
        empty &= ~fresh
        reach *= 4
    mean = result[..., :3] / np.maximum(result[..., 3:], TINY)
    if by == 1:
        return mean.astype(np.float32)
    return np.asarray(cv2.resize(mean, size, interpolation=cv2.INTER_LINEAR), np.float32)


def sharpen_matte(image: Float32Array, layers: Layers, reach: int) -> Float32Array:
    """Return the matte, near its edge, by where a pixel's colour lies between the two layers'.

    Within ``reach`` pixels. The least-squares share of the person's smooth colour in a pixel is
    (I - B)(F - B) / |F - B|^2. It counts by how far apart the two colours are against how much each
    varies near the edge: in front of a plain wall it finds single hairs, in front of leaves the
    segmenter's word stands.
    """
    matte = layers.matte
    kernel = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    edge = cv2.dilate(matte, kernel) - cv2.erode(matte, kernel)
    apart = layers.person - layers.background
    distance = (apart * apart).sum(axis=-1)
    share = ((image - layers.background) * apart).sum(axis=-1) / np.maximum(distance, TINY)
    # A few per cent either way are the picture's noise.
    share = np.clip((share - 0.12) / 0.76, 0.0, 1.0)
    # Variances of either side, from pixels that are surely its own.
    side = (4 * reach + 1, 4 * reach + 1)
    spread = np.zeros_like(matte)
    for smooth, sure in (
        (layers.person, (matte > 0.98).astype(np.float32)),
        (layers.background, (matte < 0.02).astype(np.float32)),
    ):
        squares = ((image - smooth) ** 2).sum(axis=-1) * sure
        count = cv2.blur(sure, side, borderType=cv2.BORDER_REFLECT)
        here = cv2.blur(squares, side, borderType=cv2.BORDER_REFLECT) / np.maximum(count, 0.01)
        spread += here
    trust = distance / (distance + 8.0 * spread + 0.005)
    weight = np.clip(4.0 * edge, 0.0, 1.0) * np.clip(2.0 * trust - 1.0, 0.0, 1.0)
    return np.clip(matte + weight * (share - matte), 0.0, 1.0).astype(np.float32)
