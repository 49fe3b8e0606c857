"""What learns is switched off, and the backbone is put back as it came."""

from __future__ import annotations

import pytest
import torch

from mcap.diffusion.key_value import add_key_values, learned_projections, remove_key_values
from mcap.diffusion.lora import add_lora, add_text_lora
from mcap.diffusion.untouched import Untouched
from tests.support.tiny import tiny_backbone


def predict(backbone, ids):
    noised = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    hidden = backbone.encode_prompt([ids]).hidden.to(backbone.dtype)
    times = torch.tensor([3, 700])
    return backbone.unet(noised.to(backbone.dtype), times, hidden, return_dict=False)[0]


def shake(parameters) -> None:
    random = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=random))


@pytest.mark.parametrize("learns", ["lora", "unet", "key-value"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_switched_off_it_predicts_as_it_came(learns, dtype):
    backbone = tiny_backbone(dtype=dtype)
    unet, encoder = backbone.unet, backbone.text_encoders[0]
    ids = torch.randint(5, 200, (2, 77), generator=torch.Generator().manual_seed(0))
    untouched = Untouched(backbone)
    with torch.no_grad():
        before = predict(backbone, ids)
    if learns == "unet":
        parameters = untouched.learn_unet(keep=True) + untouched.learn_text_encoders(keep=True)
    elif learns == "lora":
        parameters = add_lora(backbone.unet, 2) + add_text_lora(encoder, 2)
    else:
        parameters = add_key_values(backbone.unet)
    assert {parameter.dtype for parameter in parameters} == {torch.float32}
    shake(parameters)
    learned = predict(backbone, ids)
    assert (learned - before).abs().max() > 1e-2
    with torch.no_grad(), untouched.switched_off() as plain:
        assert torch.equal(predict(plain, ids), before)
    learned.float().square().sum().backward()  # it was built before, and learns after
    used = [p for p in parameters if p.grad is not None]
    assert used and all(p.requires_grad for p in parameters)
    assert torch.equal(predict(backbone, ids), learned)
    untouched.put_back()
    assert backbone.unet is unet and backbone.text_encoders[0] is encoder
    assert torch.equal(predict(backbone, ids), before)


def test_the_first_position_teaches_no_key_and_no_value():
    """Where every prompt has its start; and what comes out is the plain projection's."""
    unet = tiny_backbone().unet
    attention = next(m for n, m in unet.named_modules() if n.endswith(".attn2"))
    text = torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(3))
    plain = attention.to_k(text)
    weights = add_key_values(unet)
    assert torch.equal(attention.to_k(text), plain)
    attention.to_k(text).sum().backward()
    expected = text[0, 1:].sum(dim=0).expand_as(weights[0])
    torch.testing.assert_close(weights[0].grad, expected)
    with pytest.raises(ValueError, match="something else stands"):
        add_key_values(unet)
    assert len(learned_projections(unet)) == len(weights)
    remove_key_values(unet)
    assert learned_projections(unet) == []
