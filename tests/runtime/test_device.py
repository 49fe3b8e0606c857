"""Device, precision and threads."""

from __future__ import annotations

import pytest
import torch

from mcap.errors import UsageError
from mcap.runtime.device import choose_device, choose_dtype, computes_bfloat16, set_threads

CPU = torch.device("cpu")


def test_auto_finds_something_that_exists():
    assert choose_device("auto").type in ("cpu", "cuda", "mps")
    assert choose_device("cpu") == CPU


@pytest.mark.parametrize("name", ["tpu", "cpu:1", "cuda:x", ""])
def test_unknown_devices_are_refused(name):
    with pytest.raises(UsageError, match="device"):
        choose_device(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(UsageError, match="--device cpu"):
        choose_device("cuda")


def test_precision():
    assert choose_dtype(CPU, "auto") == torch.float32
    assert choose_dtype(CPU, "bf16") == torch.bfloat16
    assert choose_dtype(torch.device("cuda"), "fp16") == torch.float16
    with pytest.raises(UsageError, match="fp32 or bf16"):
        choose_dtype(CPU, "fp16")
    with pytest.raises(UsageError, match="auto, fp32, bf16, fp16"):
        choose_dtype(CPU, "fp8")


def test_apples_gpu_has_bf16_from_macos_14_on(monkeypatch):
    mps = torch.device("mps")
    assert choose_dtype(mps, "auto") == torch.float32
    for newer in (True, False):
        monkeypatch.setattr(
            torch.backends.mps, "is_macos_or_newer", lambda *_, newer=newer: newer, raising=False
        )
        if newer:
            assert choose_dtype(mps, "bf16") == torch.bfloat16
        else:
            with pytest.raises(UsageError, match=r"macOS 14.*--precision fp32"):
                choose_dtype(mps, "bf16")


@pytest.mark.parametrize(("native", "dtype"), [(True, torch.bfloat16), (False, torch.float16)])
def test_of_half_precisions_a_gpu_gets_bf16_where_it_has_it(monkeypatch, native, dtype):
    """A card of before Ampere emulates bf16, slowly; it gets fp16 and a gradient scaler."""
    monkeypatch.setattr(
        torch.cuda,
        "is_bf16_supported",
        lambda including_emulation=True: including_emulation or native,
    )
    assert choose_dtype(torch.device("cuda"), "auto") == dtype


@pytest.mark.parametrize(
    ("device", "capabilities", "expected"),
    [
        ("cpu", {"avx512_bf16": True, "amx_bf16": False}, True),
        ("cpu", {"avx512_bf16": False, "amx_bf16": True}, True),
        ("cpu", {"avx512_bf16": False}, False),
        ("cpu", None, False),
        ("mps", {"avx512_bf16": True}, False),
    ],
)
def test_a_cpu_says_whether_it_has_instructions_for_bfloat16(
    monkeypatch, device, capabilities, expected
):
    if capabilities is None:  # torch before 2.10
        monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    else:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert computes_bfloat16(torch.device(device)) == expected


def test_threads():
    before = torch.get_num_threads()
    try:
        assert set_threads(1) == 1
        assert set_threads(None) == 1
        with pytest.raises(UsageError):
            set_threads(0)
    finally:
        torch.set_num_threads(before)
