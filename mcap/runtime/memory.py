"""Memory of a device: its peak, its size, and running out of it."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from mcap.errors import OutOfMemory


def peak_memory_mb(device: torch.device) -> float:
    """Return the peak memory in MiB: the device's where torch counts it, else the process's.

    Since `reset_peak_memory`, on a CUDA device and on Linux. MPS has no peak: what its driver holds
    at the moment.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if device.type == "mps":
        return torch.mps.driver_allocated_memory() / 2**20
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset / 2**20
    with suppress(OSError):  # Linux alone has it, and only its peak can be put back
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.partition("VmHWM:")[2].split()[0]) / 2**10
    import resource  # POSIX only

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def reset_peak_memory(device: torch.device) -> None:
    """Let the peak be counted from here on, where it can be: on a CUDA device and on Linux."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):  # proc(5): 5 resets the peak resident set size
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


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
