"""Editing of finished pictures by editing their prompt (`edit`): Prompt-to-Prompt.

The function lives in `mcap.generation.editing.run`: a submodule called ``edit`` would take its
place as an attribute of this package as soon as anybody imports it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcap.generation.editing.run import edit as edit
    from mcap.generation.editing.settings import EditSettings as EditSettings

__all__ = ["EditSettings", "edit"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from mcap.generation.editing import run

        return getattr(run, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
