"""Errors that a user can act on, each with the exit code that shell scripts see.

Raise one of these with a message of one paragraph: what went wrong, which file or key, what to
do about it. The command line prints it to stderr without a traceback (``--verbose`` shows it).
Anything else that escapes is a defect of ours and ends with exit code 1.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?``, to be put behind a sentence, or "" where nothing is close."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean '{close[0]}'?" if close else ""


class McapError(Exception):
    """Something failed that the user can understand. Exit code 1."""

    exit_code = 1

    def __init__(self, message: str, *, details: dict | None = None) -> None:
        super().__init__(message)
        self.details = details or {}
        """JSON-serialisable facts for ``--json``, e.g. ``{"refused": [{"photo": ..., ...}]}``."""


class RenamedKeyWarning(FutureWarning):
    """A key or value that a user typed has another name now; the earlier one still works."""


class UsageError(McapError):
    """A flag, a settings key or a profile key is wrong. Exit code 2."""

    exit_code = 2


class InputRejectedError(McapError):
    """No usable photo, no face, not a picture. Exit code 3."""

    exit_code = 3


class MissingResourceError(McapError):
    """A needed weight, plugin or extra is not there. Exit code 4."""

    exit_code = 4


class OutOfMemory(McapError):
    """The device ran out of memory; the message says which setting needs less. Exit code 5."""

    exit_code = 5


class Interrupted(McapError):
    """Ctrl-C: state is saved, the message holds the command that goes on. Exit code 130."""

    exit_code = 130
