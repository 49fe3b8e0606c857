"""Files that are either whole or not there: temporary name, flush to disk, rename.

What mcap writes tells of somebody's face, so files and the folders made for them are their owner's
alone (modes 0600 and 0700), whatever the umask.

What a killed process leaves under a temporary name is removed by the next run that holds the
folder's lock (`mcap.runtime.lock`).
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from mcap.errors import UsageError
from mcap.runtime.text import json_bytes

REASONS = {
    errno.ENOSPC: "the disk is full. To go on, make room",
    errno.EDQUOT: "your share of the disk (its quota) is used up; make room or ask for more",
    errno.EROFS: "the disk is mounted read-only; choose a place on another one",
    errno.EACCES: "you have no permission; choose another place, or change its permissions",
    errno.EPERM: "the system does not allow it (the place is protected); choose another one",
    errno.ENAMETOOLONG: "a name is longer than the disk takes (255 bytes as a rule); shorten it",
    errno.EFBIG: "the file would be larger than the disk or a limit of yours allows",
    errno.EIO: "the disk failed to read or write; look whether it is sound",
    errno.ENODEV: "the disk is gone; look whether it is still connected",
    errno.ESTALE: "the network's disk has lost the file; look whether it is still connected",
    errno.EMFILE: "too many files are open at once; raise the limit (ulimit -n)",
    errno.ENFILE: "too many files are open on this machine; close other programs",
    errno.ELOOP: "links lead round in a circle",
    errno.ENOTDIR: "a part of the path is a file, and a folder is needed",
    errno.EISDIR: "it is a folder, and a file is needed",
    errno.EBUSY: "another program has it in use",
    errno.ENOENT: "it is not there; it was moved or removed, or never written",
    errno.EEXIST: "something else is there already",
}
"""Number of an OSError -> why it came, for people, and what to do about it."""

PROBE_BYTES = 4096
BUFFER_BYTES = 2**20
"""Of a file that is written piece by piece."""

FILE_MODE, FOLDER_MODE = 0o600, 0o700
"""Permissions of all that is written: for its owner alone."""


def make_folder(path: Path) -> None:
    """Make a folder, and those above it that are missing, for its owner alone.

    One that is there already keeps its permissions.
    """
    if path.is_dir():
        return
    missing = [place for place in (path, *path.parents) if not place.exists()]
    for place in reversed(missing or [path]):  # it says what is wrong where a file is in its place
        place.mkdir(mode=FOLDER_MODE, exist_ok=True)


def private_opener(path: str, flags: int) -> int:
    """Open a file as ``open(..., opener=private_opener)`` does; a new one is its owner's alone.

    OSError (EEXIST) where a link is in its place: in a folder from somebody else, a line that is
    appended would go into a file of the user's.
    """
    try:
        return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), FILE_MODE)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK) and os.path.islink(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path) from None
        raise


@contextmanager
def open_to_read(path: Path) -> Iterator[BufferedReader]:
    """Open a file for reading its bytes; OSError (ESPIPE) where it is a named pipe.

    A folder from a stranger may hold one, and whoever opens it waits for ever for somebody who
    writes. Those that a shell makes, such as /dev/fd/63 and /dev/stdin, are read.
    """
    no_wait = getattr(os, "O_NONBLOCK", 0)  # Windows has no such pipes in folders
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | no_wait)) as file:
        if no_wait:
            if stat.S_ISFIFO(os.fstat(file.fileno()).st_mode) and path.parts[:2] not in PIPES:
                raise OSError(errno.ESPIPE, "it is a named pipe, and a file is needed", str(path))
            os.set_blocking(file.fileno(), True)
        yield file


PIPES = (("/", "dev"), ("/", "proc"))
"""The folders in which pipes have names because somebody holds their other end."""

TEMPORARY = re.compile(r"\.mcap-[a-z0-9_]+\.part")
"""Names of unfinished files and folders. They are short: a file's own may be as long as the file
system takes."""


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write ``data`` under ``path``; a reader sees the old file or the new one, never a part."""
    write_with(path, lambda file: file.write(data))


