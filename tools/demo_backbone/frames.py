"""Frames: how much room there is round a head, made from pictures that are nearly all face.

A frame maps a picture of 256 x 256 pixels to a canvas. Round the face nothing but scale changes.
Where the canvas reaches further than the picture, the picture's margins are stretched, the more the
farther out: shoulders widen, a neck and a collar lengthen, and no seam tells where. What is
stretched is put out of focus, as shoulders often are, so that no streaks are left. The background
has to be replaced or blurred (styles.py). Hair that the upper edge just cuts gets the arc that is
missing.

Lengths are in pixels: of the picture (256 a side) or of the canvas.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from canvases import PORTRAIT

SIDE = 256
MARGIN = 24  # of the picture's sides, may be stretched
BELOW_CHIN = 3  # from here down the picture may be stretched
ABOVE_HAIR = 3  # from here up
PAD = 20  # rows that are put above a picture, for hair and a little background
HAIR_RADIUS = 85  # of the arc that a head of hair ends in
WIDEST_CUT = 90  # across which hair may be cut by the edge and still be rounded
BLURS = (1.5, 4.0, 7.0)  # deviations of the blur where the stretch is 2, 4 and 8
LEAST_BELOW = 14  # rows below the chin, for a neck to be made of

CLOSE = 0.81  # heads at least so high, of the canvas, are close-ups
ROOM = 0.66  # and below that there is room around them
# What the profile "passport" asks for, a little stricter, since the measure has its error.
PASSPORT_HEAD, PASSPORT_EYES = (0.71, 0.79), (0.555, 0.645)


@dataclass(frozen=True)
class Frame:
    """A picture's place on a canvas."""

    size: tuple[int, int]
    """Width and height of the canvas."""
    scale: float
    """Pixels of the canvas a pixel of the picture."""
    left: float
    """x of the picture's left edge on the canvas."""
    top: float
    """y of its upper edge."""

    def to_canvas(self, points: np.ndarray) -> np.ndarray:
        """Points [..., 2] of the picture's unstretched part on the canvas."""
        return (np.asarray(points) + 0.5) * self.scale + [self.left, self.top] - 0.5


@dataclass(frozen=True)
class HeadAt:
    """A head in a picture: y of the eyes and the chin, x of the face's middle, clear rows above."""

    eyes: float
    chin: float
    middle: float
    clear: int
    """Rows above the hair; below 0 those that the arc of the cut hair reaches above the picture."""
    sides: int
    """Rows in which something of a person lies at the left or right edge, above the shoulders."""


