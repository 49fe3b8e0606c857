"""The global options, as every command finds them on ``typer.Context.obj``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import typer


@dataclass(frozen=True)
class Globals:
    """What was given before (or after) the command's name; False and None mean "not given"."""

    config: Path | None = None
    offline: bool = False
    quiet: bool = False
    verbose: bool = False
    json: bool = False


def global_options(ctx: typer.Context | Globals | None) -> Globals:
    """The global options of a context; the defaults where a function is called without one."""
    if isinstance(ctx, Globals):
        return ctx
    found = getattr(ctx, "obj", None)
    return found if isinstance(found, Globals) else Globals()
