"""Memory is counted, and running out of it says what to try."""

from __future__ import annotations

import pytest
import torch

from mcap.errors import OutOfMemory
from mcap.runtime.memory import peak_memory_mb, translate_oom

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("MPS backend out of memory (MPS allocated: 17 GB)"),
        MemoryError(),
    ],
)
def test_out_of_memory_says_what_to_try(error):
    with (
        pytest.raises(OutOfMemory, match=r"while training: .*try this") as caught,
        translate_oom("training", "try this"),
    ):
        raise error
    assert caught.value.exit_code == 5


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="shape"), translate_oom("training", "no"):
        raise RuntimeError("shape mismatch")


def test_peak_memory_is_of_this_process():
    assert 50 < peak_memory_mb(CPU) < 1e6
