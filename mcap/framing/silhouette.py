"""Where a person's matte meets the edges of the picture.

Mattes are float32[H, W] in [0, 1], 1 on the person. Sides are 0 to 3: left, top, right, bottom.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from mcap.contracts import Float32Array


@dataclass(frozen=True)
class Silhouette:
    """The person's left and right edge in the rows next to the picture's upper or lower edge.

    ``left`` and ``right`` are the columns at the very edge; the slopes are in pixels outwards per
    row away from the person's middle, 0 where the person reaches the picture's side.
    """

    left: float
    right: float
    left_slope: float
    right_slope: float

    @property
    def middle(self) -> float:
        """The column between the two edges."""
        return (self.left + self.right) / 2

    @property
    def half(self) -> float:
        """Half of the width, 1 pixel at least."""
        return max((self.right - self.left) / 2, 1.0)


def touches(matte: Float32Array, side: int) -> bool:
    """Return whether the picture cuts the person off at a side."""
    line = (matte[:, 0], matte[0], matte[:, -1], matte[-1])[side]
    return bool((line > 0.5).mean() > 0.01)


def silhouette(matte: Float32Array, strip: int, *, top: bool) -> Silhouette | None:
    """Measure the person's edges in the lowest (``top``: the highest) ``strip`` rows.

    The slopes are the medians of the rows'. None where nobody is there.
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
    slopes = []
    for edge, sign, at_side in (
        (left, -1.0, left[0] <= 0),
        (right, 1.0, right[0] >= matte.shape[1]),
    ):
        # Towards the picture's edge the row number falls: an edge that moves outwards there has
        # a positive slope.
        steps = sign * (edge[0] - edge[1:]) / np.arange(1, len(edge))
        slopes.append(0.0 if at_side or len(edge) < 3 else float(np.median(steps)))
    return Silhouette(float(left[0]), float(right[0]), slopes[0], slopes[1])


def crown_overhang(line: Silhouette) -> float:
    """Return how far above the picture a head's top reaches that its upper edge cuts off: pixels.

    By the circle that goes through the two places where the edge cuts it, with the slope that the
    outline has there: for half a chord w that widens by m pixels a row, w (sqrt(1 + m^2) - m).
    """
    slope = closing_slope(line)
    return line.half * float(np.sqrt(1 + slope * slope) - slope)


def closing_slope(line: Silhouette) -> float:
    """Return by how many pixels a row half of a head narrows upwards, 0.15 at least."""
    return max((-line.left_slope - line.right_slope) / 2, 0.15)
