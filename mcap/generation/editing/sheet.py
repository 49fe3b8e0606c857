"""Contact sheet of an edit: before, after, and where a local one changed the picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from mcap.generation.editing.job import EditJob
from mcap.generation.editing.redraw import Redrawn
from mcap.generation.ranking import Picture
from mcap.generation.report import SHEET_PICTURES
from mcap.results.contact_sheet import NEUTRAL, WARNING, Tile, contact_sheet
from mcap.results.heatmap import overlay

if TYPE_CHECKING:
    from mcap.contracts import UInt8Image


def edit_sheet(
    jobs: Sequence[EditJob],
    pictures: Sequence[Picture],
    redrawn: Mapping[int, Redrawn],
    name: str,
    notice: str = "",
) -> UInt8Image:
    """Return one row a picture, at most `SHEET_PICTURES`, as uint8[H, W, 3].

    ``redrawn``: number of the job -> its images, where they were sampled in this run; ``notice``:
    the backbone's own.
    """

    def shown(similarity: float | None) -> str:
        return "no face found" if similarity is None else f"{similarity:.3f}"

    tiles: list[Tile] = []
    local = any(found.region is not None for found in redrawn.values())
    for index, (job, picture) in enumerate(zip(jobs, pictures, strict=True)):
        if index == SHEET_PICTURES:
            break
        record = picture.record
        kept = record["face_kept"]
        before: tuple[str, ...] = ("similarity to the person", job.source.prompt)
        after = (*describe_changes(record["edits"][-1]), f"face kept {shown(kept)}")
        colour = NEUTRAL if kept is not None else WARNING
        titles = (shown(record["similarity_before"]), shown(record["similarity"]))
        if record["subject"].get("kind") == "object":  # of which no face is kept or lost
            before, after, colour, titles = before[1:], after[:-1], NEUTRAL, ("before", "after")
        tiles.append(Tile(read_pixels(job.path), titles[0], before))
        tiles.append(Tile(read_pixels(picture.path), titles[1], after, colour))
        if local and index not in redrawn:
            tiles.append(Tile(None, "drawn earlier"))
        elif local:
            x0, y0, x1, y1 = job.source.cut
            region = np.asarray(redrawn[index].region, np.float32)
            shades = overlay(redrawn[index].source, region)[y0:y1, x0:x1]
            tiles.append(Tile(shades, "where", (f"{100 * region.mean():.0f} % of the picture",)))
    width, height = jobs[0].source.size
    scale = 256 / max(width, height)
    place = (round(scale * width), round(scale * height))
    heading = f"{name}: before and after"
    return contact_sheet(tiles, 3 if local else 2, place, heading=heading, notice=notice)


def describe_changes(step: Mapping[str, Any]) -> tuple[str, ...]:
    """Return one step of a record's ``edits`` in words, a line each."""
    lines = [f"{old} -> {new}" if new else f"without {old}" for old, new in step.get("replace", ())]
    lines += [f"with {text}" for text in step.get("add", ())]
    lines += [f"{word} x {factor:g}" for word, factor in step.get("weights", ())]
    if "prompt" in step:
        lines.append(step["prompt"])
    return tuple(lines)


def read_pixels(path: Path) -> UInt8Image:
    """Read a picture as RGB uint8[H, W, 3]."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))
