"""Beyond the edge of a picture: the background and, a little way, the person who is cut off.

A canvas of H x W pixels holds the picture in the box ``known`` = (x0, y0, x1, y1); the rest is
extrapolated here. Nothing is drawn by a model: a plain background goes on as its own blurred
reflection, and a body as the last rows of the clothes, drawn out and ever softer, between shoulder
lines that go on as they were. It is meant for the tenth of a picture that a passport photo wants
below a close-up.

Colours are float32[H, W, 3] in [0, 1]; mattes float32[H, W] in [0, 1], 1 on the person.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from mcap.framing.silhouette import Silhouette, closing_slope, crown_overhang, silhouette, touches

if TYPE_CHECKING:
    from mcap.contracts import Float32Array
    from mcap.framing.crop import Box

STEEPEST = 2.5
"""A shoulder goes outwards by at most so many pixels a row: the lines of a few rows are uncertain,
and what is meant to go on for a tenth of the picture must not run away."""

NECKLINE = 0.8
"""A neck becomes narrower by so many pixels a row on either side, as in an open collar."""

NECK_HUE = 0.045
"""Shares of red and green within this of the face's are skin; white, grey, blue and black clothes
are off by more."""

NECK_SHADOW = 0.4
"""A neck is darker than the face by no more than this."""

NECK_WIDEST = 7.0
"""Half of the widest neck, in strips of STRIP of the head's height."""

STRIP = 0.06
"""Of the head's height: so many rows next to the edge are looked at."""

ROUGHNESS_FACE = 200.0  # height in pixels of a face when its background's roughness is measured

GRAIN_SEED = 20  # of the grain, which is the same each time


