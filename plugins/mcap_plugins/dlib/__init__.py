"""dlib's ResNet: a second identity network, for measuring what the first one trained."""

from __future__ import annotations

from typing import Any

from mcap import hookimpl
from mcap.contracts import IdentityInfo

INFO = IdentityInfo(differentiable=False, embeds_images=True, same_person=0.5, dimensions=128)
"""0.5, centred, measured: of 30 photos of five people (benchmarks/people, examples/selfies) two of
one person have 0.80 on average and 0.52 at the least, two of different people -0.02 and 0.49 at the
most; of 3,540 pairs of generated strangers 1.4 % reach it."""


@hookimpl
def register_identity_models(register: Any) -> None:
    register(
        "dlib",
        load_identity,
        summary="dlib's ResNet, 128-d, centred, for measuring: not differentiable",
        licence="CC0-1.0 (weights), Boost (dlib)",
        needs=("mcap[dlib]", "dlib-resnet"),
        info=INFO,
    )


def load_identity() -> Any:
    """Return the network, for measuring."""
    from mcap_plugins.dlib.identity import DlibIdentity

    return DlibIdentity()