def rows_at_sides(matte: np.ndarray) -> int:
    """HeadAt.sides of a matte float32[256, 256]: long hair, or somebody else."""
    upper = matte[: SIDE * 3 // 4]
    return int(max((upper[:, :2] > 0.15).any(1).sum(), (upper[:, -2:] > 0.15).any(1).sum()))


def rows_above_hair(matte: np.ndarray) -> int:
    """HeadAt.clear of a matte float32[256, 256]; -SIDE where hair is cut too broadly."""
    touched = np.flatnonzero((matte > 0.15).sum(1) > 1)
    if not len(touched):
        return 0
    if touched[0] > 1:
        return int(touched[0])
    start, end = _cut(matte)
    if end - start > WIDEST_CUT or start < 30 or end > SIDE - 30:
        return -SIDE
    return -int(np.ceil(HAIR_RADIUS - np.sqrt(HAIR_RADIUS**2 - ((end - start) / 2) ** 2)))


def _cut(matte: np.ndarray) -> tuple[int, int]:
    """First column, and the one after the last, in which the upper edge cuts the hair."""
    columns = np.flatnonzero(matte[:2].max(0) > 0.15)
    return (int(columns[0]), int(columns[-1]) + 1) if len(columns) else (SIDE // 2, SIDE // 2)


def with_top(image: np.ndarray, matte: np.ndarray):
    """Image and matte with PAD rows more at the top: cut hair is mirrored and rounded.

    Behind it the background to its left goes over into that to its right.
    """
    mirrored = cv2.copyMakeBorder(image, PAD, 0, 0, 0, cv2.BORDER_REFLECT)
    start, end = _cut(matte)
    half = (end - start) / 2
    above = np.zeros((PAD, SIDE), np.float32)
    if 0 < half <= WIDEST_CUT / 2:
        edges = [max(start - 8, 0), min(end + 8, SIDE - 1)]
        row, columns = image[:8].mean(0), np.arange(*edges)
        for channel in range(3):
            mirrored[:PAD, columns, channel] = np.interp(columns, edges, row[edges, channel])
        y, x = np.mgrid[-PAD:0, 0:SIDE] + 0.5
        centre = np.sqrt(HAIR_RADIUS**2 - half**2)
        away = np.hypot(x - (start + half), y - centre)
        above = np.clip((HAIR_RADIUS - away) / 3 + 0.5, 0, 1).astype(np.float32)
        hair = image[:PAD][::-1]
        mirrored[:PAD] += above[..., None] * (hair - mirrored[:PAD])
    return mirrored, np.concatenate([above, matte])


def head_of(record: dict) -> HeadAt:
    """The head of a face in table.json."""
    points, box = record["points"], record["box"]
    return HeadAt((points[0][1] + points[1][1]) / 2, record["chin"], box[0] + box[2] / 2,
                  record["clear"], record["sides"])  # fmt: skip


def measured(head: HeadAt, frame: Frame) -> tuple[float, float]:
    """Head height and eye line as profiles count them: shares of the canvas's height.

    The crown lies as far above the eyes as the chin below; the eye line is counted from below.
    """
    height = frame.size[1]
    eyes = (head.eyes + 0.5) * frame.scale + frame.top
    return 2 * (head.chin - head.eyes) * frame.scale / height, 1 - eyes / height


def tight(size: tuple[int, int]) -> Frame:
    """The picture as large as covers the canvas: bottom at the bottom, sides cropped."""
    scale = max(size[0], size[1]) / SIDE
    return Frame(size, scale, (size[0] - SIDE * scale) / 2, size[1] - SIDE * scale)


def roomy(size: tuple[int, int], head: HeadAt, rng) -> Frame:
    """The picture with room: head height, eye line and a little shift to the side are drawn."""
    width, height = size
    if size == PORTRAIT and rng.random() < 0.75:
        wanted, line = rng.uniform(*PASSPORT_HEAD), rng.uniform(PASSPORT_EYES[0], 0.61)
    else:
        wanted, line = rng.uniform(0.62, 0.82), rng.uniform(0.48, 0.6)
    scale = wanted * height / (2 * (head.chin - head.eyes))
    # Never more than 1.45 times smaller than it came: a latent covers 16 pixels, and features of
    # smaller faces than that fall between them. And at least a little below the chin.
    scale = max(scale, max(size) / SIDE / 1.45)
    line = max(line, (head.chin - head.eyes) * scale / height + 0.05)
    middle = width * rng.uniform(0.47, 0.53)
    return Frame(size, scale, middle - (head.middle + 0.5) * scale,
                 (1 - line) * height - (head.eyes + 0.5) * scale)  # fmt: skip


def can_have_room(head: HeadAt, size: tuple[int, int]) -> bool:
    """Hair that the upper edge cuts broadly cannot be given a top, nor a chin at the edge a neck.

    And what reaches the sides would be widened, more so in a square, which shows more of it.
    """
    return (
        head.clear >= ABOVE_HAIR + 2 - PAD
        and SIDE - head.chin >= LEAST_BELOW
        and head.sides < (40 if size == PORTRAIT else 25)
    )


def named(head: HeadAt, frame: Frame) -> str:
    """The frame's name for captions: "close", "passport", "shoulders", "room" or ""."""
    height, eyes = measured(head, frame)
    if height >= CLOSE:
        return "close"
    if frame.size == PORTRAIT and (
        PASSPORT_HEAD[0] - 0.01 <= height <= PASSPORT_HEAD[1] + 0.01
        and PASSPORT_EYES[0] - 0.005 <= eyes <= PASSPORT_EYES[1]
    ):
        return "passport"
    if height < ROOM:
        return "room"
    return "shoulders" if eyes > 0.5 else ""


def axis(
    count: int, scale: float, start: float, fixed: tuple[float, float], first: float = 0.0
) -> np.ndarray:
    """Sources of count canvas pixels along one side, in pixels of the picture; float64[count].

    fixed: the part of the picture, which reaches from first to SIDE, that is not stretched. Beyond
    it, at distance u on the canvas, the picture is read at distance (u / scale) / (1 + a u) from
    it, with a such that the canvas's edge meets the picture's; a = 0, no stretch, where the picture
    reaches far enough.
    """
    centre = np.arange(count) + 0.5
    source = (centre - start) / scale
    for sign, border, inner in ((-1, first, fixed[0]), (1, float(SIDE), fixed[1])):
        beyond = sign * (source - inner)  # unstretched distance, pixels of the picture
        edge = ((0.0 if sign < 0 else count) - start) / scale
        wanted, there = sign * (edge - inner), sign * (border - inner)
        if wanted > there > 0:
            bend = (wanted / there - 1) / wanted
            outside = np.maximum(beyond, 0)
            source = np.where(beyond > 0, inner + sign * outside / (1 + bend * outside), source)
    return source.clip(first + 0.5, SIDE - 0.5) - 0.5


def _out_of_focus(image: np.ndarray, matte: np.ndarray, stretch: np.ndarray):
    """The person, and the matte, blurred the more the more they were stretched: [H, W] from 1 up.

    The person's colours are blurred by themselves, so that no background runs into them.
    """
    step = np.log2(np.maximum(stretch, 1))[..., None]
    result, cut, held = image, matte, matte[..., None] + 1e-3
    for level, sigma in enumerate(BLURS):
        share = np.clip(step - level, 0, 1)
        soft = cv2.GaussianBlur(held, (0, 0), sigma)[..., None]
        colour = cv2.GaussianBlur(image * held, (0, 0), sigma) / soft
        result = result + share * (colour - result)
        edge = cv2.GaussianBlur(matte, (0, 0), sigma / 2)
        cut = cut + share[..., 0] * (edge - cut)
    return result, cut


def apply(frame: Frame, head: HeadAt, image: np.ndarray, matte: np.ndarray):
    """Image float32[256, 256, 3] and matte float32[256, 256] on the canvas: [H, W, 3], [H, W]."""
    width, height = frame.size
    image, matte = with_top(image, matte)
    x = axis(width, frame.scale, frame.left, (MARGIN, SIDE - MARGIN))
    above = min(head.clear - ABOVE_HAIR, head.eyes - 60)
    # Only a frame that reaches above the picture has use for the rows that were put there.
    first = max(-PAD, min(0.0, above - 2)) if frame.top > 0 else 0.0
    y = axis(height, frame.scale, frame.top, (max(above, first + 1), head.chin + BELOW_CHIN), first)
    steps = (1 / np.maximum(frame.scale * np.gradient(a), 1e-3) for a in (y, x))
    down, across = steps
    stretch = np.maximum(down[:, None], across[None])
    y = y + PAD
    shrink = min(frame.scale, 1.0)
    if shrink < 1:  # averaged first: sampling a large picture at few points would alias
        small = (round(SIDE * shrink), round((SIDE + PAD) * shrink))
        x = (x + 0.5) * small[0] / SIDE - 0.5
        y = (y + 0.5) * small[1] / (SIDE + PAD) - 0.5
        image, matte = (cv2.resize(a, small, interpolation=cv2.INTER_AREA) for a in (image, matte))
    maps = np.meshgrid(x.astype(np.float32), y.astype(np.float32))
    image, matte = (
        cv2.remap(a, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        for a in (image, matte)
    )
    if stretch.max() > 1.05:
        image, matte = _out_of_focus(image, matte, stretch.astype(np.float32))
    return image, matte
