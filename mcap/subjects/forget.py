"""Find what mcap keeps of a person in a subject folder, and remove it.

Only files that mcap writes are named: whatever else lies in the folder is somebody's own and stays.
Links are removed as links; nothing behind them is touched.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mcap.errors import UsageError
from mcap.runtime.files import why
from mcap.runtime.lock import OWN_NAMES
from mcap.subjects.manifest import (
    FOLDERS,
    LEARNED,
    MANIFEST,
    METRICS,
    is_subject_folder,
    read_manifest,
)

FILES = frozenset({MANIFEST, METRICS, *LEARNED})

Kind = Literal["subject", "masks", "pictures", "pages"]


@dataclass(frozen=True)
class Traces:
    """A folder with what mcap has written of a person."""

    folder: Path
    kind: Kind
    files: tuple[Path, ...]
    """Files of mcap's, which go; the one by which the folder is known comes last, so that an
    interrupted removal can be repeated."""
    others: tuple[Path, ...] = ()
    """Files that mcap did not write, which stay."""

    @property
    def bytes(self) -> int:
        """Size of the files that go."""
        sizes = 0
        for file in self.files:
            with suppress(OSError):
                sizes += file.lstat().st_size
        return sizes


def subject_traces(folder: Path) -> Traces:
    """Return the files of a subject folder, complete or not.

    Raises `UsageError` where it is none, or a link to one.
    """
    if folder.is_symlink():
        raise UsageError(f"{folder}: is a link; name the folder itself, {folder.resolve()}.")
    if not is_subject_folder(folder):
        raise UsageError(
            f"{folder}: is not a subject folder (it has no {MANIFEST}); mcap train writes one."
        )

    def own(path: Path) -> bool:
        first = path.parts[0]
        hidden = first.startswith(".") and first.endswith(".part")  # left by a kill
        return (len(path.parts) == 1 and first in FILES) or first in FOLDERS or hidden

    return traces_of(folder, "subject", own, last=MANIFEST)


def traces_of(folder: Path, kind: Kind, own: Callable[[Path], bool], *, last: str) -> Traces:
    """Return the files of a folder, those first that ``own(path relative to it)`` says are mcap's.

    The file ``last`` is removed last.
    """
    found = [
        path for path in all_files(folder) if path.relative_to(folder).as_posix() not in OWN_NAMES
    ]
    ours = [path for path in found if own(path.relative_to(folder))]
    ours.sort(key=lambda path: (path == folder / last, path))
    return Traces(folder, kind, tuple(ours), tuple(sorted(set(found) - set(ours))))


def all_files(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder, and links to files and folders; links are not followed."""
    for place, folders, files in os.walk(folder):
        for name in (*files, *(name for name in folders if (Path(place) / name).is_symlink())):
            yield Path(place) / name


def source_hashes(folder: Path) -> frozenset[str]:
    """Return the sha256 of each photo that a subject was trained on; none for no subject."""
    try:
        found = read_manifest(folder).inputs.get("source photos", {})
    except UsageError:
        return frozenset()
    return frozenset(map(str, found.values())) if isinstance(found, dict) else frozenset()


def remove(traces: Traces) -> list[str]:
    """Remove the files and the folders that are empty then; return what could not be, in words."""
    failed = []
    for file in traces.files:
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            failed.append(f"{file}: cannot be removed: {why(error)}")
    return failed


def remove_empty(folder: Path) -> None:
    """Remove the empty folders in ``folder``, and itself where nothing is in it."""
    for place, _, _ in os.walk(folder, topdown=False):
        with suppress(OSError):
            Path(place).rmdir()  # fails, as it should, where something is in it


def folders_below(roots: Iterable[Path], depth: int, most: int) -> Iterator[Path]:
    """Yield each folder up to ``depth`` below ``roots``, once, and at most ``most`` of them.

    Hidden folders, links and the insides of subject folders are passed over.
    """
    seen: set[Path] = set()
    for root in roots:
        start = len(root.resolve().parts)
        for place, folders, _ in os.walk(root):
            here = Path(place).resolve()
            if here in seen or len(seen) >= most:
                folders.clear()
                continue
            seen.add(here)
            yield Path(place)
            deep = len(here.parts) - start >= depth or is_subject_folder(Path(place))
            folders[:] = [] if deep else sorted(name for name in folders if name[0] != ".")
