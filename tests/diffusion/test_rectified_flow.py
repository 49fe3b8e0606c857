"""Rectified flow against its formulas, and against diffusers' own path, schedule and sampling."""

import math

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st

from mcap.diffusion.rectified_flow import (
    RectifiedFlow,
    equal_snr,
    time_of_fraction,
)

DOUBLE = torch.float64
FLOW = RectifiedFlow()


def _random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def _drawn(flow, count, low=0.0, high=1.0):
    generator = torch.Generator().manual_seed(0)
    return torch.tensor([flow.sample(generator, low, high) for _ in range(count)], dtype=DOUBLE)


def test_path_velocity_and_clean_estimate_follow_their_formulas():
    latents, noise = _random(3, 4, 2, 5), _random(3, 4, 2, 5, seed=1)
    times = torch.tensor([0.0, 0.25, 1.0], dtype=DOUBLE)
    noised = FLOW.add_noise(latents, noise, times)
    for row, s in enumerate(times.tolist()):
        expected = (1 - s) * latents[row] + s * noise[row]
        torch.testing.assert_close(noised[row], expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(noised[0], latents[0])
    assert torch.equal(noised[2], noise[2])
    velocity = FLOW.target(latents, noise, times)
    torch.testing.assert_close(velocity, noise - latents)
    estimate = FLOW.clean_estimate(noised, velocity, times)
    torch.testing.assert_close(estimate, latents, rtol=1e-12, atol=1e-12)


def test_the_velocity_is_the_path_s_derivative():
    latents, noise = _random(1, 4, 2, 2), _random(1, 4, 2, 2, seed=1)
    at = [FLOW.add_noise(latents, noise, torch.tensor([s], dtype=DOUBLE)) for s in (0.3, 0.7)]
    velocity = FLOW.target(latents, noise, torch.tensor([0.5]))
    torch.testing.assert_close((at[1] - at[0]) / 0.4, velocity, rtol=1e-12, atol=1e-12)


def test_the_path_is_that_of_diffusers_scheduler():
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    latents, noise = _random(3, 4, 2, 5).float(), _random(3, 4, 2, 5, seed=1).float()
    chosen = [0, 300, 999]
    expected = scheduler.scale_noise(latents, scheduler.timesteps[chosen], noise)
    noised = FLOW.add_noise(latents, noise, scheduler.sigmas[chosen])
    torch.testing.assert_close(noised, expected, rtol=1e-6, atol=1e-6)
    # One step of the sampler along the true velocity ends where the path does.
    scheduler.set_timesteps(1, sigmas=[1.0])
    velocity = FLOW.target(latents, noise, torch.ones(3))
    step = scheduler.step(velocity, scheduler.timesteps[0], noise, return_dict=False)[0]
    torch.testing.assert_close(step, latents, rtol=1e-6, atol=1e-6)


def test_the_clean_estimate_has_the_gradient_of_its_formula():
    noised, times = _random(2, 4, 2, 2), torch.tensor([0.2, 0.9], dtype=DOUBLE)
    velocity = _random(2, 4, 2, 2, seed=1).requires_grad_()
    FLOW.clean_estimate(noised, velocity, times).sum().backward()
    expected = -times.reshape(-1, 1, 1, 1).expand_as(noised)
    torch.testing.assert_close(velocity.grad, expected)


def test_half_precision_stays_half_precision():
    latents, noise = _random(1, 4, 2, 2).bfloat16(), _random(1, 4, 2, 2, seed=1).bfloat16()
    assert FLOW.add_noise(latents, noise, torch.tensor([0.5])).dtype == torch.bfloat16


@given(alpha=st.floats(1e-6, 1 - 1e-6))
def test_equal_snr_is_equal(alpha):
    s = equal_snr(alpha)
    assert ((1 - s) / s) ** 2 == pytest.approx(alpha / (1 - alpha), rel=1e-6)


def test_fractions_of_t_are_those_of_stable_diffusion_15():
    alphas = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
    ).alphas_cumprod
    for fraction, last in ((0.001, 0), (0.4, 399), (0.8, 799)):
        s = time_of_fraction(fraction)
        assert s == pytest.approx(equal_snr(alphas[last].item()), rel=1e-4)
    assert time_of_fraction(0.4) == pytest.approx(0.5372, abs=1e-4)
    assert (time_of_fraction(0), time_of_fraction(1)) == (0, 1)
    times = [time_of_fraction(i / 50) for i in range(51)]
    assert times == sorted(times)


def test_times_are_logit_normal():
    flow = RectifiedFlow(mean=0.5, std=0.8)
    logits = _drawn(flow, 4000).logit()
    assert logits.mean().item() == pytest.approx(0.5, abs=0.05)
    assert logits.std().item() == pytest.approx(0.8, abs=0.05)


def test_a_limit_keeps_the_distribution_below_it():
    """As if what lies beyond were drawn again: no heap at the limit."""
    free = _drawn(FLOW, 6000)
    low, high = 0.2, time_of_fraction(0.4)
    kept = free[(free > low) & (free < high)]
    limited = _drawn(FLOW, 3000, low, high)
    assert low < limited.min()
    assert limited.max() < high
    for share in (0.1, 0.25, 0.5, 0.75, 0.9):
        assert limited.quantile(share).item() == pytest.approx(
            kept.quantile(share).item(), abs=0.015
        )


@given(
    seed=st.integers(0, 2**32),
    low=st.floats(0, 0.99),
    width=st.floats(1e-3, 1),
    mean=st.floats(-3, 3),
    std=st.floats(0.05, 5),
)
def test_times_lie_between_their_limits(seed, low, width, mean, std):
    high = min(1.0, low + width)
    generator = torch.Generator().manual_seed(seed)
    assert low < RectifiedFlow(mean, std).sample(generator, low, high) < high


def test_a_time_takes_one_number_and_leaves_the_global_state_alone():
    before = torch.get_rng_state()
    one, other = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    FLOW.sample(one)
    torch.rand((), generator=other, dtype=DOUBLE)
    assert torch.equal(one.get_state(), other.get_state())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("limits", [(0.5, 0.5), (0.6, 0.5), (-0.1, 0.5), (0.5, 1.1)])
def test_limits_without_anything_between_are_refused(limits):
    with pytest.raises(ValueError, match="no time lies"):
        FLOW.sample(torch.Generator(), *limits)


def test_times_that_a_scheduler_moves_have_another_mean():
    times = _drawn(FLOW, 20)
    dynamic = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    moved = dynamic.time_shift(1.15, 1.0, times)
    torch.testing.assert_close(_drawn(RectifiedFlow(mean=1.15), 20), moved, rtol=1e-9, atol=0)
    fixed = FlowMatchEulerDiscreteScheduler(shift=6.0)
    falling = times.sort(descending=True).values
    fixed.set_timesteps(sigmas=falling.tolist())
    found = _drawn(RectifiedFlow(mean=math.log(6.0)), 20).sort(descending=True).values
    torch.testing.assert_close(found.float(), fixed.sigmas[:-1], rtol=1e-6, atol=1e-6)
