"""The global options, as every command finds them on ``typer.Context.obj``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import typer


@dataclass(frozen=True)
class Globals:
    """The options given before (or after) the command's name; False and None: not given."""

    config: Path | None = None
    offline: bool = False
    quiet: bool = False
    verbose: bool = False
    json: bool = False


def global_options(ctx: typer.Context | Globals | None) -> Globals:
    """Return the global options of a context, or the defaults where there is none."""
    if isinstance(ctx, Globals):
        return ctx
    found = getattr(ctx, "obj", None)
    return found if isinstance(found, Globals) else Globals()
