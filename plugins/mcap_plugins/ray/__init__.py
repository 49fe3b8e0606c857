"""The engine ``ray``: workers on a Ray cluster, one a GPU (``mcap[ray]``)."""

from __future__ import annotations

from typing import Any

from mcap import hookimpl
from mcap.contracts import EngineInfo


def make() -> Any:
    """Return the engine, loaded when it is asked for."""
    from mcap_plugins.ray.engine import RayEngine

    return RayEngine()


@hookimpl
def register_engines(register: Any) -> None:
    register(
        "ray",
        make,
        summary="actors on a Ray cluster, one a GPU",
        licence="Apache-2.0",
        needs="mcap[ray]",
        info=EngineInfo(machines=True, has_address=True),
    )
