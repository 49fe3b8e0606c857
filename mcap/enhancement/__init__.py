"""Pictures -> larger, restored, framed pictures, each still of the same person.

One path, a module a step: `plan` what is to be done, work on a `picture` (detect faces, restore,
check identity, roll back what loses the person), `finish` it as a style profile asks, `write` it.
`run` takes every picture along it::

    from mcap.enhancement import Enhanced, Enhancement, Stage, Tools, enhance

    how = Enhancement([Stage("demo-sr", restorer)], Tools(detector, identity, masker))
    for event in enhance(paths, Path("enhanced"), how):
        if isinstance(event, Enhanced):
            print(event.path, event.faces)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcap.enhancement.events import (
        Enhanced,
        EnhancementFinished,
        EnhancementPlanned,
        Event,
        Refused,
        TilesDone,
    )
    from mcap.enhancement.plan import Enhancement, FinishOptions, Stage, Tools
    from mcap.enhancement.run import enhance
    from mcap.enhancement.settings import EnhanceSettings

__all__ = [
    "EnhanceSettings",
    "Enhanced",
    "Enhancement",
    "EnhancementFinished",
    "EnhancementPlanned",
    "Event",
    "FinishOptions",
    "Refused",
    "Stage",
    "TilesDone",
    "Tools",
    "enhance",
]


EXPORTS = {
    "run": ("enhance",),
    "plan": ("Enhancement", "FinishOptions", "Stage", "Tools"),
    "settings": ("EnhanceSettings",),
    "events": (
        "Enhanced",
        "EnhancementFinished",
        "EnhancementPlanned",
        "Event",
        "Refused",
        "TilesDone",
    ),
}
"""Submodule -> the names that the package takes from it on first use; the help path stays light."""


def __getattr__(name: str) -> Any:
    """Return an exported name, or AttributeError."""
    for module, names in EXPORTS.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
