"""Whole pictures through a restorer, one tile at a time, in bounded memory and without seams.

Legend: H, W are the input's height and width, s is the restorer's scale; a *tile* is the square of
input pixels that the network sees at once, a *span* one side of it along one axis.

Neighbouring tiles overlap. Near a tile's edge a network misses what lies beyond it, so that much
(the restorer's ``reach``, where it is known) is cut from both tiles, and what is left of the
overlap runs linearly from one tile into the next. Where ``reach`` is known and the overlap is at
least twice as wide, each kept pixel was computed from the very same input pixels as without tiles:
the picture is equal to that of one large tile, up to the order of additions.

The finished picture is written strip by strip, and lies in a file where it is large.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from mcap.enhancement.result_array import allocate, release_rows, write_part
from mcap.errors import McapError, OutOfMemory
from mcap.geometry.resample import mirrored
from mcap.images.colour import to_unit_range
from mcap.runtime.memory import empty_cache, translate_oom

if TYPE_CHECKING:
    from mcap.contracts import MovesToDevice, Restorer

OVERLAP = 64
"""Input pixels that neighbouring tiles share where the restorer does not say what it needs: 32 from
each, of which 16 are cut. Real-ESRGAN's own program takes 10 from each and cuts all of them."""

SMALLEST_TILE = 32
"""No smaller tile is tried when memory runs out: it would be overlap for the most part."""

CPU_MEMORY = 2 * 2**30
"""Bytes that one tile's activations may take on the CPU, however much is free: there the system
kills a process that takes too much before any error could be caught. More would not be faster."""

PROCESS_MEMORY = 2816 * 2**20
"""Bytes that the whole process may hold with it, where it does not hold more already: no picture
shall take more than 3 GiB."""


@dataclass(frozen=True)
class Tiled:
    """A restored picture."""

    image: np.ndarray
    """[s * H, s * W, 3] RGB; uint8 or uint16 in the type's whole range, float32 in [0, 1]. Large
    ones are a `numpy.memmap` on a file without a name, which is gone when the array is."""
    tile_used: int
    """Side in input pixels of the largest tile that was worked on."""
    tiles: int
    notes: tuple[str, ...] = ()
    """What a user should be told, e.g. that a smaller tile had to be taken."""


@dataclass(frozen=True)
class Span:
    """One tile along one axis, in input pixels. ``start`` to ``stop`` is what the network sees.

    ``keep`` to ``end`` is what is kept of it. Up to ``solid`` it runs over from the tile before,
    from ``fade`` on it runs over into the next one: keep <= solid <= fade <= end.
    """

    start: int
    stop: int
    keep: int
    solid: int
    fade: int
    end: int


