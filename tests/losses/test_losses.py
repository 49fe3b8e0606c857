"""The loss functions on their own: what the method says must hold for them."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mcap.losses.attention_refocusing import attention_refocusing
from mcap.losses.identity import identity
from mcap.losses.reconstruction import masked_reconstruction, weighted_reconstruction


def _random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def _uniform(*shape, seed=0, dtype=torch.float32):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# masked reconstruction


def test_reconstruction_follows_its_formula():
    pred, target = _random(2, 3, 4, 5, seed=1), _random(2, 3, 4, 5, seed=2)
    mask = _uniform(2, 1, 4, 5, seed=3)
    rows = []
    for b in range(2):
        total = area = 0.0
        for y in range(4):
            for x in range(5):
                error = sum((target[b, c, y, x] - pred[b, c, y, x]).item() ** 2 for c in range(3))
                total += mask[b, 0, y, x].item() * error / 3
                area += mask[b, 0, y, x].item()
        rows.append(total / area)
    assert masked_reconstruction(pred, target, mask).item() == pytest.approx(
        sum(rows) / 2, rel=1e-5
    )


def test_reconstruction_with_a_full_mask_is_the_mean_squared_error():
    pred, target = _random(3, 4, 8, 8, seed=1), _random(3, 4, 8, 8, seed=2)
    loss = masked_reconstruction(pred, target, torch.ones(3, 1, 8, 8))
    assert loss.item() == pytest.approx(torch.nn.functional.mse_loss(pred, target).item(), rel=1e-6)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), share=st.floats(0.0, 1.0))
def test_reconstruction_has_exactly_no_gradient_where_the_mask_is_0(seed, share):
    pred = _random(2, 4, 6, 6, seed=seed).requires_grad_()
    target = _random(2, 4, 6, 6, seed=seed + 1).requires_grad_()
    mask = _uniform(2, 1, 6, 6, seed=seed + 2)
    mask = torch.where(mask < share, 0.0, mask)
    masked_reconstruction(pred, target, mask).backward()
    outside = (mask == 0).expand_as(pred)
    for gradient in (pred.grad, target.grad):
        assert torch.isfinite(gradient).all()
        assert (gradient[outside] == 0).all()
        assert (gradient[~outside] != 0).all()


def test_reconstruction_ignores_even_infinity_outside_the_mask():
    pred = _random(1, 2, 2, 2).requires_grad_()
    target = _random(1, 2, 2, 2, seed=1)
    target[0, :, 0, 0] = math.inf
    mask = torch.ones(1, 1, 2, 2)
    mask[0, 0, 0, 0] = 0
    loss = masked_reconstruction(pred, target, mask)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(pred.grad).all()
    assert (pred.grad[0, :, 0, 0] == 0).all()


def test_reconstruction_leaves_out_rows_with_an_empty_mask():
    pred, target = _random(2, 4, 4, 4, seed=1), _random(2, 4, 4, 4, seed=2)
    mask = torch.ones(2, 1, 4, 4)
    mask[1] = 0
    both = masked_reconstruction(pred, target, mask)
    assert torch.equal(both, masked_reconstruction(pred[:1], target[:1], mask[:1]))


def test_reconstruction_without_any_mask_is_0_with_gradients_of_0():
    pred = _random(2, 4, 4, 4).requires_grad_()
    loss = masked_reconstruction(pred, torch.zeros(2, 4, 4, 4), torch.zeros(2, 1, 4, 4))
    loss.backward()
    assert loss.item() == 0
    assert (pred.grad == 0).all()


def test_reconstruction_does_not_depend_on_the_area():
    """A small face under the same error weighs as much as a large background."""
    pred, target = torch.zeros(1, 4, 16, 16), torch.full((1, 4, 16, 16), 0.5)
    small = torch.zeros(1, 1, 16, 16)
    small[..., :2, :2] = 1
    large = 1 - small
    assert masked_reconstruction(pred, target, small).item() == pytest.approx(0.25)
    assert masked_reconstruction(pred, target, large).item() == pytest.approx(0.25)


def test_reconstruction_of_half_precision_is_computed_in_single():
    pred = _random(1, 4, 8, 8).half()
    loss = masked_reconstruction(pred, torch.zeros_like(pred), torch.ones(1, 1, 8, 8))
    assert loss.dtype == torch.float32


@pytest.mark.parametrize(
    "shapes",
    [
        ((1, 4, 8, 8), (1, 4, 8, 7), (1, 1, 8, 8)),
        ((1, 4, 8, 8), (1, 4, 8, 8), (1, 4, 8, 8)),
        ((1, 4, 8, 8), (1, 4, 8, 8), (1, 8, 8)),
        ((2, 4, 8, 8), (2, 4, 8, 8), (1, 1, 8, 8)),
    ],
)
def test_reconstruction_refuses_shapes_that_do_not_fit(shapes):
    pred, target, mask = (torch.ones(*shape) for shape in shapes)
    with pytest.raises(ValueError, match="must"):
        masked_reconstruction(pred, target, mask)


def test_weighted_reconstruction_is_the_released_form():
    pred, target = _random(2, 4, 6, 6, seed=1), _random(2, 4, 6, 6, seed=2)
    mask = _uniform(2, 1, 6, 6, seed=3)
    rows = []
    for b in range(2):
        weight = (mask[b] + 0.01) / (mask[b] + 0.01).max()
        rows.append(torch.nn.functional.mse_loss(weight * pred[b], weight * target[b]))
    expected = sum(rows) / 2
    assert weighted_reconstruction(pred, target, mask).item() == pytest.approx(
        expected.item(), rel=1e-5
    )


# attention refocusing


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


# identity


def test_identity_does_not_care_for_length():
    a, b = _random(4, 16, seed=1), _random(4, 16, seed=2)
    expected = (1 - torch.nn.functional.cosine_similarity(a, b)).mean().item()
    assert identity(a, b).item() == pytest.approx(expected, abs=1e-6)
    assert identity(7 * a, 0.01 * b).item() == pytest.approx(expected, abs=1e-6)


def test_identity_runs_from_0_to_2():
    a = _random(3, 8)
    assert identity(a, 3 * a).item() == pytest.approx(0, abs=1e-6)
    assert identity(a, -a).item() == pytest.approx(2, abs=1e-6)


def test_one_target_serves_all_rows():
    a, b = _random(3, 8), _random(1, 8, seed=1)
    assert identity(a, b).item() == pytest.approx(identity(a, b.expand(3, 8)).item())


def test_identity_of_nothing_is_finite():
    a = torch.zeros(1, 8, requires_grad=True)
    loss = identity(a, _random(1, 8))
    loss.backward()
    assert loss.item() == 1
    assert torch.isfinite(a.grad).all()


@pytest.mark.parametrize("shapes", [((2, 8), (2, 7)), ((3, 8), (2, 8)), ((8,), (8,))])
def test_identity_refuses_shapes_that_do_not_fit(shapes):
    with pytest.raises(ValueError, match=r"embeddings"):
        identity(*(torch.ones(*shape) for shape in shapes))
