"""One run at a time in a folder: a second one is refused, by the name of the first.

The lock is the operating system's (`filelock`), so that of a run that was killed is gone with it.
Disks without such locks, as some networks' are, get a file instead whose presence is the lock; one
that a dead process of this machine left is taken over. Both lie in the folder, so that whatever
path or link leads to it counts, and are removed at the end.
"""

from __future__ import annotations

import errno
import json
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mcap.errors import UsageError
from mcap.runtime.files import TEMPORARY, make_folder, remove_folder, why, write_json
from mcap.runtime.text import printable

if TYPE_CHECKING:
    from filelock import BaseFileLock

LOCK = ".mcap.lock"
RUN = ".mcap.run.json"
"""Who holds the lock: command, process, machine, since when. It says so and decides nothing."""

NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL})
"""Numbers of the errors by which a disk says that it has no locks."""

OWN_NAMES = frozenset({LOCK, RUN})


@contextmanager
def locked_folder(
    folder: Path, command: str, option: str = "--out", wait: float = 0.0
) -> Iterator[str]:
    """Hold the lock of a folder, which is made; yield what is to be said of it, "" as a rule.

    Raises `UsageError` where another run holds it for more than ``wait`` seconds. What a killed run
    left unfinished in the folder is removed, and folders that did not exist and are empty at the
    end.
    """
    from filelock import FileLock, SoftFileLock, Timeout

    made = [place for place in (folder, *folder.parents) if not place.exists()]
    with ExitStack() as stack:
        for place in reversed(made):
            stack.callback(attempt, place.rmdir)  # fails, as it should, where something is in it
        make_folder(folder)
        path, note = folder / LOCK, ""
        # Others who may write into the folder may take the lock that a killed run has left there.
        lock: BaseFileLock = FileLock(path, mode=0o666, fallback_to_soft=False)
        try:
            try:
                acquire(lock, wait)
                # While it is held: who waits for a file that is gone sees that, and makes another.
                steps: list[Callable[[], object]] = [
                    lock.release,
                    partial(path.unlink, missing_ok=True),
                ]
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                note = (
                    f"{option} {folder}: this disk has no locks, so the file {path} stands for "
                    "one. Should the machine be switched off meanwhile, remove that file."
                )
                lock = SoftFileLock(path)
                lock.acquire(timeout=wait, poll_interval=0.1)
                steps = [lock.release]
        except Timeout:
            raise folder_is_taken(folder, option) from None
        except OSError as error:
            steps = []
            note = (
                f"{option} {folder}: cannot be locked ({why(error)}). Let no other mcap write "
                "there at the same time."
            )
        for step in steps:
            stack.callback(attempt, step)
        if steps:
            remove_temporaries(folder)
            stack.callback(attempt, partial((folder / RUN).unlink, missing_ok=True))
            holder = {
                "command": command,
                "pid": os.getpid(),
                "machine": platform.node(),
                "since": datetime.now().astimezone().isoformat(timespec="seconds"),
            }
            write_json(folder / RUN, holder)
        yield note


def acquire(lock: BaseFileLock, wait: float) -> None:
    """Take a lock, trying once more where the disk fails: it may have left the file there, which
    goes with the lock alone. Raises `filelock.Timeout`, and OSError of the second try."""
    from filelock import Timeout

    try:
        lock.acquire(timeout=wait, poll_interval=0.1)
    except OSError as error:
        if isinstance(error, Timeout) or error.errno in NO_LOCKS:
            raise
        lock.acquire(timeout=wait, poll_interval=0.1)


def remove_temporaries(folder: Path) -> None:
    """Remove what killed runs left unfinished in ``folder`` and in the folders directly in it.

    For who holds the lock of ``folder``: what is unfinished there now is nobody's, but for folders
    in it that have a lock of their own. Links are not followed, and what cannot be removed stays.
    """
    places = [folder]
    with suppress(OSError):
        places += [path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()]
    for place in places:
        if place != folder and (place / LOCK).exists():
            continue
        with suppress(OSError):
            for path in list(place.iterdir()):
                if TEMPORARY.fullmatch(path.name):
                    attempt(partial(remove_folder, path))


def attempt(step: Callable[[], object]) -> None:
    """Take a step of tidying up, once more where it fails: perhaps nobody comes here again. What
    the disk then has against it is no matter."""
    for _ in range(2):
        with suppress(OSError):
            step()
            return


def folder_is_taken(folder: Path, option: str) -> UsageError:
    """Return the error that names the run which holds a folder's lock."""
    running: dict[str, object] = {}
    with suppress(OSError, ValueError, RecursionError):
        found = json.loads((folder / RUN).read_text(encoding="utf-8"))
        running = found if isinstance(found, dict) else {}
    who = "another run of mcap"
    command, pid, since = running.get("command"), running.get("pid"), running.get("since")
    machine = str(running.get("machine", ""))
    elsewhere = machine not in ("", platform.node())
    if isinstance(command, str) and isinstance(pid, int):
        who = f"{printable(command)} (process {pid}"
        who += f" on {printable(machine)}" if elsewhere else ""
        with suppress(ValueError, TypeError):
            begun = datetime.fromisoformat(str(since)).astimezone()
            today = begun.date() == datetime.now().astimezone().date()
            who += f", since {begun:%H:%M}" if today else f", since {begun:%Y-%m-%d %H:%M}"
        who += ")"
    text = (
        f"{option} {folder}: {who} is writing there. Wait until it is done, stop it, or give "
        "another folder."
    )
    if elsewhere:
        text += f" If it runs no more, remove {folder / LOCK}."
    return UsageError(text, details={"folder": str(folder), "running": running})
