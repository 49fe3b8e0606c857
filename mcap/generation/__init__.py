"""Pictures of a subject: sampled, framed, measured, ranked and reported (`generate`).

The function lives in `mcap.generation.run`: a submodule called ``generate`` would take its place as
an attribute of this package as soon as anybody imports it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcap.generation.run import generate as generate

__all__ = ["generate"]


def __getattr__(name: str) -> Any:
    if name == "generate":
        from mcap.generation.run import generate

        return generate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
