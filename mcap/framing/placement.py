"""Where the finished picture lies in the one that there is, and how far it reaches beyond it.

`mcap.framing.crop.cut` only takes away. Here a finished picture may reach over the edges of the one
that there is, as far as what stands beyond an edge can be extrapolated (`Room`): a head that fills
its picture can be given the space that a passport photo wants.

Pixels, (x, y), origin at the top left corner of the top left pixel; sides are in the order left,
top, right, bottom; shares are of the finished picture's width (left, right) or height.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import numpy as np

from mcap.framing.crop import Box, clamped, largest_box, measure_framing
from mcap.framing.extend_canvas import STEEPEST, roughness
from mcap.framing.silhouette import crown_overhang, silhouette, touches
from mcap.geometry.similarity_transform import clip

if TYPE_CHECKING:
    from mcap.contracts import Float32Array
    from mcap.framing.head import Head
    from mcap.framing.matting import Cutout
    from mcap.framing.settings import FinishSettings
    from mcap.style.profile import Framing

Sides = tuple[float, float, float, float]  # left, top, right, bottom

HEAD_DOUBT = 0.06
"""A head's height is aimed this fraction inside the profile's range, where the range is wide
enough: another detector puts the chin elsewhere. See docs/enhance.md for how much."""

EYES_DOUBT = 0.02
"""The same for the eyes' place, of the picture's height."""

MIDDLE_DOUBT = 0.01
"""The same for the head's, of the width: less, because a side of a head has a high penalty."""

STEPS = 17  # places tried in each range

PERSON_PENALTIES: Sides = (6.0, 8.0, 6.0, 4.0)
"""Of extrapolating a person's left, top, right and lower side (`Room`): clothes can be drawn out
further than hair before one sees it."""

BACKGROUND_PENALTY = 1.0
COLOUR_PENALTY = 0.2  # of the profile's own colour

ASIDE = 0.4
"""Of `FinishSettings.extend_person`, what goes for the other sides than the lower one: of a head or
an arm no more than a rim can be extrapolated."""


class PersonInPicture:
    """The share of a person that a box would have beyond the edges of their picture.

    Beyond the lower edge the shoulders go on as they were, above the upper one a head closes as a
    circle does, beyond a side the last column goes on: as `mcap.framing.extend_canvas` draws them.
    """

    def __init__(self, matte: Float32Array, scale: float, head_height: float) -> None:
        """``matte`` float32[h, w] has ``scale`` of the picture's pixels on a side."""
        self.scale = scale
        self.cut_off = tuple(touches(matte, side) for side in range(4))
        self.sums = np.pad(matte.cumsum(axis=0, dtype=np.float64).cumsum(axis=1), ((1, 0), (1, 0)))
        strip = max(3, round(0.06 * head_height))
        below = silhouette(matte, strip, top=False) if self.cut_off[3] else None
        above = silhouette(matte, strip, top=True) if self.cut_off[1] else None
        slopes = (below.left_slope, below.right_slope) if below else ()
        self.spread = sum(min(max(slope, -0.2), STEEPEST) for slope in slopes)
        self.rise = crown_overhang(above) if above else 0.0

    def share_beyond(self, box: Box) -> float:
        """Return the share of the person's pixels in a box that lie beyond the picture, 0 to 1.

        ``box`` in the picture's pixels.
        """
        height, width = self.sums.shape[0] - 1, self.sums.shape[1] - 1
        here = cast("Box", tuple(round(edge * self.scale) for edge in box))
        x0, y0, x1, y1 = clip(here, (width, height))

        def mass(left: int, top: int, right: int, bottom: int) -> float:
            corners = self.sums[[top, top, bottom, bottom], [left, right, left, right]]
            return float(corners @ (1.0, -1.0, -1.0, 1.0))

        left, up, right, down = (
            max(0, far) for far in (-here[0], -here[1], here[2] - width, here[3] - height)
        )
        beyond = 0.0
        if self.cut_off[3] and down:
            wide = mass(x0, height - 1, x1, height)
            beyond += min(wide * down + self.spread * down**2 / 2, float((x1 - x0) * down))
        if self.cut_off[1] and up:
            # Two thirds of its chord times its height: a flat segment of a circle.
            beyond += mass(x0, 0, x1, 1) * min(up, self.rise) * 2 / 3
        if self.cut_off[0]:
            beyond += mass(0, y0, 1, y1) * left
        if self.cut_off[2]:
            beyond += mass(width - 1, y0, width, y1) * right
        return beyond / max(beyond + mass(x0, y0, x1, y1), 1.0)


