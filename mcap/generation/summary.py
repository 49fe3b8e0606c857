"""One page on a person's pictures: photos, ranked portraits, finished ones, who measured what.

It is one file: pictures are in it, reduced, so that it can be read on a phone, sent and printed; it
links to the files that it was made of. What is generated says so at each picture.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from mcap.enhancement import report as enhancement_report
from mcap.enhancement.events import Enhanced
from mcap.enhancement.folder import EnhancedFolder
from mcap.errors import InputRejectedError, UsageError
from mcap.generation.folder import REST, RankedFolder
from mcap.generation.ranking import Picture, shown_likeness, verdict, who_judged
from mcap.images.photo import read_photo
from mcap.images.provenance import declared, mark_only
from mcap.results.html import write_page
from mcap.results.names import PRINT_SHEETS
from mcap.results.previews import Previews

PHOTO_SIDE, PORTRAIT_SIDE, FINISHED_SIDE, SHEET_SIDE = 240, 320, 531, 1000
"""Longer side in pixels of what the page shows."""

QUALITY = 85  # of its JPEGs


@dataclass(frozen=True)
class Summary:
    """The page, and what was left out of it."""

    path: Path
    portraits: int
    finished: int
    left_out: tuple[str, ...]
    """Sentences: files that are listed and cannot be read."""


class Shown:
    """Pictures as a page at ``path`` shows them; ``left_out`` says which cannot be read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.left_out: list[str] = []

    def reduced(self, file: Path, side: int) -> str | None:
        """Return a picture, ``side`` pixels at most, as a data address; None for none."""
        try:
            data = reduced_jpeg(file, side)
        except InputRejectedError as error:
            self.left_out.append(str(error))
            return None
        return "data:image/jpeg;base64," + base64.b64encode(data).decode()

    def link(self, file: Path | None) -> str | None:
        """Return the way from the page to a file."""
        return None if file is None else Path(os.path.relpath(file, self.path.parent)).as_posix()


def reduced_jpeg(file: Path, side: int) -> bytes:
    """Return a picture, ``side`` pixels at most, as a JPEG; `InputRejectedError` where it is none.

    What the picture says of its kind goes along; a photograph has nothing to say.
    """
    image = Image.fromarray(read_photo(file).image)
    kind = declared(file)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    said = {} if kind is None else {"xmp": mark_only(source_type=kind).packet()}
    image.save(data, "JPEG", quality=QUALITY, **said)
    return data.getvalue()


def write_summary(
    path: Path,
    folders: Sequence[Path],
    photos: Sequence[Path] = (),
    *,
    notices: Sequence[str] = (),
    steps: Mapping[str, str] | None = None,
) -> Summary:
    """Write the page ``path`` on the results in ``folders``, and the person's ``photos``.

    ``folders`` are those of `mcap generate` and `mcap enhance`, in any order. ``notices`` are said
    at the top; ``steps`` (what for -> command) what to do next.

    Raises `UsageError` for a folder that holds no results.
    """
    portraits: list[Picture] = []
    finished: list[Enhanced] = []
    for folder in folders:
        found, enhanced = listed(folder)
        if not found and not enhanced:
            raise UsageError(
                f"{folder}: holds no results of mcap generate or mcap enhance; give the folders "
                "that --out named."
            )
        portraits += found
        finished += enhanced
    # In the order of the pictures that they were made of, as far as these are here.
    ranks = {entry["sha256"]: number for number, entry in enumerate(listings(folders))}
    finished.sort(key=lambda item: ranks.get(item.record["input"].get("sha256"), len(ranks)))
    shown = Shown(path)
    cards, done = portrait_cards(portraits, shown), finished_cards(finished, shown)
    sheet = next((item.sheet for item in finished if item.sheet is not None), None)
    write_page(
        path,
        "summary.html",
        name=subject_name(portraits),
        notices=notices,
        photos=[src for file in photos if (src := shown.reduced(file, PHOTO_SIDE)) is not None],
        portraits=cards,
        judged=who_judged(portraits) if portraits else "",
        finished=done,
        guard=sorted({str(item.record.get("identity")) for item in finished}),
        sheet=None if sheet is None else shown.reduced(sheet, SHEET_SIDE),
        sheet_href=shown.link(sheet),
        steps=steps or {},
    )
    return Summary(path, len(cards), len(done), tuple(shown.left_out))


def portrait_cards(portraits: Sequence[Picture], shown: Shown) -> list[dict[str, Any]]:
    """Return what the page says of each generated picture that can be read."""
    return [
        {
            "src": src,
            "href": shown.link(picture.path),
            "rank": picture.rank,
            "likeness": shown_likeness(picture),
            "verdict": verdict(picture)[0],
            "colour": "#{:02x}{:02x}{:02x}".format(*verdict(picture)[1]),
            "kept": picture.kept,
            "border": picture.border,
            "seed": picture.record["seed"],
        }
        for picture in portraits
        if (src := shown.reduced(picture.path, PORTRAIT_SIDE)) is not None
    ]


def finished_cards(finished: Sequence[Enhanced], shown: Shown) -> list[dict[str, Any]]:
    """Return what the page says of each finished picture that can be read."""
    return [
        {
            "src": src,
            "href": shown.link(item.path),
            "size": item.record["size"],
            "verdict": enhancement_report.verdict(item)[0],
            "likeness": enhancement_report.similarity_lines(item),
            "dpi": (item.record.get("finish") or {}).get("dpi"),
            "lines": item.unmet,
            "sheet": shown.link(item.sheet),
        }
        for item in finished
        if (src := shown.reduced(item.path, FINISHED_SIDE)) is not None
    ]


def listings(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Return the lines on generated pictures in folders of results, in their order."""
    return [entry for folder in folders for entry in RankedFolder.listed(folder)]


def subject_name(portraits: Sequence[Picture]) -> str:
    """Return the name of the subject that pictures show; "" where their records do not say."""
    for picture in portraits:
        subject = picture.record.get("subject")
        if isinstance(subject, dict) and isinstance(subject.get("name"), str):
            return str(subject["name"])
    return ""


def listed(folder: Path) -> tuple[list[Picture], list[Enhanced]]:
    """Return the generated and the enhanced pictures that a folder's results.jsonl lists."""
    portraits, finished = [], []
    for entry in RankedFolder.listed(folder):
        if entry.get("kind") == "generate":
            file, record = folder / entry["file"], RankedFolder.record_of(entry)
            rank = entry["rank"] if isinstance(entry["rank"], int) else 0
            portraits.append(Picture(file, record, False, rank, kept=file.parent.name != REST))
    for entry in EnhancedFolder.listed(folder):
        if entry.get("kind") == "enhance":
            file, record = folder / entry["file"], EnhancedFolder.record_of(entry)
            sheet = folder / PRINT_SHEETS / f"{file.stem}.png"
            there = sheet if sheet.is_file() else None
            finished.append(Enhanced(file, file, record, False, Previews(file, file), there))
    return sorted(portraits, key=lambda picture: picture.rank or len(portraits) + 1), finished
