"""The command line as it was given, to be given again."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any


def repeat_command(ctx: Any, *, leave_out: Collection[str] = (), add: Sequence[str] = ()) -> str:
    """Return the command that runs in ``ctx``, quoted for a shell.

    Without the words to ``leave_out``, and with those to ``add`` at the end.
    """
    words: list[str] = []
    place = ctx
    while place is not None:  # a command may be one of a group: mcap batch run
        words = [place.info_name if place.parent else "mcap", *given_options(place), *words]
        place = place.parent
    return shlex.join([*(word for word in words if word not in leave_out), *add])


def told_command(ctx: Any) -> str:
    """Return the command as a file may hold it: of a path from the disk's root the name alone.

    Behind "...": such a path would tell how its owner is called.
    """
    words = shlex.split(repeat_command(ctx))
    return shlex.join(
        f".../{Path(word).name}" if Path(word).is_absolute() else word for word in words
    )


def given_options(ctx: Any) -> list[str]:
    """Return the arguments and options of one context's command line, as words."""
    words: list[str] = []
    for parameter in ctx.command.params if ctx is not None else []:
        given = ctx.get_parameter_source(parameter.name)
        if given is None or given.name != "COMMANDLINE":
            continue
        value = ctx.params[parameter.name]
        for item in value if isinstance(value, list | tuple) else [value]:
            if parameter.param_type_name == "option":
                words.append(parameter.opts[0])
            if not isinstance(item, bool):
                words.append(str(item))
    return words
