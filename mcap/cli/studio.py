"""``mcap studio``: a page on one's own machine, for what the other commands do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import socket

    from mcap.cli.settings import Settings
    from mcap.studio.app import Choices

ADDRESS = "127.0.0.1"
"""This machine alone can reach it."""
BACKLOG = 128
"""Connections that wait to be taken."""

OUT = typer.Option(help="Folder of the studio: people, their photos and pictures.", metavar="DIR")
PORT = typer.Option(
    help="Port of the page at 127.0.0.1; 0: any that is free.", metavar="N", min=0, max=65535
)
OPEN = typer.Option("--open", help="Open the page in the browser.")

RECIPES = {
    "magicapture": "Train: minutes to hours, most like the person",
    "instant": "Without training: seconds, less like the person",
    "released": "Train as the paper's released code does",
}
"""Recipes of mcap's to choose from -> what is said of them; the others are for comparisons."""


def studio(
    ctx: typer.Context,
    out: Annotated[Path, OUT] = Path("studio"),
    port: Annotated[int, PORT] = 8731,
    open_: Annotated[bool, OPEN] = False,
) -> None:
    """Open a page on this machine: drop selfies, choose a style, train, draw, finish, print.

    Prints the page's address with its token; who does not have it is refused, and no other machine
    reaches it. What runs are these commands, each shown, in processes of their own: close the page,
    or kill the server, and start it again; it goes on. Ctrl-C saves and ends all. Needs the extra
    "studio".

    Examples:

      mcap studio --open

      mcap studio --out portraits --port 9000
    """
    import webbrowser
    from contextlib import suppress
    from importlib.util import find_spec

    from mcap.cli.lock_folder import lock_folder
    from mcap.cli.output import emit, note
    from mcap.cli.settings import load_settings
    from mcap.errors import MissingResourceError
    from mcap.runtime.files import require_writable

    needed = ("starlette", "uvicorn", "python_multipart")
    if missing := [name for name in needed if find_spec(name) is None]:
        raise MissingResourceError(
            f"mcap studio needs {', '.join(missing)}; pip install 'mcap[studio]' brings them."
        )
    import uvicorn

    from mcap.studio.app import make_app
    from mcap.studio.folder import token_of
    from mcap.studio.jobs import STANDBY, Jobs, let_interrupts_through

    settings = load_settings(ctx.obj)
    require_writable(out)
    lock_folder(ctx, out)
    options = [*(["--config", str(ctx.obj.config)] if ctx.obj.config else [])]
    options += ["--offline"] if ctx.obj.offline else []
    listening = listen(port)
    port, token = listening.getsockname()[1], token_of(out)
    let_interrupts_through()
    jobs = Jobs(out, options, standby=STANDBY)
    jobs.take_up()

    def close() -> None:
        note(ctx, "Saving what runs ...")
        for job in jobs.close():
            note(ctx, f"Still running, process {job.pid}: {jobs.line(job.words)}")

    app = make_app(out, jobs, choices(settings), token, close)
    address = f"http://{ADDRESS}:{port}/?token={token}"
    emit(
        ctx,
        {"address": address, "out": out},
        lambda console: console.print(address, markup=False, soft_wrap=True),
    )
    note(ctx, f"The studio in {out}, for this machine alone. Ctrl-C saves what runs, and ends it.")
    if open_:
        webbrowser.open(address)
    # No access log: the first address holds the token.
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False,
        timeout_graceful_shutdown=3,
    )  # fmt: skip
    with suppress(KeyboardInterrupt):  # uvicorn raises it again when it has ended
        uvicorn.Server(config).run(sockets=[listening])


def listen(port: int) -> socket.socket:
    """Return a socket that listens on ``port`` of this machine alone.

    Raises `UsageError` where that port is taken or may not be had.
    """
    import os
    import socket

    from mcap.errors import UsageError

    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if os.name == "posix":  # at once after a server that was killed
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((ADDRESS, port))
        # At once: the address is printed, and opened, before the server takes what has come to it.
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise UsageError(
            f"--port {port}: cannot be had ({error.strerror}); another program, or another studio, "
            "has it, perhaps. Give another one, or 0 for any that is free."
        ) from None
    return listening


def choices(settings: Settings) -> Choices:
    """Return the recipes and backbones to choose from, those of the settings first."""
    from mcap.registry import registry
    from mcap.studio.app import Choices

    recipes = RECIPES | {name: name for name in registry().recipes}
    backbones = {
        entry.name: f"{entry.name}: {entry.summary}"
        for entry in registry().entries["backbone"].values()
        if entry.needs or entry.info.folder  # others take a folder's path
    }
    default = settings.recipe, settings.backbone
    return Choices(
        recipes={default[0]: recipes.get(default[0], default[0]), **recipes},
        backbones={default[1]: backbones.get(default[1], default[1]), **backbones},
    )
