"""Beyond the edge of a picture: background and, a little way, the person who is cut off there.

A canvas of H x W pixels holds the picture in the box ``known`` = (x0, y0, x1, y1); the rest is made
up here. Nothing is drawn by a model: a plain background goes on as its own blurred reflection, and
a body as the last rows of the clothes, drawn out and ever softer, between shoulder lines that go on
as they were. It is meant for the tenth of a picture that a passport photo wants below a close-up.

Colours are float32[H, W, 3] in [0, 1]; mattes float32[H, W] in [0, 1], 1 on the person.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from mcap.contracts import Float32Array
    from mcap.framing import Box

STEEPEST = 1.6
"""A shoulder goes outwards by at most so many pixels a row: the lines of a few rows are uncertain,
and what is meant to go on for a tenth of the picture must not run away."""

NECKLINE = 0.8
"""A neck becomes narrower by so many pixels a row on either side, as in an open collar."""

NECK_HUE = 0.045
"""Shares of red and green within this of the face's are skin; white, grey, blue and black clothes
are off by more."""

_SEED = 20  # of the grain, which is the same each time


@dataclass(frozen=True)
class Outline:
    """The person's left and right edge in the rows next to an edge of the picture.

    ``left`` and ``right`` are the columns at the very edge; the slopes are in pixels outwards per
    row away from the person's middle, 0 where the person reaches the picture's side.
    """

    left: float
    right: float
    left_slope: float
    right_slope: float

    @property
    def middle(self) -> float:
        return (self.left + self.right) / 2

    @property
    def half(self) -> float:
        return max((self.right - self.left) / 2, 1.0)


def touches(matte: Float32Array, side: int) -> bool:
    """Whether the picture cuts the person off at its left, top, right or bottom side (0 to 3)."""
    line = (matte[:, 0], matte[0], matte[:, -1], matte[-1])[side]
    return bool((line > 0.5).mean() > 0.01)


def outline(matte: Float32Array, strip: int, *, top: bool) -> Outline | None:
    """The person's edges in the lowest (``top``: the highest) ``strip`` rows; None: nobody there.

    float32[H, W] -> columns and slopes, by the median of the rows' slopes.
    """
    rows = matte[: max(2, strip)] if top else matte[-max(2, strip) :][::-1]
    columns = np.arange(matte.shape[1])
    lefts, rights = [], []
    for row in rows:
        inside = columns[row > 0.5]
        if len(inside) == 0:
            break
        lefts.append(inside[0])
        rights.append(inside[-1] + 1)
    if not lefts:
        return None
    left, right = np.array(lefts, float), np.array(rights, float)

    def outwards(edge: np.ndarray, sign: float) -> float:
        # Towards the picture's edge the row number falls: an edge that moves outwards there has
        # a positive slope.
        if len(edge) < 3:
            return 0.0
        distance = np.arange(1, len(edge))
        return float(np.median(sign * (edge[0] - edge[1:]) / distance))

    left_slope = 0.0 if left[0] <= 0 else outwards(left, -1.0)
    right_slope = 0.0 if right[0] >= matte.shape[1] else outwards(right, 1.0)
    return Outline(float(left[0]), float(right[0]), left_slope, right_slope)


def cap(line: Outline) -> float:
    """How far above the picture's edge a head's top reaches that the edge cuts off, in pixels.

    By the circle that goes through the two places where the edge cuts it, with the slope that the
    outline has there: for half a chord w that widens by m pixels a row, w (sqrt(1 + m^2) - m).
    """
    slope = max((-line.left_slope - line.right_slope) / 2, 0.15)
    return line.half * (np.sqrt(1 + slope * slope) - slope)


def extend_person(
    colours: Float32Array,
    matte: Float32Array,
    known: Box,
    head_height: float,
    skin: Float32Array | None = None,
) -> tuple[Float32Array, Float32Array]:
    """A person's own colours and matte over the whole canvas -> the same, with what was cut off.

    ``head_height`` in pixels is the measure of how many rows are looked at. ``skin`` float32[3] is
    the face's colour: what has it at the lower edge is the neck, which narrows to a neckline
    instead of going on for ever. Inside ``known`` nothing changes, and beyond a side that the
    person does not touch there is no person.
    """
    height, width = matte.shape
    x0, y0, x1, y1 = known
    inner = matte[y0:y1, x0:x1]
    strip = int(np.clip(round(0.06 * head_height), 3, y1 - y0))
    map_x = np.tile(np.arange(width, dtype=np.float32), (height, 1))
    map_y = np.repeat(np.arange(height, dtype=np.float32)[:, None], width, axis=1)
    fade = np.ones_like(matte)
    if y1 < height:
        line = outline(inner, strip, top=False) if touches(inner, 3) else None
        neck = None if skin is None else _neck(colours[y0:y1, x0:x1], inner, skin, strip)
        _downwards(map_x, map_y, fade, line, neck, known, strip)
    if y0 > 0:
        line = outline(inner, strip, top=True) if touches(inner, 1) else None
        _upwards(map_x, map_y, fade, line, known, strip)
    # Sideways after that: an arm goes on as the last columns, whether their rows are made up or
    # not.
    columns = np.arange(width, dtype=np.float32)
    source = columns.copy()
    for side, beyond in ((0, columns < x0), (2, columns >= x1)):
        distance = np.maximum(x0 - columns, columns - (x1 - 1))[beyond]
        inwards = _saturating(distance, float(strip))
        source[beyond] = x0 + inwards if side == 0 else x1 - 1 - inwards
        if not touches(inner, side):
            fade[:, beyond] = 0.0
    nearest = np.clip(np.round(source), x0, x1 - 1).astype(int)
    map_x, map_y = map_x[:, nearest], map_y[:, nearest]
    fade = np.minimum(fade, fade[:, nearest])
    map_x = np.clip(map_x, x0, x1 - 1).astype(np.float32)
    map_y = np.clip(map_y, y0, y1 - 1).astype(np.float32)
    # Premultiplied, so that no background colour comes along at the edge.
    both = np.dstack([colours * matte[..., None], matte])
    drawn = cv2.remap(both, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    softer = _softer_outside(drawn, known, 0.02 * head_height)
    share = np.clip(_softer_outside(drawn[..., 3], known, 0.004 * head_height) * fade, 0.0, 1.0)
    pure = softer[..., :3] / np.maximum(softer[..., 3:], 1e-4)
    inside = np.zeros(matte.shape, bool)
    inside[y0:y1, x0:x1] = True
    return (
        np.where(inside[..., None], colours, np.clip(pure, 0.0, 1.0)).astype(np.float32),
        np.where(inside, matte, share).astype(np.float32),
    )


def _saturating(distance: np.ndarray, reach: float) -> np.ndarray:
    """A reflection that slows down: 1 pixel for a pixel at the edge, never more than ``reach``."""
    return reach * (1.0 - np.exp(-distance / reach))


def _neck(
    colours: Float32Array, matte: Float32Array, skin: Float32Array, strip: int
) -> Outline | None:
    """Where the lowest rows show bare skin: its widest run, as an outline; None where none does.

    Skin in the shadow of a chin is darker and hardly of another hue, so it is known by its
    chromaticity: the shares of red and green in the colour.
    """

    def chromaticity(values: np.ndarray) -> np.ndarray:
        return values[..., :2] / np.maximum(values.sum(axis=-1, keepdims=True), 0.05)

    rows = colours[-strip:].mean(axis=0)
    near = np.abs(chromaticity(rows) - chromaticity(skin)).max(axis=-1) < NECK_HUE
    near &= (matte[-1] > 0.5) & (rows.max(axis=-1) > 0.15)
    columns = np.flatnonzero(near)
    if len(columns) == 0:
        return None
    runs = np.split(columns, np.flatnonzero(np.diff(columns) > max(2, strip // 4)) + 1)
    run = max(runs, key=len)
    if len(run) < strip:
        return None
    return Outline(float(run[0]), float(run[-1] + 1), -NECKLINE, -NECKLINE)


def _downwards(
    map_x: np.ndarray,
    map_y: np.ndarray,
    fade: np.ndarray,
    line: Outline | None,
    neck: Outline | None,
    known: Box,
    strip: int,
) -> None:
    x0, y1 = known[0], known[3]
    rows = np.arange(y1, len(map_y))
    if line is None:
        fade[rows] = 0.0
        return
    columns = np.arange(map_x.shape[1], dtype=np.float64)
    for row in rows:
        depth = row - y1 + 1.0
        source = float(_saturating(np.array(depth), float(strip)))
        map_y[row] = y1 - source
        # Where four lines are in this row (the outer edges, the neck's) and in the row it is
        # taken from; columns between them are moved in proportion.
        here, there = [], []
        for edge, sign, slope in (
            (line.left, -1.0, line.left_slope),
            (line.right, 1.0, line.right_slope),
        ):
            slope = float(np.clip(slope, -0.2, STEEPEST))
            here.append(edge + sign * slope * depth)
            there.append(edge - sign * slope * source)
        if neck is not None:
            narrowed = max(neck.half - NECKLINE * depth, 0.0)
            inner = (neck.middle - narrowed, neck.middle + narrowed)
            if here[0] < inner[0] and inner[1] < here[1]:
                here = [here[0], *inner, here[1]]
                there = [there[0], neck.left, neck.right, there[1]]
        if here[-1] - here[0] < 2:
            fade[row] = 0.0
            continue
        here, there = np.array(here) + x0, np.array(there) + x0
        steps = np.diff(here, prepend=here[0] - 1)
        here, there = here[steps > 1e-6], there[steps > 1e-6]
        moved = np.interp(columns, here, there)
        # Beyond the outer edges everything is moved along with them.
        moved = np.where(columns < here[0], columns - here[0] + there[0], moved)
        map_x[row] = np.where(columns > here[-1], columns - here[-1] + there[-1], moved)


def _upwards(
    map_x: np.ndarray,
    map_y: np.ndarray,
    fade: np.ndarray,
    line: Outline | None,
    known: Box,
    strip: int,
) -> None:
    x0, y0, _, _ = known
    rows = np.arange(0, y0)
    if line is None:
        fade[rows] = 0.0
        return
    depth = (y0 - rows).astype(np.float32)
    source = _saturating(depth, 2.0 * strip)
    map_y[rows] = (y0 - 1 + source)[:, None]
    middle, rise = x0 + line.middle, cap(line)
    slope = max((-line.left_slope - line.right_slope) / 2, 0.15)
    below = slope * line.half  # the circle's centre lies so far below the edge
    radius = np.hypot(line.half, below)
    here = np.sqrt(np.maximum(radius**2 - (below + depth) ** 2, 1.0))
    there = line.half + slope * source
    map_x[rows] = middle + (map_x[rows] - middle) * (there / here)[:, None]
    fade[rows] = np.clip((rise - depth) / max(2.0, 0.05 * rise) + 0.5, 0.0, 1.0)[:, None]


def _softer_outside(values: Float32Array, known: Box, radius: float) -> Float32Array:
    """Blurred the more, the further a pixel lies outside ``known``; untouched inside."""
    share = np.clip(distance_outside(values.shape[:2], known) / max(3.0 * radius, 1.0), 0.0, 1.0)
    share = share[..., None] if values.ndim == 3 else share
    blurred = cv2.GaussianBlur(values, (0, 0), max(0.5, radius / 2))
    return values + share * (blurred - values)


def distance_outside(shape: tuple[int, int], known: Box) -> np.ndarray:
    """float32[H, W]: pixels to the box ``known``; 0 inside."""
    x0, y0, x1, y1 = known
    columns, rows = np.arange(shape[1]), np.arange(shape[0])
    across = np.maximum(np.maximum(x0 - columns, columns - (x1 - 1)), 0)
    down = np.maximum(np.maximum(y0 - rows, rows - (y1 - 1)), 0)
    return np.hypot(down[:, None], across[None, :]).astype(np.float32)


def extend_background(image: Float32Array, matte: Float32Array, known: Box) -> Float32Array:
    """The background over the whole canvas: its blurred reflection beyond ``known``.

    The person is left out of what is reflected (``matte`` float32[H, W]); inside ``known`` the
    result is the picture. The blur grows with the distance, and the grain of the picture's own
    background goes on.
    """
    x0, y0, x1, y1 = known
    height, width = matte.shape
    border = (y0, height - y1, x0, width - x1)
    free = np.clip(1.0 - 1.05 * matte[y0:y1, x0:x1], 0.0, 1.0)
    free = cv2.erode(free, np.ones((3, 3), np.uint8))
    seen = np.dstack([image[y0:y1, x0:x1] * free[..., None], free])
    while any(border):
        # OpenCV reflects at most what there is; a large border is reflected several times.
        limits = (seen.shape[0] - 1,) * 2 + (seen.shape[1] - 1,) * 2
        now = tuple(max(0, min(wanted, most)) for wanted, most in zip(border, limits, strict=True))
        seen = cv2.copyMakeBorder(seen, *now, cv2.BORDER_REFLECT_101)
        border = tuple(wanted - done for wanted, done in zip(border, now, strict=True))
        if not any(now):
            seen = cv2.copyMakeBorder(seen, *border, cv2.BORDER_REPLICATE)
            break
    size = max(y1 - y0, x1 - x0)
    whole = seen[..., :3].reshape(-1, 3).sum(axis=0) / max(float(seen[..., 3].sum()), 1.0)
    filled = np.broadcast_to(whole, (height, width, 3)).astype(np.float32)
    distance = distance_outside((height, width), known)
    for sigma in (0.2 * size, 0.06 * size, 0.02 * size, 0.006 * size):
        blurred = cv2.GaussianBlur(seen, (0, 0), max(0.6, sigma))
        known_here = np.clip(blurred[..., 3] / 0.05, 0.0, 1.0)
        # The nearer to the picture, the sharper; the widest serves everywhere.
        near = np.clip(1.5 - distance / (4.0 * sigma), 0.0, 1.0) if sigma < 0.1 * size else 1.0
        mean = blurred[..., :3] / np.maximum(blurred[..., 3:], 1e-4)
        filled = filled + (known_here * near)[..., None] * (mean - filled)
    filled += _grain(image[y0:y1, x0:x1], free, (height, width))
    result = np.clip(filled, 0.0, 1.0).astype(np.float32)
    result[y0:y1, x0:x1] = image[y0:y1, x0:x1]
    return result


def _grain(image: Float32Array, free: Float32Array, size: tuple[int, int]) -> Float32Array:
    """Noise as strong as the background's own: float32[H, W, 1]."""
    luma = image.mean(axis=-1)
    fine = (luma - cv2.GaussianBlur(luma, (0, 0), 1.5))[free > 0.95]
    deviation = 1.4826 * float(np.median(np.abs(fine))) if len(fine) > 50 else 0.0
    noise = np.random.default_rng(_SEED).standard_normal(size).astype(np.float32)
    return (min(deviation, 0.03) * noise)[..., None]


def roughness(image: Float32Array, matte: Float32Array, side: int, face_height: float) -> float:
    """How much there is to see in the background next to a side (0 to 3: left, top, right, bottom).

    The standard deviation of the background's brightness round its own blur of a fifth of the
    face's height, within a third of it from the side; 0 is a plain wall. Infinite where there is no
    background.
    """
    depth = max(4, round(face_height / 3))
    turned = np.rot90(np.dstack([image, matte]), (3, 0, 1, 2)[side])  # the side is up
    free = (turned[..., 3] < 0.05).astype(np.float32)
    luma = turned[..., :3].mean(axis=-1).astype(np.float32)
    luma, free = luma[: 2 * depth], free[: 2 * depth]
    if free[:depth].mean() < 0.02:
        return float("inf")
    sigma = max(1.0, 0.2 * face_height)
    weight = np.maximum(cv2.GaussianBlur(free, (0, 0), sigma), 1e-4)
    smooth = cv2.GaussianBlur(luma * free, (0, 0), sigma) / weight
    squares = ((luma - smooth) ** 2 * free)[:depth]
    return float(np.sqrt(squares.sum() / max(float(free[:depth].sum()), 1.0)))
