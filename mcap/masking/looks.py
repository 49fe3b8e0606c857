"""First looks of a ``mcap mask`` that is running: a line a photo, for whoever waits for its report.

The verdicts need all photos at once. What one photo shows by itself is there long before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from mcap.masking.records import FirstLook
from mcap.runtime.documents import append_json_line, read_json_lines
from mcap.runtime.files import public_path
from mcap.runtime.lock import attempt

LOOKS = ".mcap.looks.jsonl"
"""It goes when the run ends; one that was killed leaves it to the next."""
LARGEST = 8 * 2**20
"""Bytes of it. A photo takes some hundred."""


@contextmanager
def noted_looks(out: Path) -> Iterator[Callable[[FirstLook], None]]:
    """Yield what writes a first look into a folder of ``mcap mask``; they are removed at the end.

    A disk that takes none of them ends no run.
    """
    path = out / LOOKS
    path.unlink(missing_ok=True)

    def note(look: FirstLook) -> None:
        entry = {"path": public_path(look.path), "faces": look.faces, "refused": look.refused}
        with suppress(OSError):
            append_json_line(path, entry)

    try:
        yield note
    finally:
        attempt(partial(path.unlink, missing_ok=True))


def read_looks(out: Path) -> list[FirstLook]:
    """Return what the run that is going on in a folder has seen; [] where none is."""
    found = []
    for entry in read_json_lines(out / LOOKS, LARGEST):
        with suppress(KeyError, TypeError, ValueError):
            refused = entry["refused"]
            reason = None if refused is None else str(refused)
            found.append(FirstLook(Path(entry["path"]), int(entry["faces"]), reason))
    return found
