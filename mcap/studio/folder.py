"""The folder of a studio: where each person's photos, the work on them and its commands lie.

STUDIO/
  .token                 the word in the page's address, for its owner alone
  people/NAME/
    photos/              copies of the photos that were dropped on the page
    jobs/0001/           a command: job.json, what it printed (out.json, log.txt)
    masked/, STYLE.mcap/, STYLE/, STYLE-finished/     as `mcap.batch.folder` has them
    STYLE-edits/         mcap edit
    STYLE-finished-FRAME/    mcap enhance, where the frame is another than the style's
"""

from __future__ import annotations

import secrets
from pathlib import Path

from mcap.batch.folder import MASKED, PEOPLE, THUMBNAILS, JobFolders, person_folder
from mcap.errors import UsageError
from mcap.images.find import natural_order
from mcap.runtime.files import make_folder, write_bytes
from mcap.runtime.text import STEM_BYTES, file_stem
from mcap.subjects.forget import Traces, traces_of

TOKEN = ".token"
PHOTOS = "photos"
JOBS = "jobs"
OWN_FOLDERS = frozenset({PHOTOS, JOBS, MASKED, THUMBNAILS})
"""Folders of a person, whose names no style can have: its pictures lie beside them."""
LONGEST_NAME = 80
"""Characters of a person's name."""

RESERVED = frozenset({"con", "prn", "aux", "nul"})
"""Names that no folder may have on Windows, to which a studio may be copied."""


class StyleFolders(JobFolders):
    """Where the work on a person in a style lies: as in a batch, and the photos and edits."""

    @property
    def photos(self) -> Path:
        return self.home / PHOTOS

    @property
    def edits(self) -> Path:
        return self.portraits.with_name(f"{self.portraits.name}-edits")

    def finished_in(self, frame: str) -> Path:
        """Return where pictures in a frame lie; "" is the style's own.

        One frame does not replace what another has made of the same picture.
        """
        return self.finished.with_name(self.finished.name + (frame and f"-{frame}"))


def token_of(studio: Path) -> str:
    """Return the studio's token; it is made where there is none.

    It stays the same, so that a page that is open goes on when the server was started again.
    """
    path = studio / TOKEN
    if not path.is_file() or len(path.read_text(encoding="ascii", errors="replace").strip()) < 32:
        write_bytes(path, secrets.token_urlsafe(32).encode() + b"\n")
    return path.read_text(encoding="ascii").strip()


def people_of(studio: Path) -> list[str]:
    """Return the names of the people, in natural order."""
    try:
        homes = [path for path in (studio / PEOPLE).iterdir() if (path / PHOTOS).is_dir()]
    except FileNotFoundError:
        return []
    return [path.name for path in sorted(homes, key=natural_order)]


def add_person(studio: Path, name: str) -> str:
    """Make a person's folder and return what the person is called in it.

    Raises `UsageError` for a name that is empty, too long, or somebody's already.
    """
    name = " ".join(name.split())
    called = file_stem(name).strip(". ")
    if not called or called.lower() in RESERVED:
        raise UsageError("Say what the person is called, such as Anna.")
    if len(name) > LONGEST_NAME or len(name.encode()) > STEM_BYTES:
        raise UsageError("The name is too long for a folder; a shorter one will do.")
    taken = {known.casefold() for known in people_of(studio)}
    if called.casefold() in taken or person_folder(studio, called).exists():
        raise UsageError(f"There is a person called {called} already.")
    make_folder(person_folder(studio, called) / PHOTOS)
    return called


def is_page_home(path: Path) -> bool:
    """Return whether a path is a person's folder of a studio's page."""
    place = path.absolute()
    return (
        place.parent.name == PEOPLE
        and (place / PHOTOS).is_dir()
        and (place.parent.parent / TOKEN).is_file()
    )


def page_traces(home: Path) -> Traces:
    """Return what the page keeps of a person: the copies of the photos, and the commands."""

    def own(path: Path) -> bool:
        return path.parts[0] in (PHOTOS, JOBS)

    found = traces_of(home, "pages", own, last="")
    return Traces(
        home, "pages", found.files
    )  # subjects, masks and pictures have lines of their own
