"""Ctrl-C during work that can be saved: the first one asks, the second one breaks off."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


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
