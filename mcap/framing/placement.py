"""Where the finished picture lies in the picture that there is, and how far it reaches beyond it.

`mcap.framing.crop.cut` only takes away. Here a finished picture may reach over the edges of the one
that there is, as far as what stands beyond an edge can be made up (`Room`): a head that fills its
picture can be given the space that a passport photo wants.

Pixels, (x, y), origin at the top left corner of the top left pixel; sides are in the order left,
top, right, bottom; shares are of the finished picture's width (left, right) or height.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mcap.framing.crop import Box, Head, largest

if TYPE_CHECKING:
    from mcap.style.profile import Framing

Sides = tuple[float, float, float, float]  # left, top, right, bottom

HEAD_DOUBT = 0.06
"""A head's height is aimed this fraction inside the profile's range, where the range is wide
enough: another detector puts the chin elsewhere. See docs/enhance.md for how much."""

EYES_DOUBT = 0.02
"""The same for the eyes' place, of the picture's height."""

MIDDLE_DOUBT = 0.01
"""The same for the head's, of the width: less, because what is missing beside a head is dear."""

_STEPS = 17  # places tried in each range


@dataclass(frozen=True)
class Room:
    """How much may be made up beyond each side, and how dear it is.

    ``limits`` are the largest shares of the finished picture; ``prices`` weigh a share against
    leaving the middle of the profile's ranges (1: a tenth of the picture costs as much as the
    inner end of one range).
    """

    limits: Sides = (0.0, 0.0, 0.0, 0.0)
    prices: Sides = (1.0, 1.0, 1.0, 1.0)


def place(
    size: tuple[int, int],
    aspect: float,
    head: Head | None,
    framing: Framing,
    room: Room | None = None,
    *,
    top: float | None = None,
) -> Box:
    """The finished picture's box, in whole pixels of a picture of ``size`` = (width, height).

    It may reach outside as far as ``room`` allows. Of the boxes that keep all the profile's ranges
    it is the one that makes up least, cuts off least hair (``top`` is the row where it begins) and
    lies nearest to the ranges' middles; where none keeps them, the one that comes closest. A range
    that the profile does not give asks for nothing: then it is the largest box inside.
    """
    room = room or Room()
    if head is None:
        width, height = largest(size, aspect)
        x0, y0 = (size[0] - width) // 2, (size[1] - height) // 2
        return x0, y0, x0 + width, y0 + height
    best: tuple[float, Box] | None = None
    inside = largest(size, aspect)
    for height in _heights(inside[1], head, framing):
        width = inside[0] if height == inside[1] else max(1, round(height * aspect))
        x0 = _across(width, size[0], head, framing, room)
        for y0 in _downward(height, size[1], head, framing):
            box = (x0, y0, x0 + width, y0 + height)
            shares = outside(box, size)
            if any(share > limit + 1e-9 for share, limit in zip(shares, room.limits, strict=True)):
                continue
            cost = _cost(box, head, framing, top)
            cost += sum(s * price for s, price in zip(shares, room.prices, strict=True))
            if best is None or cost < best[0]:
                best = cost, box
    if best is None:  # only where the rounding of thin pictures leaves nothing inside
        width, height = largest(size, aspect)
        return 0, 0, width, height
    return best[1]


def outside(box: Box, size: tuple[int, int]) -> Sides:
    """What of a box lies beyond each side of a picture of ``size``, as shares of the box."""
    x0, y0, x1, y1 = box
    width, height = x1 - x0, y1 - y0
    return (
        min(1.0, max(0, -x0) / width),
        min(1.0, max(0, -y0) / height),
        min(1.0, max(0, x1 - size[0]) / width),
        min(1.0, max(0, y1 - size[1]) / height),
    )


def _heights(inside: int, head: Head, framing: Framing) -> list[int]:
    """Heights to try. The largest inside is always one: it can always be had."""
    if framing.head_height is None or framing.head_height[1] <= 0:
        return [inside]
    low, high = _inner(framing.head_height, relative=HEAD_DOUBT)
    tried = [head.height / share for share in np.linspace(max(low, 1e-3), high, _STEPS)]
    return sorted({inside, *(max(8, round(height)) for height in tried)}, reverse=True)


def _downward(height: int, limit: int, head: Head, framing: Framing) -> list[int]:
    """Upper edges to try: over the whole of the range of the eyes, and inside the picture."""
    if framing.eye_line is not None:
        lines = np.linspace(*_inner(framing.eye_line, absolute=EYES_DOUBT), _STEPS)
        tried = [round(head.eyes - (1 - line) * height) for line in lines]
    else:
        # A head sits a little above the middle; the more of it there is, the nearer to it.
        tried = [round((head.crown + head.chin) / 2 - 0.47 * height)]
    return sorted({*tried, *(_clamped(y, height, limit) for y in tried)})


def _across(width: int, limit: int, head: Head, framing: Framing, room: Room) -> int:
    """The left edge: inside the picture where the range of the head's place allows it."""
    wanted = framing.head_center_x or (0.5, 0.5)
    low, high = _inner(wanted, absolute=MIDDLE_DOUBT)
    x0 = round(head.center_x - (low + high) / 2 * width)
    inside = _clamped(x0, width, limit)
    if framing.head_center_x is None:
        return inside
    kept = min(max(inside, round(head.center_x - high * width)), round(head.center_x - low * width))
    # Beyond what may be made up, the range has to give way.
    least = -round(room.limits[0] * width - 0.5)
    most = limit - width + round(room.limits[2] * width - 0.5)
    return min(max(kept, least), most) if least <= most else inside


def _clamped(start: int, length: int, limit: int) -> int:
    """``start`` moved so that ``length`` pixels from there lie inside; too long: to the middle."""
    if length > limit:
        return (limit - length) // 2
    return min(max(0, start), limit - length)


def _cost(box: Box, head: Head, framing: Framing, top: float | None) -> float:
    width, height = box[2] - box[0], box[3] - box[1]
    cost = 0.0
    for wanted, value, doubt in (
        (framing.head_height, head.height / height, None),
        (framing.eye_line, (box[3] - head.eyes) / height, EYES_DOUBT),
        (framing.head_center_x, (head.center_x - box[0]) / width, MIDDLE_DOUBT),
    ):
        if wanted is None:
            continue
        if doubt is None:
            low, high = _inner(wanted, relative=HEAD_DOUBT)
        else:
            low, high = _inner(wanted, absolute=doubt)
        missed = max(low - value, value - high, 0.0)
        # The pixels' rounding is no miss.
        cost += 100.0 * missed if missed > 1.0 / height else 0.0
        cost += 0.1 * ((value - (low + high) / 2) / max(wanted[1] - wanted[0], 0.02)) ** 2
    if top is not None:
        cost += 2.0 * max(0.0, box[1] - top) / height
    return cost


def _inner(
    wanted: tuple[float, float], *, relative: float = 0.0, absolute: float = 0.0
) -> tuple[float, float]:
    """A range less what measuring leaves open, never less than its middle."""
    low = wanted[0] * (1 + relative) + absolute
    high = wanted[1] * (1 - relative) - absolute
    if low > high:
        middle = (wanted[0] + wanted[1]) / 2
        return middle, middle
    return low, high
