"""A picture set into the larger one that its profile's frame asks for, and put together with it.

The border itself is drawn by whoever drew the picture (`mcap.diffusion.outpaint`); here is where it
lies, how it is joined, and whether the two fit together.

Pixels, (x, y), origin at the top left corner of the top left pixel. A cell is one position of the
drawing model's latents, ``factor`` pixels on a side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from mcap.framing.crop import Box, measure_framing
from mcap.framing.placement import Room, outside, place
from mcap.geometry.similarity_transform import clip

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mcap.contracts import Face, UInt8Image
    from mcap.framing.head import Head
    from mcap.style.profile import StyleProfile

MOST = 0.4
"""Of the finished picture, on each side: more is another picture."""

HAIR = 0.14
"""Hair reaches so far above the crown, of the head's height: of 42 people who do not exist, without
hats, the median."""

LARGER = 1.3
"""Times the pixels that the model draws at best may be drawn; a larger canvas is drawn smaller."""

WORST_SEAM = 20.0
"""Levels of 255 by which a picture may change more where its border begins than before."""

LIPS = 6.0
"""Lab units of red that lips must have more than the skin round them to be looked for elsewhere."""


@dataclass(frozen=True)
class Border:
    """The canvas on which a border is drawn."""

    box: Box
    """The finished picture, in pixels of the one that there is; reaches beyond it."""
    size: tuple[int, int]
    """(width, height) of the canvas in pixels, whole cells."""
    place: Box
    """Where the picture lies on the canvas: whole cells; a little beyond it where the box leaves
    whole cells of the picture out."""
    factor: int

    @property
    def known(self) -> NDArray[np.bool_]:
        """bool[h, w] on the latent grid: the cells that show the picture."""
        cells = np.zeros((self.size[1] // self.factor, self.size[0] // self.factor), bool)
        x0, y0, x1, y1 = (edge // self.factor for edge in self.place)
        cells[max(0, y0) : y1, max(0, x0) : x1] = True
        return cells

    def canvas(self, image: UInt8Image) -> UInt8Image:
        """Return the picture uint8[H, W, 3] on the canvas, its edges drawn out for the time."""
        x0, y0, x1, y1 = self.place
        reduced = cv2.resize(image, (x1 - x0, y1 - y0), interpolation=cv2.INTER_AREA)
        seen = reduced[max(0, -y0) : self.size[1] - y0, max(0, -x0) : self.size[0] - x0]
        sides = (max(0, y0), self.size[1] - y1, max(0, x0), self.size[0] - x1)
        top, bottom, left, right = (max(0, side) for side in sides)
        return np.asarray(
            cv2.copyMakeBorder(seen, top, bottom, left, right, cv2.BORDER_REPLICATE), np.uint8
        )


def plan_border(
    size: tuple[int, int],
    head: Head | None,
    profile: StyleProfile,
    *,
    factor: int,
    step: int,
    native_size: int,
) -> Border | None:
    """Return the canvas for the border that a picture of ``size`` lacks; None where it lacks none.

    None, too, where no head is to be framed, or where more than `MOST` would have to be drawn.
    ``native_size`` is the side in pixels of the square that the model draws best; its pictures'
    sides are multiples of ``step``, which is one of ``factor``.
    """
    if head is None or profile.framing.head_height is None:
        return None
    inside = place(size, profile.aspect_ratio, head, profile.framing)
    if measure_framing(inside, head, profile.framing).met:
        return None
    room = Room((MOST,) * 4)
    top = head.crown - HAIR * head.height
    box = place(size, profile.aspect_ratio, head, profile.framing, room, top=top)
    if not measure_framing(box, head, profile.framing).met or not any(outside(box, size)):
        return None
    pixels = (box[2] - box[0]) * (box[3] - box[1])
    zoom = min(1.0, math.sqrt(LARGER * native_size**2 / pixels))
    width, height = (max(1, round(side * zoom / step)) for side in size)  # of the picture, steps
    # Whole steps beyond each side; negative where the box leaves some of the picture out.
    across, down = width / size[0], height / size[1]  # steps a pixel
    left, up = math.ceil(-box[0] * across), math.ceil(-box[1] * down)
    right = math.ceil((box[2] - size[0]) * across)
    below = math.ceil((box[3] - size[1]) * down)
    where = (left, up, left + width, up + height)
    return Border(
        box,
        ((left + width + right) * step, (up + height + below) * step),
        tuple(edge * step for edge in where),  # type: ignore[arg-type]
        factor,
    )


def join(image: UInt8Image, drawn: UInt8Image, border: Border) -> tuple[UInt8Image, float]:
    """Return the finished picture uint8[h, w, 3] of ``border.box``, and how well the two fit.

    ``drawn`` is the whole canvas. Every pixel of ``image`` stays as it is but for those within half
    a cell of the border, which go over into it. The fit is `seam_step` of the worst side.
    """
    x0, y0, x1, y1 = border.box
    height, width = image.shape[:2]
    left, top, right, bottom = border.place
    across, down = width / (right - left), height / (bottom - top)  # pixels of one on the canvas
    # Finished pixels -> pixels of the canvas.
    matrix = np.array(
        [
            [1 / across, 0.0, x0 / across + left + 0.5 / across - 0.5],
            [0.0, 1 / down, y0 / down + top + 0.5 / down - 0.5],
        ]
    )
    how = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    finished = cv2.warpAffine(
        drawn, matrix, (x1 - x0, y1 - y0), flags=how, borderMode=cv2.BORDER_REPLICATE
    ).astype(np.float32)
    inner = clip(border.box, (width, height))
    own = image[inner[1] : inner[3], inner[0] : inner[2]].astype(np.float32)
    there = slice(inner[1] - y0, inner[3] - y0), slice(inner[0] - x0, inner[2] - x0)
    # Pixels to the nearest side at which there is a border.
    rows, columns = np.arange(inner[1], inner[3]) + 0.5, np.arange(inner[0], inner[2]) + 0.5
    far = np.full(own.shape[:2], np.inf, np.float32)
    for beyond, distance in zip(
        outside(border.box, (width, height)),
        (columns[None], rows[:, None], width - columns[None], height - rows[:, None]),
        strict=True,
    ):
        if beyond:
            far = np.minimum(far, distance)
    cell = border.factor * max(across, down)
    share = np.clip(far / (cell / 2), 0.0, 1.0)[..., None]
    finished[there] += share * (own - finished[there])
    steps = [
        seam_step(finished, side, depth, max(2, round(cell / 3)))
        for side, depth in enumerate((-x0, -y0, x1 - width, y1 - height))
        if depth > 0
    ]
    return np.clip(np.rint(finished), 0, 255).astype(np.uint8), max(steps, default=0.0)


def seam_step(image: NDArray[np.float32], side: int, depth: int, reach: int) -> float:
    """Measure how much sharper a picture changes where a border of ``depth`` pixels begins.

    The mean difference of two lines ``reach`` pixels apart across that place, less the median of
    that of lines in the picture itself, in levels of 255; 0 or more. ``image`` is float32[H, W, 3],
    ``side`` 0 to 3: left, top, right, bottom.
    """
    lines = cv2.GaussianBlur(np.rot90(image, (3, 0, 1, 2)[side]), (0, 0), 1.0)  # the side is up

    def change(row: int) -> float:
        low, high = (min(max(row + way, 0), len(lines) - 1) for way in (-reach // 2, reach // 2))
        return float(np.abs(lines[low] - lines[high]).mean())

    within = [change(depth + number * reach) for number in range(2, 10)]
    return max(0.0, change(depth) - float(np.median(within)))


def repeats_mouth(image: UInt8Image, face: Face, head: Head) -> bool:
    """Return whether something like the lips is seen again right below them in uint8[H, W, 3].

    A model that knows faces in one place of the picture only may draw a second mouth on the neck.
    Looked for by the red that lips have more than the skin, in pieces of about their size.
    """
    a = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)[..., 1].astype(np.float32)
    points = face.landmarks
    (left, y0), (right, y1) = points[3], points[4]
    wide = max(float(right - left), 4.0)
    middle = ((left + right) / 2, (y0 + y1) / 2)

    def part(x: float, y: float, w: float, h: float) -> NDArray[np.float32]:
        rows = slice(max(0, round(y - h / 2)), max(0, round(y + h / 2)) + 1)
        return a[rows, max(0, round(x - w / 2)) : max(0, round(x + w / 2)) + 1]

    lips = part(*middle, 0.7 * wide, 0.35 * wide)
    cheeks = part(middle[0], (points[2][1] + head.eyes) / 2, 1.4 * wide, 0.3 * wide)
    below = a[round(head.chin + 0.02 * head.height) :]
    if not lips.size or not cheeks.size or below.shape[0] < 4:
        return False
    skin, red = float(np.median(cheeks)), float(np.percentile(lips, 75))
    if red - skin < LIPS:
        return False
    spots = (below > skin + 0.5 * (red - skin)).astype(np.uint8)
    _, _, stats, centres = cv2.connectedComponentsWithStats(spots)
    sizes = stats[1:, cv2.CC_STAT_AREA] / (0.3 * wide**2)  # of the lips' own
    under = np.abs(centres[1:, 0] - middle[0]) < 0.4 * wide
    return bool((under & (sizes > 0.15) & (sizes < 3.0)).any())
