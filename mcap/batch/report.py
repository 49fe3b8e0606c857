"""The pages of a batch: a row a person on index.html, and a page a person.

They are files: no script, nothing from elsewhere, read from the disk without a network. Pictures
are shown reduced, from files of their own that are loaded as they come into view; people are spread
over several pages, so that each stays quick with hundreds of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image

from mcap.batch.folder import MASKED, PAGE, THUMBNAILS, JobFolders, person_folder, style_folder
from mcap.batch.ledger import JobRow
from mcap.batch.retry import remedy
from mcap.errors import InputRejectedError
from mcap.generation.ranking import Picture, shown_likeness, verdict, who_judged
from mcap.generation.summary import listed
from mcap.images.jpeg import write_jpeg
from mcap.images.photo import read_photo
from mcap.images.provenance import mark_only
from mcap.results.html import write_page
from mcap.results.names import CONTACT_SHEET, REPORT

PEOPLE_A_PAGE = 50
BEST_IN_ROW = 4
"""Pictures of a person on the first page."""
SIDE = 240
"""Longer side in pixels of a picture on the pages."""
COLOURS = {"done": "#2e7d32", "failed": "#c0392b", "running": "#1f6feb", "waiting": "#8a8f98"}


@dataclass(frozen=True)
class Shown:
    """A picture on a page."""

    src: str
    """From the page's folder."""
    href: str
    size: tuple[int, int]
    likeness: str
    verdict: str
    style: str
    text: str
    """Read out where it is not seen."""


def write_index(studio: Path, people: Mapping[str, Sequence[JobRow]]) -> Path:
    """Write index.html, index-2.html, ... with a row for each person; return the first.

    Those with a job that was given up come first. Pages that are no longer needed are removed.
    """
    order = sorted(people, key=lambda name: not any(row.state == "failed" for row in people[name]))
    parts = [order[at : at + PEOPLE_A_PAGE] for at in range(0, len(order), PEOPLE_A_PAGE)] or [[]]
    names = [page_name(number) for number in range(len(parts))]
    rows = [row for jobs in people.values() for row in jobs]
    states = [row.state for row in rows]
    counts = [f"{states.count(state)} {state}" for state in COLOURS if state in states]
    for number, part in enumerate(parts):
        write_page(
            studio / names[number],
            "studio.html",
            counts=", ".join(counts) or "none",
            jobs=len(rows),
            people=[person_row(studio, name, people[name]) for name in part],
            total=len(people),
            seconds=duration(sum(row.seconds for row in rows)),
            pages=[(index + 1, name, index == number) for index, name in enumerate(names)],
        )
    number = len(parts)
    while (studio / page_name(number)).is_file():
        (studio / page_name(number)).unlink()
        number += 1
    return studio / names[0]


def page_name(number: int) -> str:
    """Return index.html for 0, index-2.html for 1."""
    return PAGE if number == 0 else f"index-{number + 1}.html"


def person_row(studio: Path, person: str, rows: Sequence[JobRow]) -> dict[str, Any]:
    """Return what the first page says of a person."""
    home = person_folder(studio, person)
    found = [picture for row in rows for picture in portraits(studio, row)]
    best = [shown for picture in found if (shown := thumbnail(picture, home, studio)) is not None]
    page = home / PAGE
    return {
        "name": person,
        "href": address(page, studio) if page.is_file() else None,
        "pictures": best[:BEST_IN_ROW],
        "more": max(0, len(found) - BEST_IN_ROW),
        "likeness": found[0] and shown_likeness(found[0]) if found else "-",
        "verdict": verdict(found[0])[0] if found else "",
        "photos": photos_line(rows),
        "time": duration(sum(row.seconds for row in rows)),
        "jobs": [job_line(row) for row in rows],
    }


