"""Masked reconstruction against its formula, and where it must not look."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mcap.losses.reconstruction import (
    LEAST_FILLED,
    masked_reconstruction,
    tone_difference,
    weighted_reconstruction,
)


def _random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def _uniform(*shape, seed=0, dtype=torch.float32):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


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
        error = torch.nn.functional.mse_loss(weight * pred[b], weight * target[b])
        rows.append(error * weight.numel() / weight.sum())
    expected = sum(rows) / 2
    assert weighted_reconstruction(pred, target, mask).item() == pytest.approx(
        expected.item(), rel=1e-5
    )


def test_the_tones_difference_follows_its_formula():
    pred, target = _random(2, 3, 18, 7, seed=1), _random(2, 3, 18, 7, seed=2)
    mask = (_uniform(2, 1, 18, 7, seed=3) > 0.6).float() * _uniform(2, 1, 18, 7, seed=4)
    rows = []
    for b in range(2):
        windows = []
        for y in range(17):  # a side of 2 is a ninth of 18
            for x in range(6):
                cells = [(y + i, x + j) for i in range(2) for j in range(2)]
                area = sum(mask[b, 0, i, j].item() for i, j in cells)
                if area / 4 < LEAST_FILLED:
                    continue
                means = [
                    sum((mask[b, 0, i, j] * (pred - target)[b, c, i, j]).item() for i, j in cells)
                    / area
                    for c in range(3)
                ]
                windows.append(sum(mean**2 for mean in means) / 3)
        rows.append(sum(windows) / len(windows))
    assert tone_difference(pred, target, mask, windows=9).item() == pytest.approx(
        sum(rows) / 2, rel=1e-5
    )


def test_the_tone_is_blind_to_detail_and_to_what_lies_outside():
    target, mask = _random(1, 4, 18, 14), torch.zeros(1, 1, 18, 14)
    mask[..., 4:14, 2:12] = 1
    assert tone_difference(target + 0.5, target, mask).item() == pytest.approx(0.25, rel=1e-5)
    # Stripes of one latent: each window of four by four has as much above as below.
    detail = torch.ones(14).mul(0.5)
    detail[::2] = -0.5
    inside = tone_difference(target + detail, target, torch.ones(1, 1, 18, 14))
    assert inside.item() == pytest.approx(0, abs=1e-6)
    pred = target.clone().requires_grad_()
    tone_difference(pred + 1, target, mask).backward()
    assert (pred.grad[mask.expand_as(pred) == 0] == 0).all()
    assert (pred.grad[mask.expand_as(pred) == 1] > 0).all()


def test_rows_without_a_window_are_left_out_of_the_tone():
    pred, target = _random(2, 4, 18, 14, seed=1), _random(2, 4, 18, 14, seed=2)
    mask = torch.zeros(2, 1, 18, 14)
    mask[0, :, 4:14, 2:12] = 1
    mask[1, :, 3, 3] = 1  # a sixteenth of a window
    both = tone_difference(pred, target, mask)
    assert both.item() == pytest.approx(tone_difference(pred[:1], target[:1], mask[:1]).item())
    nothing = pred.clone().requires_grad_()
    value = tone_difference(nothing, target, torch.zeros(2, 1, 18, 14))
    value.backward()
    assert value.item() == 0 and not nothing.grad.any()
