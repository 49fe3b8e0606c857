"""Cost of a training, as its subject folder tells it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mcap.contracts import MetricInput


def seconds(given: MetricInput) -> list[float | None]:
    """Return the seconds that the steps took."""
    return [given.training.get("seconds")]


def memory(given: MetricInput) -> list[float | None]:
    """Return the peak memory in MB of 2^20 bytes."""
    return [given.training.get("memory_mb")]


def size(given: MetricInput) -> list[float | None]:
    """Return the size in kB of what generation reads."""
    found = given.training.get("bytes")
    return [None if found is None else found / 1000]
