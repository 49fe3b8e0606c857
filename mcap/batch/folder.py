"""The folder of a batch: where its ledger, its pages and the work on each person lie.

STUDIO/
  jobs.sqlite            jobs and attempts (`mcap.batch.ledger`)
  index.html             a row a person; index-2.html, ... where there are many
  people/NAME/
    index.html           the person's page
    masked/              mcap mask
    STYLE.mcap/          mcap train
    STYLE/               mcap generate
    STYLE-finished/      mcap enhance, with --enhance
    STYLE.log            what the commands printed
    thumbnails/          small pictures of the pages
  workers/               what worker processes print that is of no job
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mcap.runtime.text import file_stem

LEDGER = "jobs.sqlite"
PEOPLE = "people"
PAGE = "index.html"
WORKERS = "workers"
THUMBNAILS = "thumbnails"
MASKED = "masked"
FINISHED = "-finished"
"""Behind the name of a style's folder: that of its pictures that `mcap enhance` has finished."""


def style_folder(style: str) -> str:
    """Return what the folders of a style are called, whether it is given by name or by path."""
    return file_stem(Path(style).stem if style.endswith(".toml") else style)


@dataclass(frozen=True)
class JobFolders:
    """Where the work on a job lies."""

    studio: Path
    person: str
    style: str

    @property
    def home(self) -> Path:
        """Of the person, with the jobs in all styles."""
        return person_folder(self.studio, self.person)

    @property
    def masked(self) -> Path:
        """Shared by the person's styles."""
        return self.home / MASKED

    @property
    def subject(self) -> Path:
        return self.home / f"{style_folder(self.style)}.mcap"

    @property
    def portraits(self) -> Path:
        return self.home / style_folder(self.style)

    @property
    def finished(self) -> Path:
        return self.home / f"{style_folder(self.style)}{FINISHED}"

    @property
    def log(self) -> Path:
        return self.home / f"{style_folder(self.style)}.log"


def person_folder(studio: Path, person: str) -> Path:
    """Return the folder of everything that a batch keeps of a person."""
    return studio / PEOPLE / file_stem(person)


def studio_of(path: Path) -> tuple[Path, str] | None:
    """Return studio and person folder's name of a path in it; None for any other path."""
    place = path.absolute()
    for folder in (place, *place.parents):
        if folder.parent.name == PEOPLE and (folder.parent.parent / LEDGER).is_file():
            return folder.parent.parent, folder.name
    return None
