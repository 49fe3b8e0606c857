"""Ctrl-C during work of which something is kept."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mcap.errors import Interrupted


@contextmanager
def stop_on_interrupt() -> Iterator[Callable[[], bool]]:
    """Inside, the first Ctrl-C only makes the function that this yields return True, for the work
    to look at; another one raises KeyboardInterrupt.

    In a thread other than the main one, which no signal reaches, it never does.
    """
    asked = False

    def ask(*_: Any) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    if threading.current_thread() is not threading.main_thread():
        yield lambda: asked
        return
    before = signal.signal(signal.SIGINT, ask)
    try:
        yield lambda: asked
    finally:
        if before is not None:  # None: a handler that was not set by Python cannot be put back
            signal.signal(signal.SIGINT, before)


def with_pictures_kept(ready: int, out: Path) -> Interrupted:
    """Return the error to raise when Ctrl-C came between two pictures."""
    return Interrupted(
        f"Interrupted. {ready} of the pictures are in {out}; the same command again goes on."
    )
