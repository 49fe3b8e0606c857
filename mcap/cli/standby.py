"""A process that has loaded what looking at photos takes, and waits for the words of one command.

    python -m mcap.cli.standby

reads one line of JSON from its standard input, ``{"words": [...], "out": FILE, "log": FILE}``, and
is ``mcap WORDS`` from then on: its standard output goes to one file, its errors to the other. Where
the input ends first, so does the process. Importing takes longer than a photo does.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from contextlib import suppress

NEEDED = (
    "filelock",
    "mcap.cli.lock_folder",
    "mcap.cli.photo_tools",
    "mcap.cli.progress",
    "mcap.cli.settings",
    "mcap.masking.advice",
    "mcap.masking.folder",
    "mcap.masking.looks",
    "mcap.masking.objects",
    "mcap.masking.report_json",
    "mcap.masking.select",
)
"""Modules that ``mcap mask`` imports as it runs."""


def load() -> None:
    """Import what ``mcap mask`` needs, its plugins among that.

    The networks are made once, for what their plugins import. What is not on this machine stays
    where it is, and what is wrong with the settings is said by the command.
    """
    from mcap.cli.context import Globals
    from mcap.weights.cache import set_offline

    for name in NEEDED:
        importlib.import_module(name)
    from mcap.cli.photo_tools import make_photo_tools, photo_entries
    from mcap.cli.settings import load_settings

    set_offline(True)
    with suppress(Exception):
        make_photo_tools(photo_entries(load_settings(Globals()), None))
    set_offline(None)


def main() -> None:
    """Load, wait, and become the command."""
    from mcap.cli import main as run_command
    from mcap.runtime.files import private_opener

    load()
    line = sys.stdin.readline()
    if not line.endswith("\n"):
        return
    asked = json.loads(line)
    for path, descriptor in ((asked["out"], 1), (asked["log"], 2)):
        with open(path, "ab", opener=private_opener) as file:
            os.dup2(file.fileno(), descriptor)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    run_command(asked["words"])


if __name__ == "__main__":
    main()
