"""Where and how precisely to compute: device, dtype, threads, memory."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mcap.errors import OutOfMemory, UsageError

DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")


def choose_device(name: str = "auto") -> torch.device:
    """``auto`` takes CUDA, then Apple MPS, then the CPU. ``cuda:1`` names one of several GPUs.

    Raises `UsageError` for an unknown name or a device that this machine or build lacks.
    """
    kind = name.split(":")[0]
    if kind not in DEVICES or (":" in name and kind != "cuda"):
        raise UsageError(f"device '{name}' is unknown; allowed are {', '.join(DEVICES)} or cuda:N.")
    if kind == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        if torch.backends.mps.is_available():
            return torch.device("mps")
        return torch.device("cpu")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            "device 'cuda' was asked for, but this build of torch sees no CUDA GPU; use "
            "--device cpu, or install a CUDA build of torch and its driver."
        )
    if kind == "cuda" and ":" in name:
        number = name.split(":", 1)[1]
        if not number.isdigit() or int(number) >= torch.cuda.device_count():
            raise UsageError(
                f"device '{name}' does not exist; this machine has {torch.cuda.device_count()} "
                "CUDA device(s), counted from cuda:0."
            )
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UsageError("device 'mps' was asked for, but this machine has no Apple MPS.")
    return torch.device(name)


def choose_dtype(device: torch.device, precision: str = "auto") -> torch.dtype:
    """The frozen modules' dtype; what learns stays float32 whatever this says.

    ``auto``: bf16 on a GPU that has it, fp16 on an older one, fp32 on the CPU and on MPS.
    """
    if precision not in PRECISIONS:
        raise UsageError(
            f"precision '{precision}' is unknown; allowed are {', '.join(PRECISIONS)}."
        )
    if precision == "auto":
        if device.type != "cuda":
            return torch.float32
        # A Turing card emulates bf16 and answers yes unless told not to count that.
        good = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if good else torch.float16
    if precision == "fp16" and device.type == "cpu":
        raise UsageError(
            "precision 'fp16' trains on a GPU only (the CPU's half-precision convolutions are "
            "slow and overflow); use --precision fp32 or bf16."
        )
    if precision == "bf16" and device.type == "mps" and not _mps_has_bf16():
        raise UsageError(
            "precision 'bf16' needs macOS 14 or later on this machine's GPU; use --precision fp32."
        )
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def _mps_has_bf16() -> bool:
    return torch.backends.mps.is_macos_or_newer(14, 0)


def precision_name(dtype: torch.dtype) -> str:
    return {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype]


def set_threads(count: int | None) -> int:
    """Set torch's CPU threads, and return how many there are. None leaves them.

    The order of additions, and so the last bits of a result, depend on this number: checkpoints
    store it and a resume sets it again.
    """
    if count is not None:
        if count < 1:
            raise UsageError(f"threads must be 1 or more, not {count}.")
        torch.set_num_threads(count)
    return torch.get_num_threads()


@contextmanager
def translate_oom(what: str, advice: str) -> Iterator[None]:
    """Turn torch's out-of-memory error into `OutOfMemory` with what to try."""
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


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory in MiB: the device's own where torch counts it, else the process's."""
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
    """What the device has altogether, in MiB: the same each time, unlike what is free of it."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory / 2**20
    if device.type == "mps":
        return torch.mps.recommended_max_memory() / 2**20
    import psutil

    return psutil.virtual_memory().total / 2**20


@contextmanager
def preserve_rng_state(device: torch.device) -> Iterator[None]:
    """Whatever draws random numbers inside leaves torch's global generators as they were."""
    on_device = device.type if device.type in ("cuda", "mps") else None
    with torch.random.fork_rng(
        devices=[device] if on_device else [], device_type=on_device or "cuda"
    ):
        yield
