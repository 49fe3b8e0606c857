"""Photos and results that travel through Ray's object store, where no folder is shared."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mcap.batch.folder import person_folder
from mcap.images.find import find_photos
from mcap.runtime.lock import OWN_NAMES

SOURCE = "source"
HOME = "home"


def listing(source: Path) -> list[list[Any]]:
    """Return name and size of each photo, by which two machines see whether a path is the same to
    both."""
    found = []
    for path in find_photos([source]):
        with suppress(OSError):
            found.append([os.fsencode(path.name).decode("latin-1"), path.stat().st_size])
    return sorted(found)


def sees(probe: tuple[str, str], listings: Mapping[str, Sequence[Any]]) -> bool:
    """Return whether this machine sees the probe (file, text) and the photos as the other does."""
    try:
        if Path(probe[0]).read_text(encoding="ascii") != probe[1]:
            return False
    except (OSError, ValueError):
        return False
    return all(listing(Path(source)) == list(found) for source, found in listings.items())


def packed(order: Mapping[str, Any]) -> bytes:
    """Return a job's photos, and what there is of the person already, as a tar archive."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for photo in find_photos([order["source"]]):
            content = b""  # of one that cannot be read: the worker refuses it by its name
            with suppress(OSError):
                content = photo.read_bytes()
            if content or os.path.lexists(photo):
                member = tarfile.TarInfo(f"{SOURCE}/{photo.name}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        home = person_folder(Path(order["studio"]), order["person"])
        if home.is_dir():
            archive.add(home, HOME, filter=without_locks)
    return data.getvalue()


def without_locks(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Return a member of an archive; None for a lock, which is of one machine alone."""
    return None if Path(member.name).name in OWN_NAMES else member


def unpacked(order: Mapping[str, Any], data: bytes, root: Path) -> dict[str, Any]:
    """Lay a job's files below ``root``; return the order with its paths there."""
    shutil.rmtree(root, ignore_errors=True)
    studio = root / "studio"
    home = person_folder(studio, order["person"])
    home.parent.mkdir(parents=True)
    (root / SOURCE).mkdir()
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        archive.extractall(root, filter="data")
    if (root / HOME).is_dir():
        (root / HOME).replace(home)
    return {**order, "studio": str(studio), "source": str(root / SOURCE)}


def results(order: Mapping[str, Any]) -> bytes:
    """Return what lies in the person's folder after a job."""
    data = io.BytesIO()
    home = person_folder(Path(order["studio"]), order["person"])
    with tarfile.open(fileobj=data, mode="w") as archive:
        if home.is_dir():
            archive.add(home, HOME, filter=without_locks)
    return data.getvalue()


def laid_down(order: Mapping[str, Any], data: bytes) -> None:
    """Put results in the place of the person's folder: whole, or not at all."""
    home = person_folder(Path(order["studio"]), order["person"])
    fresh, old = (home.with_name(f".{home.name}.{name}") for name in ("part", "old"))
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        archive.extractall(fresh, filter="data")
    if not (fresh / HOME).is_dir():
        shutil.rmtree(fresh)
        return
    shutil.rmtree(old, ignore_errors=True)
    if home.is_dir():
        home.replace(old)
    (fresh / HOME).replace(home)
    shutil.rmtree(old, ignore_errors=True)
    shutil.rmtree(fresh, ignore_errors=True)
