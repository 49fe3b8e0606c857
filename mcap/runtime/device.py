"""The device, the precision and the number of CPU threads to compute with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from mcap.errors import UsageError

if TYPE_CHECKING:
    from mcap.contracts import Backbone, Quantisation

DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "fp32", "bf16", "fp16", "int8", "nf4")
QUANTISED: Mapping[str, Quantisation] = {"int8": "int8", "nf4": "nf4"}
"""The precisions of weights that are quantised, and computed with in half precision."""


def choose_device(name: str = "auto") -> torch.device:
    """Return the device of that name; ``cuda:1`` is the second of several GPUs.

    ``auto``: CUDA where there is a GPU, then Apple's MPS, then the CPU.

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
    """Return the dtype of the frozen modules; trained parameters are float32 whatever it is.

    ``auto``: bf16 on a GPU that computes in it, fp16 on an older one, fp32 on the CPU and on MPS.
    With weights in int8 or nf4 a GPU computes as by ``auto``, a CPU in bf16.
    Raises `UsageError` for an unknown precision or one that the device cannot compute in.
    """
    if precision not in PRECISIONS:
        raise UsageError(
            f"precision '{precision}' is unknown; allowed are {', '.join(PRECISIONS)}."
        )
    if precision in QUANTISED and device.type == "mps":
        raise UsageError(
            f"precision '{precision}' needs an NVIDIA GPU or a CPU; use --precision bf16."
        )
    if precision == "auto" or precision in QUANTISED:
        if device.type != "cuda":
            return torch.float32 if precision == "auto" else torch.bfloat16
        # A Turing card emulates bf16 and answers yes unless told not to count that.
        good = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if good else torch.float16
    if precision == "fp16" and device.type == "cpu":
        raise UsageError(
            "precision 'fp16' trains on a GPU only (the CPU's half-precision convolutions are "
            "slow and overflow); use --precision fp32 or bf16."
        )
    if (
        precision == "bf16"
        and device.type == "mps"
        and not torch.backends.mps.is_macos_or_newer(14, 0)
    ):
        raise UsageError(
            "precision 'bf16' needs macOS 14 or later on this machine's GPU; use --precision fp32."
        )
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def computes_bfloat16(device: torch.device) -> bool:
    """Return True for a CPU with instructions for bfloat16 (AVX512-BF16, AMX), by its own word.

    Without them bfloat16 is emulated on a CPU, and slower than float32.
    """
    if device.type != "cpu":
        return False
    try:
        found = torch.cpu.get_capabilities()
    except AttributeError:  # torch before 2.10
        return False
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def precision_name(dtype: torch.dtype) -> str:
    """Return the name of a dtype as `choose_dtype` takes it: "fp32", "bf16" or "fp16"."""
    return {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype]


def precision_of(backbone: Backbone) -> str:
    """Return a loaded backbone's precision by its name: "nf4", say, or that of its dtype."""
    return backbone.info.quantised or precision_name(backbone.dtype)


def set_threads(count: int | None) -> int:
    """Set torch's number of CPU threads and return it; None leaves it as it is.

    The order of additions, and so the last bits of a result, depend on this number: checkpoints
    store it and a resume sets it again.
    """
    if count is not None:
        if count < 1:
            raise UsageError(f"threads must be 1 or more, not {count}.")
        torch.set_num_threads(count)
    return torch.get_num_threads()