def write_with(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let ``write`` fill an open file, which can be read, too, and is ``path`` when it is whole.

    What ``write`` returns is ignored; where it raises, what was under ``path`` stays.
    """
    make_folder(path.parent)
    temporary = temporary_beside(path)
    try:
        with open(temporary, "x+b", buffering=BUFFER_BYTES, opener=private_opener) as file:
            write(file)
            flush_to_disk(file)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write UTF-8 JSON, indented, keys in the order given, newline at the end."""
    write_bytes(path, json_bytes(json.dumps(value, indent=2, ensure_ascii=False) + "\n"))


def temporary_beside(path: Path) -> Path:
    """Return a temporary name in the folder of ``path``; nothing is there."""
    return path.with_name(f".mcap-{secrets.token_hex(8)}.part")


@contextmanager
def unnamed_file(folder: Path) -> Iterator[BinaryIO]:
    """Yield a new file on the disk of ``folder``, which is gone at the end, also by a kill where
    the file system has files without a name."""
    with tempfile.TemporaryFile(
        "w+b", BUFFER_BYTES, prefix=".mcap-", suffix=".part", dir=folder
    ) as file:
        yield cast(BinaryIO, file)


@contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """Yield a new folder under a temporary name in ``parent``; it is removed at the end."""
    with tempfile.TemporaryDirectory(prefix=".mcap-", suffix=".part", dir=parent) as folder:
        yield Path(folder)


def remove_folder(path: Path) -> None:
    """Remove a folder and all in it, so that nobody ever sees a part of it under its name.

    It need not be there. Of a link the link is removed alone.
    """
    temporary = temporary_beside(path)
    try:
        path.rename(temporary)
    except (FileNotFoundError, NotADirectoryError):
        return
    if temporary.is_dir() and not temporary.is_symlink():
        shutil.rmtree(temporary)
    else:
        temporary.unlink()


def flush_to_disk(file: IO[Any]) -> None:
    """Wait until what was written to an open file is on the disk."""
    file.flush()
    os.fsync(file.fileno())


def require_writable(out: Path, option: str = "--out") -> None:
    """Raise `UsageError` where nothing can be written into the folder ``out``, now and not later.

    A file is written, one without a name where the file system has such, so that a kill leaves
    nothing: no permission bit tells of a read-only disk, a full one or an immutable folder.
    ``out`` need not exist, and does not afterwards.
    """
    try:
        place = out
        while not place.exists():
            if place.is_symlink():
                raise UsageError(f"{option} {out}: {place} is a link to a place that is not there.")
            place = place.parent
        if not place.is_dir():
            which = "" if place == out else f"{place} "
            raise UsageError(f"{option} {out}: {which}is a file; give a folder.")
        for part in out.parts[len(place.parts) :]:
            with suppress(FileNotFoundError):
                (place / part).lstat()  # raises where a name is too long
        try_to_write(place)
    except OSError as error:
        message = f"{option} {out}: nothing can be written there: {why(error)}."
        raise UsageError(message, details=disk_details(error)) from None


def try_to_write(folder: Path) -> None:
    """Write a few bytes into a folder, which leave no trace; OSError says what the disk has
    against it."""
    with unnamed_file(folder) as file:
        file.write(bytes(PROBE_BYTES))
        flush_to_disk(file)


def require_folder(path: Path, option: str) -> Path:
    """Return ``path``, which need not exist; `UsageError` where it is no folder or can be none."""
    try:
        if path.exists() and not path.is_dir():
            raise UsageError(f"{option} {path}: is a file; give a folder.")
    except OSError as error:
        raise UsageError(f"{option} {path}: {why(error)}.", details=disk_details(error)) from None
    return path


def disk_details(error: OSError) -> dict[str, str]:
    """Return ``{"errno": "EIO"}`` and the like, for who tells a disk's fault from a wrong flag."""
    name = errno.errorcode.get(error.errno or 0)
    return {} if name is None else {"errno": name}


def why(error: OSError) -> str:
    """Return what the machine has against a file, and what to do about it."""
    if error.errno in REASONS:
        return REASONS[error.errno]
    return error.strerror or str(error)


def public_path(path: Path) -> str:
    """Return a path as a file may hold it: a relative one as it is, of any other the name alone.

    From the disk's root it would tell how its owner is called.
    """
    return path.name if path.is_absolute() else str(path)


def is_inside(folder: Path, name: str) -> bool:
    """Return whether the file ``name`` of ``folder`` lies in it, after links are resolved."""
    try:
        return (folder / name).resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError):  # too long, a NUL in it, links in a circle
        return False


def sha256_of(path: Path) -> str:
    """Return the hexadecimal sha256 of a file's bytes."""
    with open_to_read(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
