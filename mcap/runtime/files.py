"""Files that are either whole or not there: temporary name, flush to disk, rename."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from mcap.runtime.text import json_bytes


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` under ``path``; a reader sees the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Its name is short: the file's own may be as long as the file system takes.
    temporary = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        # Not tempfile's, which is private to this user: open() leaves the permissions to the umask.
        with temporary.open("xb") as file:
            file.write(data)
            flush_to_disk(file)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write UTF-8 JSON, indented, keys in the order given, newline at the end."""
    write_bytes(path, json_bytes(json.dumps(value, indent=2, ensure_ascii=False) + "\n"))


def write_with(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file with the suffix of ``path`` (Pillow looks at it).

    Flushed to disk and renamed as in `write_bytes`; what ``write`` returns is ignored.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", suffix=".part", dir=path.parent) as folder:
        temporary = Path(folder) / path.name
        write(temporary)
        with temporary.open("r+b") as file:  # Windows flushes what is open for writing
            flush_to_disk(file)
        temporary.replace(path)


def flush_to_disk(file: IO[Any]) -> None:
    """Wait until what was written to an open file is on the disk."""
    file.flush()
    os.fsync(file.fileno())


def sha256_of(path: Path) -> str:
    """Return the hexadecimal sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