@dataclass(frozen=True, eq=False)
class Room:
    """The limit and the penalty of extrapolating beyond each side.

    ``limits`` are the largest shares of the finished picture; ``penalties`` weigh a share against
    leaving the middle of the profile's ranges (1: a tenth of the picture costs as much as the
    inner end of one range). Of a ``person`` at most ``most`` of the pixels is extrapolated.
    """

    limits: Sides = (0.0, 0.0, 0.0, 0.0)
    penalties: Sides = (1.0, 1.0, 1.0, 1.0)
    person: PersonInPicture | None = None
    most: float = 1.0

    def without_person(self) -> Room:
        """Return the room that is left where nobody is extrapolated."""
        if self.person is None:
            return self
        limits = (
            0.0 if cut_off else limit
            for cut_off, limit in zip(self.person.cut_off, self.limits, strict=True)
        )
        return replace(self, limits=cast("Sides", tuple(limits)))

    def allows(self, box: Box, shares: Sides) -> bool:
        """Return whether a box that reaches ``shares`` beyond the sides keeps to the limits."""
        if any(share > limit + 1e-9 for share, limit in zip(shares, self.limits, strict=True)):
            return False
        return self.person is None or not any(shares) or self.person.share_beyond(box) <= self.most


def room_around(
    cutout: Cutout, settings: FinishSettings, open_sides: frozenset[int] = frozenset()
) -> Room:
    """Return how far a picture may go on beyond each side, by what its background is like there.

    Nobody is drawn out beyond ``open_sides``, at which the picture itself ends sooner or somebody
    else stands.
    """
    matte = cutout.layers.matte
    rough = [roughness(cutout.image, matte, side, cutout.head.height) for side in range(4)]
    limits, penalties = [], []
    for side in range(4):
        cut_off = cutout.touches(side)
        # Where the person fills the side, another side's background says what it is like.
        here = rough[side] if np.isfinite(rough[side]) else min(rough)
        plain = cutout.coloured or here <= settings.plain
        most = settings.extend_background
        if cut_off:
            most = settings.extend_person * (1.0 if side == 3 else ASIDE)
        if cut_off and (not cutout.sure or side in open_sides):
            most = 0.0
        limits.append(most if plain else 0.0)
        plain_penalty = COLOUR_PENALTY if cutout.coloured else BACKGROUND_PENALTY
        penalties.append(PERSON_PENALTIES[side] if cut_off else plain_penalty)
    person = PersonInPicture(matte, cutout.scale, cutout.head.height) if cutout.sure else None
    return Room(
        cast("Sides", tuple(limits)),
        cast("Sides", tuple(penalties)),
        person,
        settings.extrapolated_person,
    )


def place(
    size: tuple[int, int],
    aspect: float,
    head: Head | None,
    framing: Framing,
    room: Room | None = None,
    *,
    top: float | None = None,
) -> Box:
    """Return the finished picture's box, in whole pixels of one of ``size`` = (width, height).

    It may reach outside as far as ``room`` allows. Of the boxes that keep all the profile's ranges
    it is the one that extrapolates least, cuts off least hair (``top`` is the row where it begins)
    and lies nearest to the ranges' middles; where none keeps them, the one that comes closest. A
    range that the profile does not give asks for nothing: then it is the largest box inside.
    """
    room = room or Room()
    if head is None:
        width, height = largest_box(size, aspect)
        x0, y0 = (size[0] - width) // 2, (size[1] - height) // 2
        return x0, y0, x0 + width, y0 + height
    best: tuple[float, Box] | None = None
    inside = largest_box(size, aspect)
    for height in candidate_heights(inside[1], head, framing):
        width = inside[0] if height == inside[1] else max(1, round(height * aspect))
        x0 = left_edge(width, size[0], head, framing, room)
        for y0 in candidate_tops(height, size[1], head, framing):
            box = (x0, y0, x0 + width, y0 + height)
            shares = outside(box, size)
            if not room.allows(box, shares):
                continue
            cost = framing_penalty(box, head, framing, top)
            cost += sum(s * penalty for s, penalty in zip(shares, room.penalties, strict=True))
            if best is None or cost < best[0]:
                best = cost, box
    if best is None:  # only where the rounding of thin pictures leaves nothing inside
        width, height = largest_box(size, aspect)
        return 0, 0, width, height
    return best[1]


