"""Photos that were dropped on the page -> a person's folder, or the reason why not.

A file is looked at before it is kept: what is no picture, or larger than any photo, is not. What a
picture is good for is said by ``mcap mask``.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from mcap.errors import InputRejectedError
from mcap.images.open import PhotoSettings, opened
from mcap.runtime import files
from mcap.runtime.text import file_stem

MOST_PHOTOS = 100
"""Of a person. Training needs five to ten."""
LARGEST_PHOTO = 100_000_000
"""Bytes of a photo: several times those of a telephone's."""
LARGEST_DROP = 4_000_000_000
"""Bytes of all files that are dropped at once."""
LONGEST_SUFFIX = 10


def keep_photos(folder: Path, dropped: Iterable[tuple[str, BinaryIO]]) -> list[str]:
    """Copy files (name, content) into a person's ``folder``; return why some were not taken.

    A name is a name: of a path in it the last part is taken. Nothing that lies there is
    overwritten, and what is there already is not copied again.
    """
    known = {files.sha256_of(path) for path in folder.iterdir() if path.is_file()}
    refused: list[str] = []
    too_many = 0
    for given, content in dropped:
        if len(known) >= MOST_PHOTOS:
            too_many += 1
            continue
        name = photo_name(given)
        size = content.seek(0, 2)
        content.seek(0)
        if size > LARGEST_PHOTO:
            refused.append(
                f"{name}: {size / 1e6:.0f} MB is more than a photo has "
                f"({LARGEST_PHOTO / 1e6:.0f} MB at most); a video or a disk image, perhaps."
            )
            continue
        temporary = files.temporary_beside(folder / name)
        try:
            with open(temporary, "xb", opener=files.private_opener) as file:
                shutil.copyfileobj(content, file)
            sha256 = files.sha256_of(temporary)
            if sha256 in known:
                refused.append(f"{name}: is there already.")
                continue
            with opened(temporary, PhotoSettings()):
                pass
            temporary.replace(free_path(folder, name))
            known.add(sha256)
        except InputRejectedError as error:
            refused.append(str(error).replace(str(temporary), name) + ".")
        finally:
            temporary.unlink(missing_ok=True)
    if too_many:
        refused.append(
            f"{too_many} more were not taken: {MOST_PHOTOS} photos are the most, and five to ten "
            "are enough."
        )
    return refused


def photo_name(given: str) -> str:
    """Return what a dropped file is called in its folder: the last part of a path, not hidden."""
    path = PurePosixPath(given.replace("\\", "/"))
    stem = file_stem(path.stem).lstrip(".").strip() or "photo"
    suffix = path.suffix.lower()
    return stem + (suffix if suffix[1:].isalnum() and len(suffix) <= LONGEST_SUFFIX else "")


def free_path(folder: Path, name: str) -> Path:
    """Return a path in ``folder`` that nothing has: ``name``, or with -2, -3, ... in it."""
    taken = {path.name.casefold() for path in folder.iterdir()}
    return folder / next(each for each in names(name) if each.casefold() not in taken)


def names(name: str) -> Iterator[str]:
    """Yield a name, and then the same with -2, -3, ... before its suffix."""
    yield name
    number = 1
    while True:
        number += 1
        yield f"{PurePosixPath(name).stem}-{number}{PurePosixPath(name).suffix}"
