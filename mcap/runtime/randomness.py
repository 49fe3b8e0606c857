"""Random generators: their states saved, put back, and kept from being moved."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def preserve_rng_state(device: torch.device) -> Iterator[None]:
    """Put torch's global generators back, the device's too, as they were before the block."""
    on_device = device.type if device.type in ("cuda", "mps") else None
    with torch.random.fork_rng(
        devices=[device] if on_device else [], device_type=on_device or "cuda"
    ):
        yield


def random_state(device: torch.device) -> dict[str, Any]:
    """Return the state of Python's and torch's global generators, the device's too.

    Of types that ``torch.load(weights_only=True)`` reads.
    """
    version, numbers, gauss = random.getstate()
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": [version, list(numbers), gauss],
    }
    if device.type == "cuda":
        state["device"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        state["device"] = torch.mps.get_rng_state()
    return state


def restore_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Put the global generators back to a state that `random_state` returned."""
    torch.set_rng_state(state["torch"])
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    if "device" in state and device.type == "cuda":
        torch.cuda.set_rng_state(state["device"], device)
    elif "device" in state and device.type == "mps":
        torch.mps.set_rng_state(state["device"])
