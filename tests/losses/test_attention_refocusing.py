"""Attention Refocusing against its formula, its borders and its gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mcap.losses.attention_refocusing import attention_refocusing


def _uniform(*shape, seed=0, dtype=torch.float32):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_attention_follows_its_formula():
    maps = _uniform(2, 3, 4, 4)
    region = (_uniform(2, 1, 4, 4, seed=1) > 0.5).float()
    total = 0.0
    for b in range(2):
        scaled = []
        for n in range(3):
            one = maps[b, n]
            scaled.append((one - one.min()) / (one.max() - one.min()))
        mean = sum(scaled) / 3
        total += ((region[b, 0] == 0) * mean**2).sum().item()
    assert attention_refocusing(maps, region).item() == pytest.approx(total / (2 * 16), rel=1e-5)


def test_fading_does_not_pay_below_the_least_range():
    maps = _uniform(1, 2, 4, 4)
    region = torch.zeros(1, 1, 4, 4)
    region[..., :2] = 1
    faint = maps * 1e-3
    whole = attention_refocusing(maps, region).item()
    assert attention_refocusing(maps, region, 1e-3).item() == whole  # wider maps: no difference
    assert attention_refocusing(faint, region).item() == pytest.approx(whole, rel=1e-4)
    assert attention_refocusing(faint, region, 0.1).item() < 1e-3 * whole


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), heads=st.integers(1, 5))
def test_attention_inside_its_region_costs_nothing(seed, heads):
    region = torch.zeros(2, 1, 8, 8)
    region[:, :, 2:6, 1:5] = 1
    maps = (_uniform(2, heads, 8, 8, seed=seed) * region).requires_grad_()
    loss = attention_refocusing(maps, region)
    loss.backward()
    assert loss.item() == 0
    assert (maps.grad == 0).all()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), value=st.floats(0.0, 1.0))
def test_constant_maps_give_0_with_finite_gradients(seed, value):
    maps = torch.full((2, 3, 8, 8), value)
    maps[1] = _uniform(3, 8, 8, seed=seed)  # a neighbour that is not constant
    maps.requires_grad_()
    region = torch.zeros(2, 1, 8, 8)
    region[:, :, :4] = 1
    attention_refocusing(maps[:1], region[:1]).backward()
    assert attention_refocusing(maps[:1], region[:1]).item() == 0
    assert torch.isfinite(maps.grad).all()
    loss = attention_refocusing(maps, region)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(maps.grad).all()


def test_a_constant_map_stays_constant_when_resized():
    small = torch.full((1, 1, 16, 16), 0.012987013)
    resized = torch.nn.functional.interpolate(small, size=(50, 50), mode="bilinear")
    region = torch.zeros(1, 1, 50, 50)
    region[..., :10, :10] = 1
    assert attention_refocusing(resized, region).item() == 0


def test_an_empty_region_gives_0_with_finite_gradients():
    maps = _uniform(2, 3, 8, 8).requires_grad_()
    loss = attention_refocusing(maps, torch.zeros(2, 1, 8, 8))
    loss.backward()
    assert loss.item() == 0
    assert torch.isfinite(maps.grad).all()


def test_rows_with_an_empty_region_are_left_out():
    maps = _uniform(2, 3, 8, 8)
    region = torch.zeros(2, 1, 8, 8)
    region[0, :, :4] = 1
    alone = attention_refocusing(maps[:1], region[:1])
    assert torch.equal(attention_refocusing(maps, region), alone)


def test_minimum_and_maximum_are_constants_to_the_gradient():
    maps = _uniform(1, 1, 4, 4, dtype=torch.float64).requires_grad_()
    region = torch.zeros(1, 1, 4, 4)
    region[..., :2, :] = 1
    attention_refocusing(maps, region).backward()
    low, high = maps.detach().amin(), maps.detach().amax()
    scaled = (maps.detach() - low) / (high - low)
    expected = torch.where(region == 0, 2 * scaled / (high - low) / 16, 0.0)
    assert torch.allclose(maps.grad, expected)


def test_attention_outside_is_pushed_down():
    maps = _uniform(1, 2, 8, 8).requires_grad_()
    region = torch.zeros(1, 1, 8, 8)
    region[..., :4] = 1
    before = attention_refocusing(maps, region)
    before.backward()
    assert (maps.grad[..., 4:] >= 0).all()
    assert (maps.grad[..., :4] == 0).all()
    assert before.item() > 0


@pytest.mark.parametrize("shape", [(1, 2, 8, 8), (1, 1, 4, 8), (2, 1, 8, 8), (1, 8, 8)])
def test_attention_refuses_regions_that_do_not_fit(shape):
    with pytest.raises(ValueError, match="region must be"):
        attention_refocusing(torch.rand(1, 2, 8, 8), torch.ones(*shape))
