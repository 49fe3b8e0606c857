"""A sheet of photo paper with as many copies of a picture as fit, and marks to cut along.

Millimetres of paper, pixels at the sheet's resolution; positions are (x, y) from the top left
corner. Printed at 100 % (borderless, on paper of that size), each copy has its exact size: a rule
on the sheet says whether the printer kept to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mcap.errors import UsageError
from mcap.framing.resize import resize

if TYPE_CHECKING:
    from mcap.contracts import UInt8Image

PAPER_MM = (100.0, 150.0)
"""10 x 15 cm, the photo print of every shop and kiosk."""

GAP_MM = 2.0  # between two copies: room for the marks, and for a knife
MARGIN_MM = 2.0  # kept free at the edges: what borderless printers cut off

_MARK_MM = 1.6
_MARK_DISTANCE_MM = 0.3  # between a copy and its marks, so that no mark is left on a copy
_INK = 110  # of the marks: grey, seen on the paper and not through it
_RULE_MM = 50


@dataclass(frozen=True)
class Layout:
    """The arrangement of copies on the paper, in millimetres."""

    paper: tuple[float, float]  # as it lies: width, height
    columns: int
    rows: int
    first: tuple[float, float]  # left upper corner of the first copy
    step: tuple[float, float]  # from one copy to the next

    @property
    def copies(self) -> int:
        """The number of places."""
        return self.columns * self.rows

    def corners(self) -> list[tuple[float, float]]:
        """Return the left upper corner of every copy, row by row."""
        return [
            (self.first[0] + column * self.step[0], self.first[1] + row * self.step[1])
            for row in range(self.rows)
            for column in range(self.columns)
        ]


@dataclass(frozen=True)
class Sheet:
    """A sheet that is ready to be printed."""

    image: UInt8Image  # [H, W, 3]
    layout: Layout
    dpi: tuple[float, float]  # horizontal, vertical


def layout(size_mm: tuple[float, float], paper_mm: tuple[float, float] = PAPER_MM) -> Layout:
    """Return the arrangement that has room for most copies, the paper upright or on its side.

    `UsageError` where not even one fits.
    """
    best: Layout | None = None
    for paper in (paper_mm, paper_mm[::-1]):
        counts = [
            int((side - 2 * MARGIN_MM + GAP_MM + 1e-6) // (length + GAP_MM))
            for side, length in zip(paper, size_mm, strict=True)
        ]
        used = [n * length + (n - 1) * GAP_MM for n, length in zip(counts, size_mm, strict=True)]
        first = ((paper[0] - used[0]) / 2, (paper[1] - used[1]) / 2)
        step = (size_mm[0] + GAP_MM, size_mm[1] + GAP_MM)
        found = Layout(paper, counts[0], counts[1], first, step)
        if min(counts) > 0 and (best is None or found.copies > best.copies):
            best = found
    if best is None:
        raise UsageError(
            f"A picture of {size_mm[0]:g} x {size_mm[1]:g} mm does not fit on paper of "
            f"{paper_mm[0]:g} x {paper_mm[1]:g} mm with a margin of {MARGIN_MM:g} mm."
        )
    return best


def print_sheet(
    image: UInt8Image,
    size_mm: tuple[float, float],
    *,
    paper_mm: tuple[float, float] = PAPER_MM,
    dpi: float = 300.0,
    copies: int | None = None,
) -> Sheet:
    """Lay out ``image`` uint8[H, W, 3], printed ``size_mm`` large, as often as it fits.

    ``copies`` puts fewer on the sheet. A picture of just as many pixels as its place has is not
    scaled; another is (averaged, or Lanczos). `UsageError` where it does not fit on the paper.
    """
    plan = layout(size_mm, paper_mm)
    scale = dpi / 25.4  # pixels a millimetre
    size = (max(1, round(size_mm[0] * scale)), max(1, round(size_mm[1] * scale)))
    image = resize(image, size)
    width, height = (round(side * scale) for side in plan.paper)
    paper = Image.new("RGB", (width, height), (255, 255, 255))
    draw = ImageDraw.Draw(paper)
    for x, y in plan.corners()[: copies or None]:
        corner = (round(x * scale), round(y * scale))
        cutting_marks(draw, corner, size, scale)
        paper.paste(Image.fromarray(image), corner)
    draw_rule(draw, plan, scale, paper.size)
    return Sheet(np.asarray(paper), plan, (float(dpi), float(dpi)))


def cutting_marks(
    draw: ImageDraw.ImageDraw, corner: tuple[int, int], size: tuple[int, int], scale: float
) -> None:
    """Draw two short lines at each corner, outside the copy, in the line of its edges."""
    x0, y0 = corner
    x1, y1 = x0 + size[0] - 1, y0 + size[1] - 1
    near, far = round(_MARK_DISTANCE_MM * scale), round(_MARK_MM * scale)
    ink = (_INK,) * 3
    for x in (x0, x1):
        draw.line((x, y0 - far, x, y0 - near), ink)
        draw.line((x, y1 + near, x, y1 + far), ink)
    for y in (y0, y1):
        draw.line((x0 - far, y, x0 - near, y), ink)
        draw.line((x1 + near, y, x1 + far, y), ink)


def draw_rule(draw: ImageDraw.ImageDraw, plan: Layout, scale: float, size: tuple[int, int]) -> None:
    """Draw a line of 50 mm below the copies, where there is room, by which to check the size."""
    room = plan.first[1] - MARGIN_MM  # below the last row, as above the first
    if room < 1.5 or plan.paper[0] < _RULE_MM + 30:
        return
    x, y = round(plan.first[0] * scale), round((plan.paper[1] - 1.6) * scale)
    end, tick = x + round(_RULE_MM * scale), round(0.6 * scale)
    ink = (_INK,) * 3
    draw.line((x, y, end, y), ink)
    for place in (x, end):
        draw.line((place, y - tick, place, y + tick), ink)
    font = ImageFont.load_default(size=max(8, round(1.7 * scale)))
    draw.text((end + scale, y), "50 mm when printed at 100 %", font=font, fill=ink, anchor="lm")
