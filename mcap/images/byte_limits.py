"""JPEG files between a least and a largest number of bytes, all that the file carries counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mcap.errors import InputRejectedError

LOWEST_QUALITY = 30
"""Below this, JPEG's blocks are seen on a face."""


@dataclass(frozen=True)
class ByteLimits:
    """The number of bytes a file may have; None: no limit."""

    smallest: int | None = None
    largest: int | None = None


def quality_within(limits: ByteLimits, wanted: int, size_at: Callable[[int], int]) -> int:
    """Return the JPEG quality next to ``wanted``, 1 to 100, whose file keeps the limits.

    ``size_at`` returns the number of bytes at a quality; more quality never makes fewer. Raises
    `InputRejectedError`, its message without a path, where even `LOWEST_QUALITY` has too many bytes
    or 100 too few.
    """
    sizes: dict[int, int] = {}

    def size(quality: int) -> int:
        if quality not in sizes:
            sizes[quality] = size_at(quality)
        return sizes[quality]

    least, most = limits.smallest or 0, limits.largest
    if most is not None and size(wanted) > most:
        low, high = min(LOWEST_QUALITY, wanted), wanted  # high has too many bytes
        if size(low) > most:
            raise InputRejectedError(
                f"no JPEG of {most:,} bytes can be made of it: at quality {low} it has "
                f"{size(low):,}; --metadata label leaves out what the input carries"
            )
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if size(middle) <= most else (low, middle)
        wanted = low
    elif size(wanted) < least:
        low, high = wanted, 100  # low has too few bytes
        if size(high) >= least:
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (low, middle) if size(middle) >= least else (middle, high)
        wanted = high
    if size(wanted) < least:
        raise InputRejectedError(
            f"no JPEG of {least:,} bytes or more can be made of it: at quality {wanted} it has "
            f"{size(wanted):,}; a picture with more detail has more"
        )
    if most is not None and size(wanted) > most:
        raise InputRejectedError(
            f"no JPEG of {least:,} to {most:,} bytes can be made of it: one step of quality "
            "leads over both limits"
        )
    return wanted
