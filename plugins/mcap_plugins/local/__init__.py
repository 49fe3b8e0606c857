"""The engine ``local``: worker processes on this machine, one a GPU."""

from __future__ import annotations

from typing import Any

from mcap import hookimpl
from mcap.contracts import EngineInfo


def make() -> Any:
    """Return the engine, loaded when it is asked for."""
    from mcap_plugins.local.engine import LocalEngine

    return LocalEngine()


@hookimpl
def register_engines(register: Any) -> None:
    register(
        "local",
        make,
        summary="worker processes on this machine, one a GPU",
        licence="Apache-2.0",
        info=EngineInfo(),
    )
