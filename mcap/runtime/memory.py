"""Memory of a device: its peak, its size, and running out of it."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mcap.errors import OutOfMemory


def peak_memory_mb(device: torch.device) -> float:
    """Return the peak memory in MiB: the device's where torch counts it, else the process's.

    MPS has no peak: what its driver holds at the moment.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if device.type == "mps":
        return torch.mps.driver_allocated_memory() / 2**20
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset / 2**20
    import resource  # POSIX only

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def total_memory_mb(device: torch.device) -> float:
    """Return the size of the device's memory in MiB, the part in use included."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory / 2**20
    if device.type == "mps":
        return torch.mps.recommended_max_memory() / 2**20
    import psutil

    return psutil.virtual_memory().total / 2**20


@contextmanager
def translate_oom(what: str, advice: str) -> Iterator[None]:
    """Turn torch's out-of-memory error into `OutOfMemory`: "... while {what}: ... {advice}"."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        first = str(error).splitlines()[0]
        raise OutOfMemory(f"Out of memory while {what}: {first} {advice}") from error
    except (MemoryError, RuntimeError) as error:
        # The CPU's allocator and MPS raise a plain RuntimeError; there is no class to catch.
        text = str(error)
        if (
            isinstance(error, MemoryError)
            or "can't allocate memory" in text
            or "out of memory" in text.lower()
        ):
            first = text.splitlines()[0] if text else "the process could not get more memory."
            raise OutOfMemory(f"Out of memory while {what}: {first} {advice}") from error
        raise


def empty_cache(device: torch.device) -> None:
    """Give memory that no tensor holds any more back to the device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