def spans(
    length: int,
    tile: int,
    overlap: int,
    *,
    multiple: int = 1,
    minimum: int = 1,
    reach: int | None = None,
) -> list[Span]:
    """Cover ``length`` input pixels with tiles of one size, evenly spread, ``tile`` at most.

    ``length``, ``tile`` and ``minimum``, the least that a tile may be, are multiples of
    ``multiple``; so are all starts, because networks that fold pixels into channels see another
    picture from odd places. ``overlap`` < ``tile`` is what neighbours share at least; ``reach`` is
    how many pixels at a tile's edge are wrong (None: not known, a quarter of the overlap is taken).
    """
    if length <= tile:
        return [Span(0, length, 0, 0, length, length)]
    whole, most, shared = length // multiple, tile // multiple, math.ceil(overlap / multiple)
    shared = min(shared, most - 1)
    count = math.ceil((whole - shared) / (most - shared))
    side = max(math.ceil((whole + (count - 1) * shared) / count), minimum // multiple)
    starts = [number * (whole - side) // (count - 1) * multiple for number in range(count)]
    side *= multiple
    borders = [(0, 0)]
    for before, start in pairwise(starts):
        stop = before + side
        width = stop - start
        cut = width // 4 if reach is None else min(reach, width // 2)
        # A tile of three times the overlap or less: what runs over on its two sides must not meet.
        first = max(start + cut, borders[-1][1])
        borders.append((first, max(stop - cut, first)))
    borders.append((length, length))
    return [
        Span(start, start + side, *before, *after)
        for start, (before, after) in zip(starts, pairwise(borders), strict=True)
    ]


@dataclass(frozen=True)
class Tiling:
    """Sizes of tiles, device and precision."""

    tile: int = 512
    """Side in input pixels of what the network sees at once, the overlap included."""
    overlap: int | None = None
    """Input pixels that neighbouring tiles share; None: what the restorer asks for, else
    `OVERLAP`."""
    device: torch.device | str = "cpu"
    half: bool = False
    """Half precision where the restorer allows it on ``device``; a tile whose numbers it cannot
    hold is done again in single precision, and so is the rest."""
    dtype: Any = np.uint8
    """Of the result: uint8, uint16 or float32."""
    memory: int | None = None
    """Bytes that one tile may take, by ``info.bytes_per_pixel`` where it is known.
    None: on the CPU half of what is free and at most `CPU_MEMORY`, elsewhere no bound."""
    scratch: Path | str | None = None
    """The folder for the file of a large result; None: the system's for temporary files."""


def restore_tiled(
    restorer: Restorer, image: torch.Tensor | np.ndarray, tiling: Tiling | None = None
) -> Tiled:
    """Restore a picture of any size; `tile_by_tile` without a look at its progress."""
    steps = tile_by_tile(restorer, image, tiling)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def tile_by_tile(
    restorer: Restorer, image: torch.Tensor | np.ndarray, tiling: Tiling | None = None
) -> Generator[tuple[int, int], None, Tiled]:
    """Restore a picture of any size with a restorer of kind "image".

    ``image``: float32[3, H, W] in [0, 1] RGB, or an array [H, W, 3] of uint8, uint16 or float32 (a
    `numpy.memmap` too), of which no copy is made. Yields (done, total) after each tile, and with 0
    before the first; returns the result.

    The picture is continued by reflection, at its right and lower edge only, to the restorer's
    smallest size and multiple. A restorer whose ``info.tileable`` is False gets the picture whole.

    Where memory runs out the tile is halved, the count begins anew, and the notes tell of it.
    Raises `OutOfMemory` where even the smallest tile does not fit, `McapError` where the restorer
    gives anything but a picture of the right size in numbers, or the result has no room on the
    disk.
    """
    if restorer.info.kind != "image":
        raise ValueError(f"a restorer of kind {restorer.info.kind!r} works on faces, not on tiles")
    tiling = tiling or Tiling()
    source = TileSource(image)
    device = torch.device(tiling.device)
    half = tiling.half and restorer.info.allows_half(device)
    notes: list[str] = []
    job = TileJob(restorer, source, tiling.overlap, device, half, notes)
    side = job.first_side(tiling.tile, tiling.memory)
    shape = (source.height * job.scale, source.width * job.scale, 3)
    result = allocate(shape, tiling.dtype, tiling.scratch)
    while True:
        try:
            with translate_oom("restoring a picture", ""):
                count, largest = yield from job.run(side, result)
            return Tiled(result, largest, count, tuple(notes))
        except OutOfMemory as error:
            smaller = floor_to(min(side, job.longest) // 2, job.multiple)
            if smaller < max(SMALLEST_TILE, job.minimum) or not job.info.tileable:
                raise OutOfMemory(
                    f"Memory ran out with a tile of {min(side, job.longest)} pixels, and no "
                    f"smaller one can be worked on. Use --device cpu, or a smaller restorer. "
                    f"({error})"
                ) from error
            notes.append(
                f"Memory ran out with a tile of {min(side, job.longest)} pixels; went on with "
                f"{smaller}."
            )
            side = smaller
        # Outside the handler, whose error still holds the tensors that were too large.
        empty_cache(device)


class TileSource:
    """The input as float32[1, 3, h, w] tiles, reflected beyond its right and lower edge."""

    def __init__(self, image: torch.Tensor | np.ndarray) -> None:
        shape = tuple(image.shape)
        axis = 0 if isinstance(image, torch.Tensor) else 2
        if len(shape) != 3 or shape[axis] != 3 or 0 in shape:
            raise ValueError(f"a picture is a tensor [3, H, W] or an array [H, W, 3], not {shape}")
        self._image = image
        self.height, self.width = (side for place, side in enumerate(shape) if place != axis)

    def read(self, rows: Span, columns: Span, device: torch.device) -> torch.Tensor:
        """Return float32[1, 3, h, w] in [0, 1], a copy: a result may be computed in it."""
        if isinstance(self._image, torch.Tensor):
            part = self._image[
                :, rows.start : min(rows.stop, self.height), columns.start : columns.stop
            ].to(device, torch.float32)
        else:
            array = self._image[rows.start : rows.stop, columns.start : columns.stop]
            values = np.array(array) if array.dtype == np.float32 else to_unit_range(array)
            part = torch.from_numpy(values).to(device).permute(2, 0, 1)
        lacking = (rows.stop - self.height, columns.stop - self.width)
        for axis, beyond in enumerate(lacking, start=1):
            if beyond > 0:
                size = part.shape[axis]
                index = torch.from_numpy(mirrored(np.arange(size + beyond), size))
                part = part.index_select(axis, index.to(device))
        return part[None].contiguous()


@dataclass
class TileJob:
    """One picture, one restorer."""

    restorer: Restorer
    source: TileSource
    wanted_overlap: int | None
    """None: what the restorer asks for."""
    device: torch.device
    half: bool
    notes: list[str]
    """What a user should be told; grows."""

    def __post_init__(self) -> None:
        self.info = self.restorer.info
        self.scale = self.info.scale
        self.multiple = max(1, self.info.multiple_of)
        self.minimum = ceil_to(max(1, self.info.minimum_size), self.multiple)
        self.height = max(self.minimum, ceil_to(self.source.height, self.multiple))
        self.width = max(self.minimum, ceil_to(self.source.width, self.multiple))
        self.longest = max(self.height, self.width)

    @property
    def overlap(self) -> int:
        """Input pixels that neighbouring tiles share."""
        if self.wanted_overlap is not None:
            return max(0, self.wanted_overlap)
        return OVERLAP if self.info.overlap is None else self.info.overlap

    def move(self) -> None:
        """Bring the restorer to the device, in the precision that is tried."""
        if self.info.moves:
            cast("MovesToDevice", self.restorer).to(self.device, half=self.half)

    @property
    def place(self) -> torch.device:
        """The device of the restorer's input: one that cannot be moved stays on the CPU."""
        return self.device if self.info.moves else torch.device("cpu")

    def first_side(self, tile: int, memory: int | None) -> int:
        """Return the tile to begin with: ``tile``, unless the restorer says that it cannot fit."""
        if not self.info.tileable:
            return self.longest
        side = max(floor_to(tile, self.multiple), self.minimum)
        each = self.info.bytes_per_pixel
        if memory is None and self.place.type == "cpu":
            import psutil

            held = psutil.Process().memory_info().rss
            memory = min(
                CPU_MEMORY,
                psutil.virtual_memory().available // 2,
                max(PROCESS_MEMORY - held, CPU_MEMORY // 4),
            )
        if each and memory is not None:
            fits = floor_to(math.isqrt(int(memory / each)), self.multiple)
            fits = max(fits, self.minimum, ceil_to(SMALLEST_TILE, self.multiple))
            if fits < side and fits * fits < min(side, self.height) * min(side, self.width):
                needed = side * side * each / 2**30
                self.notes.append(
                    f"A tile of {side} pixels would take about {needed:.1f} GiB with this "
                    f"restorer; {fits} is worked with."
                )
                side = fits
        return side

    @torch.inference_mode()
    def run(
        self, side: int, result: np.ndarray
    ) -> Generator[tuple[int, int], None, tuple[int, int]]:
        """Fill ``result`` with tiles of at most ``side`` input pixels.

        Yields (done, total); returns the number of tiles and the longer side of the largest.
        """
        # A tile that is overlap for the most part would make the work many times as long.
        overlap = min(self.overlap, side // 2)
        rows, columns = (
            spans(
                length,
                side,
                overlap,
                multiple=self.multiple,
                minimum=self.minimum,
                reach=self.info.reach,
            )
            for length in (self.height, self.width)
        )
        total, done = len(rows) * len(columns), 0
        self.move()
        yield 0, total
        above: list[
            torch.Tensor
        ] = []  # what runs over from the row of tiles above, column by column
        for row in rows:
            left: torch.Tensor | None = None
            below: list[torch.Tensor] = []
            for number, column in enumerate(columns):
                part = self.tile(row, column)
                part = crossfade(left, part, 2, (column.solid - column.keep) * self.scale)
                width = (column.fade - column.keep) * self.scale
                left = part[:, :, width:].clone()
                part = part[:, :, :width]
                carried = above[number] if above else None
                part = crossfade(carried, part, 1, (row.solid - row.keep) * self.scale)
                height = (row.fade - row.keep) * self.scale
                below.append(part[:, height:].clone())
                write_part(
                    result, part[:, :height], row.keep * self.scale, column.keep * self.scale
                )
                done += 1
                yield done, total
            above = below
            release_rows(result, row.fade * self.scale)
        longest = max(span.stop - span.start for span in (*rows, *columns))
        return total, longest

    def tile(self, row: Span, column: Span) -> torch.Tensor:
        """Return one tile's kept part, float32[3, h, w] in [0, 1].

        Raises `McapError` where the restorer gives another shape, or numbers that are none.
        """
        seen = self.source.read(row, column, self.place)
        output = self.restorer.restore(seen)
        s = self.scale
        expected = (1, 3, seen.shape[2] * s, seen.shape[3] * s)
        if tuple(output.shape) != expected:
            raise McapError(
                f"The restorer gave a picture of shape {tuple(output.shape)} for one of "
                f"{tuple(seen.shape)}; at scale {s} it must be {expected}. This is a defect of the "
                "plugin that it comes from."
            )
        if not bool(torch.isfinite(output).all()):
            if not self.half:
                raise McapError(
                    "The restorer gave values that are no numbers; its file is damaged, or it is "
                    "not made for pictures in [0, 1]."
                )
            self.half = False
            self.notes.append(
                "Half precision could not hold this picture's numbers; went on in single."
            )
            self.move()
            return self.tile(row, column)
        top, left = (row.keep - row.start) * s, (column.keep - column.start) * s
        bottom, right = (row.end - row.start) * s, (column.end - column.start) * s
        return output[0, :, top:bottom, left:right].to(torch.float32).clamp(0.0, 1.0)


def crossfade(
    before: torch.Tensor | None, part: torch.Tensor, axis: int, width: int
) -> torch.Tensor:
    """Fade linearly from ``before`` into the first ``width`` places of ``part`` along ``axis``.

    Where the two agree the result is exactly theirs.
    """
    if before is None or width == 0:
        return part
    weight = (torch.arange(width, device=part.device) + 0.5) / width
    weight = weight[:, None] if axis == 1 else weight
    first = part.narrow(axis, 0, width)
    # Both have what runs over on the other axis too, or neither.
    first.copy_(torch.lerp(before, first, weight))
    return part


def ceil_to(value: int, multiple: int) -> int:
    """Return the smallest multiple that is no less than ``value``."""
    return -(-value // multiple) * multiple


def floor_to(value: int, multiple: int) -> int:
    """Return the largest multiple that is no more than ``value``."""
    return value // multiple * multiple
