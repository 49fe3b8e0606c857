"""Compiled blocks compute what plain ones do, attention recording included."""

from __future__ import annotations

import pytest
import torch

from mcap.diffusion.attention import AttentionRecorder
from mcap.diffusion.compile import compile_blocks, plain_blocks, translate_compile_errors
from mcap.diffusion.lora import add_lora
from mcap.errors import McapError
from tests.support.tiny import tiny_backbone


def _gradients(unet, recorder, parameters):
    torch.manual_seed(0)
    sample, hidden = torch.randn(2, 4, 16, 16), torch.randn(2, 77, 16)
    columns = torch.zeros(2, 77)
    columns[:, 3] = 1
    with recorder.recording():
        output = unet(sample, torch.tensor([5, 9]), encoder_hidden_states=hidden).sample
    maps = recorder.maps(columns, (16, 16))
    recorder.clear()
    (output.square().mean() + maps.square().mean()).backward()
    found = [parameter.grad.clone() for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    return [output.detach(), maps.detach(), *found]


def test_compiled_blocks_compute_the_same_and_can_be_plain_again():
    backbone = tiny_backbone()
    unet = backbone.unet
    parameters = add_lora(unet, 2)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.1)
    with AttentionRecorder(unet, 1).attached() as recorder:
        plain = _gradients(unet, recorder, parameters)
        # Dynamo's tracing, which is what hooks and LoRA layers could break, without the minutes
        # that generating code takes.
        compile_blocks(unet, backend="eager")
        compiled = _gradients(unet, recorder, parameters)
        plain_blocks(unet)
        again = _gradients(unet, recorder, parameters)
    assert all(getattr(block, "_compiled_call_impl", None) is None for block in unet.modules())
    for one, other, third in zip(plain, compiled, again, strict=True):
        torch.testing.assert_close(other, one)
        assert torch.equal(third, one)


def test_what_goes_wrong_has_a_remedy():
    from torch._dynamo.exc import Unsupported

    remedy = "Leave out --set compile=true."
    with pytest.raises(McapError, match=f"no compiler.*{remedy}"), translate_compile_errors(remedy):
        raise Unsupported("no compiler", "case")
    with pytest.raises(KeyError), translate_compile_errors(""):
        raise KeyError("another")
