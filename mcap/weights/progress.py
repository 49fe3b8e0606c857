"""Downloads as the user sees them: a bar for each, and licences that forbid commercial use."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any

from mcap.weights.catalogue import Weight


class ProgressBar:
    """A progress factory yields one of these; this one shows nothing."""

    def advance(self, n: float = 1, **fields: Any) -> None:
        """Say that ``n`` bytes more are here."""


ProgressFactory = Callable[[str, float | None], AbstractContextManager[Any]]

# Process-wide switches, which the command line sets.
_progress: ProgressFactory | None = None
_notice: Callable[[str], None] | None = None
_noticed: set[str] = set()


def set_progress(factory: ProgressFactory | None) -> None:
    """Show downloads: ``factory(title, total_bytes)`` is entered around each.

    See `mcap.cli.progress`.
    """
    global _progress
    _progress = factory


def set_notice(show: Callable[[str], None] | None) -> None:
    """Tell the user of licences by ``show(text)``; None is Python's own `warnings.warn`.

    Each licence that forbids commercial use is shown once a process, before the weight is used.
    """
    global _notice
    _notice = show
    _noticed.clear()


def tell_licence(entry: Weight) -> None:
    """Tell once a process that a weight's licence forbids commercial use, where it does."""
    if entry.commercial or entry.name in _noticed:
        return
    _noticed.add(entry.name)
    text = (
        f"Licence of '{entry.name}' ({entry.used_for}): {entry.licence}. No commercial use. "
        "'mcap plugins' shows what may be used commercially."
    )
    if _notice is not None:
        _notice(text)
    else:
        warnings.warn(text, UserWarning, stacklevel=3)


class LateBar(ProgressBar):
    """A bar that is drawn when the first byte arrives: an unreachable source shows none at 0 %.

    ``factory`` None is the process's own (`set_progress`).
    """

    def __init__(self, stack: ExitStack, factory: ProgressFactory | None, entry: Weight) -> None:
        self.stack, self.factory, self.entry = stack, factory or _progress, entry
        self.bar: Any = None

    def advance(self, n: float = 1, **fields: Any) -> None:
        """Say that ``n`` bytes more are here."""
        if self.bar is None and self.factory is not None:
            title = f"Fetching {self.entry.name} ({self.entry.licence})"
            self.bar = self.stack.enter_context(self.factory(title, self.entry.bytes))
        if self.bar is not None:
            self.bar.advance(n, **fields)
