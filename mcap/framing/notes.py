"""The sentences that say what was done to a finished picture and what could not be done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mcap.framing.crop import MeasuredFraming
    from mcap.framing.matting import Cutout
    from mcap.style.profile import StyleProfile

SIDES = ("left", "upper", "right", "lower")
ENLARGED = 1.005
"""Times up to which the rounding of pixels enlarges a picture."""

NO_FACE = "No face was found: cut about the middle, background left as it is."
TOUCHES = "Somebody touches the person in the picture and stays in it."
BESIDE = (
    "At the height of the head something else than the head was taken for the person (somebody who "
    "stands close by, or a hand) and stays in the picture."
)
HAIR_CUT = "The hair reaches over the upper edge."
LAID_ON_WHITE = (
    "The picture's transparency is not the person's outline: it was laid on white, and the person "
    "cut out anew."
)


def tilted(roll: float) -> str:
    """Say that a head is tilted too far, by ``roll`` degrees, to be framed."""
    return (
        f"The head is tilted by {abs(roll):.0f} degrees: cut about the middle, background left "
        "as it is. Turn the picture upright first."
    )


def enlarged(by: float, size: tuple[int, int], profile: StyleProfile, dpi: int) -> list[str]:
    """Say where there are too few pixels for the asked ``size`` = (width, height); else []."""
    if by <= ENLARGED:
        return []
    printed = ""
    if profile.size_mm is not None:
        printed = f" of {profile.size_mm[0]:g} x {profile.size_mm[1]:g} mm at {dpi} DPI"
    return [
        f"Enlarged {by:.2f} times: {round(size[0] / by)} x {round(size[1] / by)} pixels are there "
        f"for the {size[0]} x {size[1]}{printed}."
    ]


def extrapolated(beyond: Sequence[float], cutout: Cutout, colour: str | None) -> list[str]:
    """Say for each side which share of the finished picture is extrapolated, and how."""
    notes = []
    for side, share in enumerate(beyond):
        if share < 0.0025:
            continue
        percent = f"{100 * share:.0f} %" if share >= 0.01 else "less than 1 %"
        length = "height" if side % 2 else "width"
        how = f"the background's colour {colour}" if colour else "blurred background"
        if cutout.touches(side):
            how = "the person drawn out beyond the picture's edge, and " + how
        notes.append(f"At the {SIDES[side]} edge {percent} of the {length} is extrapolated: {how}.")
    return notes


def missed(
    result: MeasuredFraming, profile: StyleProfile, lacking: Sequence[float], person: float
) -> str:
    """Say which of the profile's ranges the framing does not keep, and what is missing for them.

    ``lacking`` are the shares of a picture framed as asked that lie beyond each side, ``person`` is
    that of its person; zeros where nothing could help.
    """
    framing = profile.framing
    parts = [
        f"{name} {value:.2f} is not within {wanted[0]:.2f} to {wanted[1]:.2f}"
        for name, value, wanted in (
            ("head height", result.head_height, framing.head_height),
            ("eye line", result.eye_line, framing.eye_line),
            ("the head's middle", result.head_center_x, framing.head_center_x),
        )
        if wanted is not None and not wanted[0] <= value <= wanted[1]
    ]
    sides = [
        f"{share:.0%} of the {'height' if side % 2 else 'width'} at the {SIDES[side]} edge"
        for side, share in enumerate(lacking)
        if share >= 0.005
    ]
    missing = f": missing are {', '.join(sides)}" if sides else ""
    missing += f", with {person:.0%} of the person" if sides and person >= 0.005 else ""
    return (
        f"The framing of '{profile.name}' could not be met: {'; '.join(parts)}. The picture ends "
        f"too near to the head{missing}, and what lies beyond is not invented."
    )
