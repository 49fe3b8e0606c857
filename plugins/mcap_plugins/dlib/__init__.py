"""dlib's ResNet: a second identity network, for measuring what the first one trained."""

from __future__ import annotations

from typing import Any

from mcap import hookimpl


@hookimpl
def register_identity_models(register: Any) -> None:
    register(
        "dlib",
        _identity,
        summary="dlib's ResNet, 128-d, centred, for measuring: not differentiable",
        licence="CC0-1.0 (weights), Boost (dlib)",
        needs=("mcap[dlib]", "dlib-resnet"),
        differentiable=False,
        dimensions=128,
    )


def _identity() -> Any:
    from mcap_plugins.dlib.identity import DlibIdentity

    return DlibIdentity()
