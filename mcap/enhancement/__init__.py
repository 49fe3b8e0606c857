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


def __getattr__(name: str) -> Any:
    """Import the module behind an exported name on first use: the help path stays light."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mcap.enhancement import events, plan, run, settings

    return next(getattr(m, name) for m in (run, plan, events, settings) if hasattr(m, name))
