"""The lock of a command's output folder, for as long as the command runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mcap.cli.output import warn

if TYPE_CHECKING:
    import typer


def lock_folder(ctx: typer.Context, folder: Path, wait: float = 0.0) -> None:
    """Hold the lock of ``folder`` until the command ends, as `mcap.runtime.lock` says.

    What is weak about it is told once; `UsageError` where another run holds it.
    """
    from mcap.runtime.lock import locked_folder

    weakness = ctx.with_resource(locked_folder(folder, ctx.command_path, wait=wait))
    if weakness:
        warn(ctx, weakness)


def take_folder(ctx: typer.Context, out: Path, kind: str, *, dry_run: bool = False) -> None:
    """Hold the lock of a folder that takes pictures of ``kind``; a dry run only looks at it.

    `UsageError` where it cannot be had, or holds what another command has made; nothing heavy is
    imported before that is known.
    """
    from mcap.results.folder import require_own

    require_own(out, kind)
    if not dry_run:
        lock_folder(ctx, out)
