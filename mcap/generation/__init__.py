"""Pictures of a subject: sampled, framed, measured, ranked and reported (`generate`).

The function lives in `mcap.generation.run`: a submodule called ``generate`` would take its place as
an attribute of this package as soon as anybody imports it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcap.generation.run import generate as generate
    from mcap.generation.settings import GenerateSettings as GenerateSettings
    from mcap.generation.settings import GenerationModels as GenerationModels

__all__ = ["GenerateSettings", "GenerationModels", "generate"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from mcap.generation import run

        return getattr(run, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
