"""What stands in a UNet beside its own weights and must be told of in each call of its pipelines,
such as an image prompt.

Kept by the UNet and not by the pipeline: every pipeline over it has to pass the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from mcap.contracts import CallArguments

_STEERED: WeakKeyDictionary[Any, tuple[CallArguments, Callable[[Any], None]]] = WeakKeyDictionary()
"""UNet -> what its pipelines' calls need, and what takes it out again."""


def steer(pipeline: Any, arguments: CallArguments, detach: Callable[[Any], None]) -> None:
    """Pass ``arguments`` in every call over the pipeline's UNet, until `release`, which calls
    ``detach(pipeline)``."""
    _STEERED[pipeline.unet] = (arguments, detach)


def call_arguments(pipeline: Any, guidance_scale: float) -> Mapping[str, Any]:
    """Return the further keyword arguments of a call of the pipeline; {} where nothing steers
    it."""
    steered = _STEERED.get(pipeline.unet)
    if steered is None:
        return {}
    # As the pipelines decide it: a UNet that is told the scale itself has no second row.
    return steered[0](guidance_scale > 1 and pipeline.unet.config.time_cond_proj_dim is None)


def release(pipeline: Any) -> None:
    """Take out what steers the pipeline's UNet; without any, do nothing."""
    steered = _STEERED.pop(pipeline.unet, None)
    if steered is not None:
        steered[1](pipeline)
