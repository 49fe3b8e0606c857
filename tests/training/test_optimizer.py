"""The optimiser: torch's fused AdamW, or bitsandbytes' in eight bits where it is installed."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch

from mcap.errors import McapError, MissingResourceError
from mcap.training.optimizer import PhaseOptimizer
from mcap.training.recipe import Layer, recipe


def learner(dtype: torch.dtype = torch.float32, **keys):
    parameter = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    groups = {"tokens": ([parameter], 0.1, 0.0)}
    backbone = SimpleNamespace(dtype=dtype, device=torch.device("cpu"))
    return PhaseOptimizer(
        groups, 100, recipe("magicapture", [Layer("test", keys)]), backbone
    ), parameter


def test_a_step_is_adamws():
    """Adam's first step is the learning rate in the direction of the gradient's sign."""
    found, parameter = learner(max_grad_norm=0)
    found.backward((parameter * torch.tensor([3.0, -5.0])).sum())
    assert found.update(0) == {"tokens": 0.1}
    torch.testing.assert_close(parameter.detach(), torch.tensor([0.9, -1.9]))
    assert parameter.grad is None
    assert found.optimiser.param_groups[0]["fused"]


def test_values_are_taken_back_exactly_without_the_moments():
    found, parameter = learner()
    kept = found.values()
    found.backward(parameter.sum())
    found.update(0)
    assert not torch.equal(parameter.detach(), kept["tokens"][0])
    found.load_values(kept)
    assert torch.equal(parameter.detach(), torch.tensor([1.0, -2.0]))


def test_a_gradient_that_is_not_finite_is_said():
    found, parameter = learner()
    found.backward((parameter * float("inf")).sum())
    with pytest.raises(McapError, match=r"gradient is (inf|nan) in step 4"):
        found.update(3)


def test_in_half_precision_a_step_that_overflows_is_passed_over():
    found, parameter = learner(dtype=torch.float16)
    scale = found.scaler.get_scale()
    found.backward((parameter * float("inf")).sum())
    found.update(0)
    assert torch.equal(parameter.detach(), torch.tensor([1.0, -2.0]))
    assert found.scaler.get_scale() == scale / 2
    found.backward(parameter.sum())
    found.update(1)
    assert not torch.equal(parameter.detach(), torch.tensor([1.0, -2.0]))


def test_half_precision_that_never_works_is_said():
    """It would otherwise end as a subject that has learned nothing."""
    found, parameter = learner(dtype=torch.float16)
    with pytest.raises(McapError, match=r"many steps .* in step 27 .* --precision bf16"):
        for step in range(100):
            found.backward((parameter * float("inf")).sum())
            found.update(step)


def test_eight_bits_need_their_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(MissingResourceError, match="pip install bitsandbytes"):
        learner(optimiser="adamw-8bit")


def test_eight_bits_are_used_where_it_is_installed(monkeypatch):
    class AdamW8bit(torch.optim.SGD):
        def __init__(self, groups, betas, eps):
            super().__init__(groups)
            self.told = (betas, eps)

    package = SimpleNamespace(AdamW8bit=AdamW8bit)
    monkeypatch.setitem(sys.modules, "bitsandbytes", SimpleNamespace(optim=package))
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", package)
    found, parameter = learner(optimiser="adamw-8bit")
    assert isinstance(found.optimiser, AdamW8bit)
    assert found.optimiser.told == ((0.9, 0.999), 1e-8)
    found.backward(parameter.sum())
    found.update(0)
    assert parameter[0].item() == pytest.approx(1 - 0.1 / 2**0.5)  # clipped to length 1