def job_line(row: JobRow) -> dict[str, Any]:
    """Return what the pages say of a job."""
    causes = [attempt.cause for attempt in row.counted]
    failed = row.state == "failed"
    return {
        "style": row.job.style,
        "state": row.state,
        "colour": COLOURS[row.state],
        "stage": row.stage,
        "message": row.message if failed else "",
        "remedy": remedy(causes[-1], causes) if failed and causes else "",
        "refused": row.details.get("refused", []),
        "remarks": row.details.get("remarks", []),
    }


def photos_line(rows: Sequence[JobRow]) -> str:
    """Return how many photos were taken and refused; "" before they were looked at."""
    for row in reversed(rows):
        if "accepted" in row.details:
            refused = len(row.details.get("refused", []))
            return f"{row.details['accepted']} taken, {refused} refused"
    return ""


def portraits(studio: Path, row: JobRow) -> list[Picture]:
    """Return a job's generated pictures, the best first."""
    return listed(JobFolders(studio, row.job.person, row.job.style).portraits)[0]


def thumbnail(picture: Picture, home: Path, page: Path) -> Shown | None:
    """Return a picture as a page in the folder ``page`` shows it, reduced to a file of its own.

    None where the picture is not there or cannot be read.
    """
    small = home / THUMBNAILS / f"{style_folder(picture.style)}-{picture.path.stem}.jpg"
    try:
        if not small.is_file() or small.stat().st_mtime < picture.path.stat().st_mtime:
            image = Image.fromarray(read_photo(picture.path).image)
            image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
            write_jpeg(small, np.asarray(image), mark_only())
    except (InputRejectedError, OSError):
        return None
    width, height = picture.record["size"]
    zoom = min(1.0, SIDE / max(width, height))
    word = verdict(picture)[0]
    return Shown(
        src=address(small, page),
        href=address(picture.path, page),
        size=(max(1, round(width * zoom)), max(1, round(height * zoom))),
        likeness=shown_likeness(picture),
        verdict=word,
        style=picture.style,
        text=f"Generated portrait in the style {picture.style}" + (f", {word}" if word else ""),
    )


def address(path: Path, folder: Path) -> str:
    """Return a file's address in a page that lies in ``folder``, above it."""
    return quote(path.relative_to(folder).as_posix())


def write_person(studio: Path, person: str, rows: Sequence[JobRow]) -> Path:
    """Write a person's page, and the reduced pictures that it shows."""
    home = person_folder(studio, person)
    sections = []
    judged = ""
    for row in rows:
        folders = JobFolders(studio, person, row.job.style)
        generated, finished = listed(folders.portraits)[0], listed(folders.finished)[1]
        links = {
            "ranking": folders.portraits / REPORT,
            "contact sheet": folders.portraits / CONTACT_SHEET,
            "finished pictures": folders.finished / REPORT,
            "log": folders.log,
        }
        judged = judged or (who_judged(generated) if generated else "")
        sections.append(
            {
                **job_line(row),
                "pictures": [
                    shown
                    for picture in generated
                    if (shown := thumbnail(picture, home, home)) is not None
                ],
                "finished": len(finished),
                "links": {
                    name: address(path, home) for name, path in links.items() if path.is_file()
                },
                "stages": {
                    stage: duration(seconds)
                    for stage, seconds in row.details.get("seconds", {}).items()
                },
                "attempts": [
                    {
                        "worker": attempt.worker,
                        "cause": attempt.cause or "running",
                        "time": duration(attempt.seconds),
                        "memory": f"{attempt.peak_mb:.0f} MB" if attempt.peak_mb else "-",
                        "message": attempt.message,
                    }
                    for attempt in row.attempts
                ],
            }
        )
    sheet = home / MASKED / CONTACT_SHEET
    return_to = "/".join([".."] * len(home.relative_to(studio).parts)) + f"/{PAGE}"
    write_page(
        home / PAGE,
        "studio_person.html",
        name=person,
        back=return_to,
        photos=photos_line(rows),
        sheet=address(sheet, home) if sheet.is_file() else None,
        sections=sections,
        judged=judged,
    )
    return home / PAGE


def duration(seconds: float) -> str:
    """Return 0:07, 3:07 or 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
