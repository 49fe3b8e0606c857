"""Steering: networks that stand in a denoiser beside its own weights, such as an image prompt's,
and that each call of its pipelines must tell of.

Kept by the denoiser, a pipeline's ``unet``, and not by the pipeline: every pipeline over it has to
pass the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from mcap.contracts import CallArguments

_STEERED: WeakKeyDictionary[Any, tuple[CallArguments, Callable[[Any], None]]] = WeakKeyDictionary()
"""Denoiser -> what its pipelines' calls need, and what takes it out again."""


def steer(pipeline: Any, arguments: CallArguments, detach: Callable[[Any], None]) -> None:
    """Pass ``arguments`` in every call over the pipeline's denoiser, until `release`, which calls
    ``detach(pipeline)``."""
    _STEERED[pipeline.unet] = (arguments, detach)


def call_arguments(pipeline: Any, guidance_scale: float) -> Mapping[str, Any]:
    """Return the further keyword arguments of a call of the pipeline; {} where nothing steers
    it."""
    network = pipeline.unet
    steered = _STEERED.get(network)
    if steered is None:
        return {}
    # As the pipelines decide it: a network that is told the scale itself has no second row.
    told = dict(network.config).get("time_cond_proj_dim") is not None
    return steered[0](guidance_scale > 1 and not told)


def release(pipeline: Any) -> None:
    """Take out what steers the pipeline's denoiser; without any, do nothing."""
    steered = _STEERED.pop(pipeline.unet, None)
    if steered is not None:
        steered[1](pipeline)
