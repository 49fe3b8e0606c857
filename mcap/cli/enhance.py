"""``mcap enhance``: the command line of the enhancing stage, which this version does not have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mcap.cli import complete


def enhance(
    ctx: typer.Context,
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="INPUT...", help="Pictures or folders.", show_default=False),
    ] = None,
    restorer: Annotated[
        str | None,
        typer.Option(
            help="Restorers, separated by commas.",
            autocompletion=complete.restorers,
            show_default=False,
        ),
    ] = None,
    scale: Annotated[int, typer.Option(help="Times as many pixels on a side.", min=1)] = 4,
    fidelity: Annotated[
        float, typer.Option(help="0: best looking, 1: closest to the input.", min=0, max=1)
    ] = 0.7,
    tile: Annotated[int, typer.Option(help="Pixels worked on at once; less memory.", min=64)] = 512,
    out: Annotated[Path | None, typer.Option(help="Folder for the results.")] = None,
) -> None:
    """Super-resolution and face restoration. Lists the restorers that are registered.

    This version cannot run them yet: the command ends with exit code 4 and says what is missing.
    """
    from mcap.errors import Missing
    from mcap.registry import registry

    found = registry()
    for name in (restorer or "").split(","):
        if name.strip():
            found.get("restorer", name.strip())  # a name that is not there is told first
    entries = [found.entries["restorer"][name] for name in found.names("restorer")]
    listed = [
        {"name": entry.name, "plugin": entry.plugin, "summary": entry.summary} for entry in entries
    ]
    if entries:
        names = ", ".join(f"{entry.name} (plugin {entry.plugin})" for entry in entries)
        message = f"Registered restorers: {names}."
    else:
        message = "No restorer is registered: no installed plugin has a register_restorers hook."
    raise Missing(
        f"{message} What is missing is the stage that runs them (tiles, pasting faces back, "
        "similarity before and after), which this version of mcap does not have; the pictures are "
        "unchanged.",
        details={"restorers": listed},
    )