def lacking_room(
    size: tuple[int, int],
    aspect: float,
    head: Head,
    framing: Framing,
    room: Room,
    *,
    top: float | None = None,
) -> tuple[Sides, float]:
    """Return how far a picture framed as asked, had it the room, reaches beyond each side.

    Shares of it, and the share of its person that lies there; zeros where nothing helps. Arguments
    as those of `place`.
    """
    box = place(size, aspect, head, framing, Room((1.0,) * 4, room.penalties), top=top)
    if not measure_framing(box, head, framing).met:
        return (0.0,) * 4, 0.0
    return outside(box, size), room.person.share_beyond(box) if room.person else 0.0


def outside(box: Box, size: tuple[int, int]) -> Sides:
    """Return what of a box lies beyond each side of a picture, as shares of the box."""
    x0, y0, x1, y1 = box
    width, height = x1 - x0, y1 - y0
    return (
        min(1.0, max(0, -x0) / width),
        min(1.0, max(0, -y0) / height),
        min(1.0, max(0, x1 - size[0]) / width),
        min(1.0, max(0, y1 - size[1]) / height),
    )


def candidate_heights(inside: int, head: Head, framing: Framing) -> list[int]:
    """Return heights to try. The largest inside is always one: it can always be had."""
    if framing.head_height is None or framing.head_height[1] <= 0:
        return [inside]
    low, high = inner_range(framing.head_height, relative=HEAD_DOUBT)
    tried = [head.height / share for share in np.linspace(max(low, 1e-3), high, STEPS)]
    return sorted({inside, *(max(8, round(height)) for height in tried)}, reverse=True)


def candidate_tops(height: int, limit: int, head: Head, framing: Framing) -> list[int]:
    """Return upper edges to try: over the eyes' whole range, and inside the picture."""
    if framing.eye_line is not None:
        lines = np.linspace(*inner_range(framing.eye_line, absolute=EYES_DOUBT), STEPS)
        tried = [round(head.eyes - (1 - line) * height) for line in lines]
    else:
        # A head sits a little above the middle; the more of it there is, the nearer to it.
        tried = [round((head.crown + head.chin) / 2 - 0.47 * height)]
    return sorted({*tried, *(clamped(y, height, limit) for y in tried)})


def left_edge(width: int, limit: int, head: Head, framing: Framing, room: Room) -> int:
    """Return the left edge: inside the picture where the range of the head's place allows it."""
    wanted = framing.head_center_x or (0.5, 0.5)
    low, high = inner_range(wanted, absolute=MIDDLE_DOUBT)
    x0 = round(head.center_x - (low + high) / 2 * width)
    inside = clamped(x0, width, limit)
    if framing.head_center_x is None:
        return inside
    kept = min(max(inside, round(head.center_x - high * width)), round(head.center_x - low * width))
    # Beyond what may be extrapolated, the range has to give way.
    least = -round(room.limits[0] * width - 0.5)
    most = limit - width + round(room.limits[2] * width - 0.5)
    return min(max(kept, least), most) if least <= most else inside


def framing_penalty(box: Box, head: Head, framing: Framing, top: float | None) -> float:
    """Return the penalty of a box: for ranges missed, for their middles left, for hair cut off."""
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
            low, high = inner_range(wanted, relative=HEAD_DOUBT)
        else:
            low, high = inner_range(wanted, absolute=doubt)
        missed = max(low - value, value - high, 0.0)
        # The pixels' rounding is no miss.
        cost += 100.0 * missed if missed > 1.0 / height else 0.0
        cost += 0.1 * ((value - (low + high) / 2) / max(wanted[1] - wanted[0], 0.02)) ** 2
    if top is not None:
        cost += 2.0 * max(0.0, box[1] - top) / height
    return cost


def inner_range(
    wanted: tuple[float, float], *, relative: float = 0.0, absolute: float = 0.0
) -> tuple[float, float]:
    """Return a range less what measuring leaves open, never less than its middle."""
    low = wanted[0] * (1 + relative) + absolute
    high = wanted[1] * (1 - relative) - absolute
    if low > high:
        middle = (wanted[0] + wanted[1]) / 2
        return middle, middle
    return low, high