def extend_person(
    colours: Float32Array,
    matte: Float32Array,
    known: Box,
    head_height: float,
    skin: Float32Array | None = None,
    middle: float | None = None,
) -> tuple[Float32Array, Float32Array]:
    """Return a person's own colours and matte over the whole canvas, with what was cut off.

    ``head_height`` in pixels is the measure of how many rows are looked at. ``skin`` float32[3] is
    the face's colour: what has it at the lower edge is the neck, which narrows to a neckline
    instead of going on for ever. Inside ``known`` nothing changes, and beyond a side that the
    person does not touch there is no person.
    """
    height, width = matte.shape
    x0, y0, x1, y1 = known
    inner = matte[y0:y1, x0:x1]
    strip = int(np.clip(round(STRIP * head_height), 3, y1 - y0))
    map_x = np.tile(np.arange(width, dtype=np.float32), (height, 1))
    map_y = np.repeat(np.arange(height, dtype=np.float32)[:, None], width, axis=1)
    fade = np.ones_like(matte)
    neck = None
    if y1 < height:
        line = silhouette(inner, strip, top=False) if touches(inner, 3) else None
        if line is not None and skin is not None:
            under = line.middle if middle is None else middle - x0
            neck = find_neck(colours[y0:y1, x0:x1], inner, skin, under, strip)
        draw_downwards(map_x, map_y, fade, line, neck, known, strip)
    if y0 > 0:
        line = silhouette(inner, strip, top=True) if touches(inner, 1) else None
        draw_upwards(map_x, map_y, fade, line, known, strip)
    # Sideways after that: an arm goes on as the last columns, whether their rows are extrapolated
    # or not.
    columns = np.arange(width, dtype=np.float32)
    source = columns.copy()
    for side, beyond in ((0, columns < x0), (2, columns >= x1)):
        distance = np.maximum(x0 - columns, columns - (x1 - 1))[beyond]
        inwards = saturating(distance, 0.4 * strip)
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
    drawn = np.asarray(
        cv2.remap(both, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.float32
    )
    if y1 < height and neck is not None:
        even_out_neck(drawn, colours[y1 - strip : y1, x0:x1], neck, known, strip)
    softer = soften_outside(drawn, known, 0.02 * head_height)
    share = np.clip(soften_outside(drawn[..., 3], known, 0.004 * head_height) * fade, 0.0, 1.0)
    foreground = softer[..., :3] / np.maximum(softer[..., 3:], 1e-4)
    inside = np.zeros(matte.shape, bool)
    inside[y0:y1, x0:x1] = True
    return (
        np.where(inside[..., None], colours, np.clip(foreground, 0.0, 1.0)).astype(np.float32),
        np.where(inside, matte, share).astype(np.float32),
    )


def saturating(distance: np.ndarray, reach: float) -> np.ndarray:
    """Return a reflection that slows down: at first 1 pixel a pixel, never more than ``reach``."""
    return reach * (1.0 - np.exp(-distance / reach))


def find_neck(
    colours: Float32Array, matte: Float32Array, skin: Float32Array, middle: float, strip: int
) -> Silhouette | None:
    """Return where the lowest rows show bare skin under the chin; None where none does.

    Looked for round the column ``middle``, no further than a neck is wide. Skin in the shadow of a
    chin is darker and hardly of another hue, so it is known by its chromaticity (the shares of red
    and green in the colour), and hair, which can have that too, by being darker still.
    """

    def chromaticity(values: np.ndarray) -> np.ndarray:
        return values[..., :2] / np.maximum(values.sum(axis=-1, keepdims=True), 0.05)

    rows = colours[-strip:].mean(axis=0)
    near = np.abs(chromaticity(rows) - chromaticity(skin)).max(axis=-1) < NECK_HUE
    near &= (matte[-1] > 0.5) & (rows.sum(axis=-1) > NECK_SHADOW * skin.sum())
    near &= np.abs(np.arange(len(near)) - middle) < NECK_WIDEST * strip
    columns = np.flatnonzero(near)
    if len(columns) == 0:
        return None
    # A beard or a chain divides a neck; single columns are something else.
    runs = np.split(columns, np.flatnonzero(np.diff(columns) > strip // 4) + 1)
    run = np.concatenate([run for run in runs if len(run) >= strip / 3] or [columns[:0]])
    if len(run) < strip:
        return None
    return Silhouette(float(run[0]), float(run[-1] + 1), -NECKLINE, -NECKLINE)


def draw_downwards(
    map_x: np.ndarray,
    map_y: np.ndarray,
    fade: np.ndarray,
    line: Silhouette | None,
    neck: Silhouette | None,
    known: Box,
    strip: int,
) -> None:
    """Map the rows below ``known`` to the last ones of the person, in place.

    ``map_x`` and ``map_y`` float32[H, W] say where each pixel is taken from, ``fade`` [H, W] how
    much of the person is left there. ``line`` are the outer edges, ``neck`` the bare skin between
    the clothes, which narrows; columns of both count from the picture's left side.
    """
    x0, y1 = known[0], known[3]
    rows = np.arange(y1, len(map_y))
    if line is None:
        fade[rows] = 0.0
        return
    columns = np.arange(map_x.shape[1], dtype=np.float64)
    slopes = [min(max(slope, -0.2), STEEPEST) for slope in (line.left_slope, line.right_slope)]
    bare = [False, False]
    if neck is not None:
        # Where the skin is the outer edge there are no clothes to close it, and no shoulder yet.
        bare = [neck.left - line.left < strip / 8, line.right - neck.right < strip / 8]
        slopes = [
            min(slope, 0.5) if skin else slope for slope, skin in zip(slopes, bare, strict=True)
        ]
    for row in rows:
        depth = row - y1 + 1.0
        source = float(saturating(np.array(depth), float(strip)))
        map_y[row] = y1 - source
        # The outer edges here and in the row that this one is taken from.
        (left, left_from), (right, right_from) = (
            (edge + sign * slope * depth, edge - sign * slope * source)
            for edge, sign, slope in (
                (line.left, -1.0, slopes[0]),
                (line.right, 1.0, slopes[1]),
            )
        )
        if right - left < 2:
            fade[row] = 0.0
            continue
        here: list[float] = [left, right]
        there: list[float] = [left_from, right_from]
        if neck is not None:
            # Clothes beside a gap that closes, moved in proportion.
            half = max(neck.half - NECKLINE * depth, 0.0)
            if not bare[1]:
                here.insert(1, max(neck.middle + half, left))
                there.insert(1, neck.right)
            if not bare[0]:
                # Closed, from here on the two sides meet.
                here.insert(1, min(neck.middle - half, right) - (1e-3 if half == 0.0 else 0.0))
                there.insert(1, neck.left)
        to, source_of = np.array(here) + x0, np.array(there) + x0
        moved = np.interp(columns, to, source_of)
        # Beyond the outer edges everything is moved along with them.
        moved = np.where(columns < to[0], columns - to[0] + source_of[0], moved)
        map_x[row] = np.where(columns > to[-1], columns - to[-1] + source_of[-1], moved)


def even_out_neck(
    drawn: Float32Array, rows: Float32Array, neck: Silhouette, known: Box, strip: int
) -> None:
    """Bring the extrapolated neck towards its own mean colour, in place.

    ``drawn`` is premultiplied RGBA [H, W, 4], ``rows`` the picture's last ones. The shadow of the
    chin in their middle would be squeezed to a dark stroke where the neck narrows.
    """
    x0, y1 = known[0], known[3]
    across = rows[:, max(0, int(neck.left)) : int(neck.right)]
    mean = np.median(across.reshape(-1, 3), axis=0)
    columns = np.arange(drawn.shape[1])
    for row in range(y1, len(drawn)):
        depth = row - y1 + 1
        half = max(neck.half - NECKLINE * depth, 0.0)
        inside = np.abs(columns + 0.5 - x0 - neck.middle) < half
        share = 0.85 * min(1.0, depth / strip)
        there = drawn[row, inside]
        there[:, :3] += share * (mean * there[:, 3:] - there[:, :3])
        drawn[row, inside] = there


def draw_upwards(
    map_x: np.ndarray,
    map_y: np.ndarray,
    fade: np.ndarray,
    line: Silhouette | None,
    known: Box,
    strip: int,
) -> None:
    """Map the rows above ``known`` to the first ones of a head, closed by its circle, in place.

    Arguments as in `draw_downwards`.
    """
    x0, y0, _, _ = known
    rows = np.arange(0, y0)
    if line is None:
        fade[rows] = 0.0
        return
    depth = (y0 - rows).astype(np.float32)
    source = saturating(depth, 0.4 * strip)
    map_y[rows] = (y0 - 1 + source)[:, None]
    middle, rise = x0 + line.middle, crown_overhang(line)
    slope = closing_slope(line)
    below = slope * line.half  # the circle's centre lies so far below the edge
    radius = np.hypot(line.half, below)
    here = np.sqrt(np.maximum(radius**2 - (below + depth) ** 2, 1.0))
    there = line.half + slope * source
    map_x[rows] = middle + (map_x[rows] - middle) * (there / here)[:, None]
    fade[rows] = np.clip((rise - depth) / max(2.0, 0.05 * rise) + 0.5, 0.0, 1.0)[:, None]


def wide_blur(values: np.ndarray, sigma: float) -> np.ndarray:
    """Return a Gaussian blur; a wide one is worked out on a reduced copy, at next to no cost."""
    by = int(sigma / 4)
    if by < 2 or min(values.shape[:2]) < 2 * by:
        return cv2.GaussianBlur(values, (0, 0), max(0.5, sigma))
    size = values.shape[1::-1]
    smaller = tuple(max(1, round(side / by)) for side in size)
    reduced = cv2.resize(values, smaller, interpolation=cv2.INTER_AREA)
    blurred = cv2.GaussianBlur(reduced, (0, 0), sigma * smaller[0] / size[0])
    return cv2.resize(blurred, size, interpolation=cv2.INTER_LINEAR)


def soften_outside(values: np.ndarray, known: Box, radius: float) -> np.ndarray:
    """Blur the more, the further a pixel lies outside ``known``; inside nothing changes."""
    distance = distance_outside(values.shape[:2], known)
    distance = distance[..., None] if values.ndim == 3 else distance
    for sigma, begins, full in ((0.5, 0.0, 3.0), (0.9, 2.0, 10.0)):
        share = (distance / max(radius, 1.0) - begins) / (full - begins)
        values = values + np.clip(share, 0.0, 1.0) * (wide_blur(values, sigma * radius) - values)
    return values


def distance_outside(shape: tuple[int, int], known: Box) -> np.ndarray:
    """Return float32[H, W], the pixels to the box ``known``; 0 inside."""
    x0, y0, x1, y1 = known
    columns, rows = np.arange(shape[1]), np.arange(shape[0])
    across = np.maximum(np.maximum(x0 - columns, columns - (x1 - 1)), 0)
    down = np.maximum(np.maximum(y0 - rows, rows - (y1 - 1)), 0)
    return np.hypot(down[:, None], across[None, :]).astype(np.float32)


def extend_background(image: Float32Array, matte: Float32Array, known: Box) -> Float32Array:
    """Return the background over the whole canvas: its blurred reflection beyond ``known``.

    The person is left out of what is reflected (``matte`` float32[H, W]); inside ``known`` the
    result is the picture. The blur grows with the distance, and the grain of the picture's own
    background goes on.
    """
    x0, y0, x1, y1 = known
    height, width = matte.shape
    border = np.array((y0, height - y1, x0, width - x1))  # top, bottom, left, right
    free = np.clip(1.0 - 1.05 * matte[y0:y1, x0:x1], 0.0, 1.0)
    free = cv2.erode(free, np.ones((3, 3), np.uint8))
    seen = np.dstack([image[y0:y1, x0:x1] * free[..., None], free])
    while border.any():
        # OpenCV reflects at most what there is; a large border is reflected several times.
        limits = np.repeat(seen.shape[:2], 2) - 1
        now = np.clip(border, 0, limits)
        border = border - now
        top, bottom, left, right = (int(length) for length in now)
        seen = cv2.copyMakeBorder(seen, top, bottom, left, right, cv2.BORDER_REFLECT_101)
        if not now.any():
            top, bottom, left, right = (int(length) for length in border)
            seen = cv2.copyMakeBorder(seen, top, bottom, left, right, cv2.BORDER_REPLICATE)
            break
    size = max(y1 - y0, x1 - x0)
    whole = seen[..., :3].reshape(-1, 3).sum(axis=0) / max(float(seen[..., 3].sum()), 1.0)
    filled = np.broadcast_to(whole, (height, width, 3)).astype(np.float32)
    distance = distance_outside((height, width), known)
    for sigma in (0.2 * size, 0.06 * size, 0.02 * size, 0.006 * size):
        blurred = wide_blur(seen, max(0.6, sigma))
        known_here = np.clip(blurred[..., 3] / 0.05, 0.0, 1.0)
        # The nearer to the picture, the sharper; the widest serves everywhere.
        near = np.clip(1.5 - distance / (4.0 * sigma), 0.0, 1.0) if sigma < 0.1 * size else 1.0
        mean = blurred[..., :3] / np.maximum(blurred[..., 3:], 1e-4)
        filled = filled + (known_here * near)[..., None] * (mean - filled)
    filled = filled + grain(image[y0:y1, x0:x1], np.asarray(free), (height, width))
    result = np.clip(filled, 0.0, 1.0).astype(np.float32)
    result[y0:y1, x0:x1] = image[y0:y1, x0:x1]
    return result


def grain(image: np.ndarray, free: np.ndarray, size: tuple[int, int]) -> Float32Array:
    """Return noise as strong as the background's own: float32[H, W, 1]."""
    luma = image.mean(axis=-1)
    fine = (luma - cv2.GaussianBlur(luma, (0, 0), 1.5))[free > 0.95]
    deviation = 1.4826 * float(np.median(np.abs(fine))) if len(fine) > 50 else 0.0
    noise = np.random.default_rng(GRAIN_SEED).standard_normal(size).astype(np.float32)
    return (min(deviation, 0.03) * noise)[..., None]


def roughness(image: Float32Array, matte: Float32Array, side: int, face_height: float) -> float:
    """Measure how much there is to see in the background next to a side, as in `Silhouette`.

    The standard deviation of the background's brightness round its own blur of a fifth of the
    face's height, within a third of it from the side; 0 is a plain wall. Infinite where there is no
    background.
    """
    turned = np.rot90(np.dstack([image, matte]), (3, 0, 1, 2)[side])  # the side is up
    depth = max(4, round(face_height / 3))
    turned = np.ascontiguousarray(turned[: 2 * depth])
    by = max(1.0, face_height / ROUGHNESS_FACE)
    if by > 1.0:
        size = tuple(max(1, round(length / by)) for length in turned.shape[1::-1])
        turned = np.asarray(cv2.resize(turned, size, interpolation=cv2.INTER_AREA), np.float32)
        depth = max(2, round(depth / by))
    free = (turned[..., 3] < 0.05).astype(np.float32)  # float32[h, w]
    if free[:depth].mean() < 0.02:
        return float("inf")
    luma = turned[..., :3].mean(axis=-1).astype(np.float32)
    sigma = max(1.0, 0.2 * face_height / by)
    weight = np.maximum(wide_blur(free, sigma), 1e-4)
    smooth = wide_blur(luma * free, sigma) / weight
    squares = ((luma - smooth) ** 2 * free)[:depth]
    return float(np.sqrt(squares.sum() / max(float(free[:depth].sum()), 1.0)))
