"""The size to draw, and the part of the drawn picture that becomes the finished one.

Pixels, (x, y), origin at the top left corner of the top left pixel; an aspect is width over
height. Cutting only ever takes away: nothing is scaled, padded or invented. To move the background
or to fill it with the profile's colour needs a segmenter and is not done here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mcap.contracts import BackboneInfo
    from mcap.framing.head import Head
    from mcap.style.profile import Framing

Box = tuple[int, int, int, int]  # x0, y0, x1, y1

SMALLEST_CUT = 0.5
"""A cut keeps at least this share of the largest possible height: a passport photo out of a quarter
of the pixels would have the right proportions and no detail."""


@dataclass(frozen=True)
class MeasuredFraming:
    """Where the head of a finished picture lies, against what its profile asks for."""

    head_height: float
    """Crown to chin, of the picture's height."""
    eye_line: float
    """Height of the eyes above the bottom edge, of the picture's height."""
    head_center_x: float
    met: bool
    """Whether all the ranges that the profile gives are kept."""


def sampling_size(info: BackboneInfo, aspect: float) -> tuple[int, int]:
    """Return (width, height) to draw for a profile's aspect, and to train its framing at.

    The backbone's native square where it draws nothing else; of the sizes that it was trained at
    the one of the nearest aspect, where it names them. Otherwise the sides, multiples of what the
    backbone asks for, whose area is near the native one: a model draws its training's area best,
    and repeats itself, with two heads for example, on a larger one.
    """
    if info.square_only:
        return info.native_size, info.native_size
    if info.trained_sizes:
        return min(info.trained_sizes, key=lambda size: abs(math.log(size[0] / size[1] / aspect)))
    step = info.multiple_of
    width = info.native_size * math.sqrt(aspect)
    height = info.native_size / math.sqrt(aspect)
    return max(step, round(width / step) * step), max(step, round(height / step) * step)


def largest_box(size: tuple[int, int], aspect: float) -> tuple[int, int]:
    """Return (width, height) of the largest box of that aspect in a picture, in whole pixels."""
    width, height = size
    if width / height > aspect:
        return max(1, min(width, round(height * aspect))), height
    return width, max(1, min(height, round(width / aspect)))


def cut(size: tuple[int, int], aspect: float, head: Head | None, framing: Framing) -> Box:
    """Return the box of the finished picture, inside a picture of ``size`` = (width, height).

    As large as can be, and round the head. Where the head is smaller than ``framing.head_height``
    allows, the box is made smaller, down to `SMALLEST_CUT`; where it is larger, there is nothing to
    be done but to draw another picture. The box's sides differ from ``aspect`` by rounding only.
    """
    width, height = largest_box(size, aspect)
    if head is None:
        left, top = round((size[0] - width) / 2), round((size[1] - height) / 2)
        return left, top, left + width, top + height
    if framing.head_height is not None and head.height / height < framing.head_height[0]:
        wanted = head.height / (sum(framing.head_height) / 2)
        most = (width, height)
        height = min(most[1], max(1, round(max(wanted, SMALLEST_CUT * most[1]))))
        width = min(most[0], max(1, round(height * aspect)))
    across = sum(framing.head_center_x) / 2 if framing.head_center_x else 0.5
    x0 = head.center_x - across * width
    if framing.eye_line is not None:
        y0 = head.eyes - (1 - sum(framing.eye_line) / 2) * height
    else:
        # A head sits a little above the middle; the more of it there is, the nearer to it.
        y0 = (head.crown + head.chin) / 2 - 0.47 * height
    left, top = clamped(round(x0), width, size[0]), clamped(round(y0), height, size[1])
    return left, top, left + width, top + height


def clamped(start: int, length: int, limit: int) -> int:
    """Return ``start`` moved so that ``length`` pixels from there lie inside; too long: centred."""
    if length > limit:
        return (limit - length) // 2
    return min(max(0, start), limit - length)


def measure_framing(box: Box, head: Head, framing: Framing) -> MeasuredFraming:
    """Measure how a head lies in a box, and whether that is what the profile wants."""
    width, height = box[2] - box[0], box[3] - box[1]
    head_height = head.height / height
    eye_line = (box[3] - head.eyes) / height
    center_x = (head.center_x - box[0]) / width
    met = all(
        wanted is None or wanted[0] <= value <= wanted[1]
        for value, wanted in (
            (head_height, framing.head_height),
            (eye_line, framing.eye_line),
            (center_x, framing.head_center_x),
        )
    )
    return MeasuredFraming(round(head_height, 4), round(eye_line, 4), round(center_x, 4), met)


def dots_per_inch(
    size: tuple[int, int], size_mm: tuple[float, float] | None
) -> tuple[float, float] | None:
    """Return the resolution at which a picture of ``size`` pixels prints ``size_mm`` large."""
    if size_mm is None:
        return None
    return size[0] / size_mm[0] * 25.4, size[1] / size_mm[1] * 25.4
