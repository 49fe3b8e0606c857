"""Rectified flow: the straight path between a latent and noise, and what is learned along it.

Legend: B rows, C x h x w a latent, s the time on the path, float in [0, 1], 0 at the latent and 1
at the noise.

    x_s = (1 - s) x_0 + s eps                              (Liu et al., arXiv 2209.03003, eq. 1)
    v   = dx_s / ds = eps - x_0
    x_0 = x_s - s v

A network that predicts -v (Z-Image's) has its sign changed by its backbone, not here.

Training times are logit-normal (Esser et al., arXiv 2403.03206, section 3.1):
s = 1 / (1 + exp(-u)), u ~ Normal(mean, std). Schedulers move the times that are drawn at towards
the noise, the more so the larger the picture, which keeps more of its signal at the same s:

    s' = exp(mu) / (exp(mu) + 1 / s - 1)      by mu, of the picture's size
    s' = shift s / (1 + (shift - 1) s)        by a fixed factor, exp(mu) = shift

Both add mu to log(s / (1 - s)), so training times moved by them have the mean mu.

Times of one path and of the other are compared by their ratio of signal to noise, (1 - s)^2 / s^2
here and a_t / (1 - a_t) of a diffusion process (`mcap.diffusion.noise`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

FIRST_BETA, LAST_BETA, STEPS = 0.00085, 0.012, 1000
"""The noise schedule of Stable Diffusion 1.5, "scaled linear": the square roots of beta are evenly
spaced. Recipes state their limits of the timestep as fractions of its T."""


@dataclass(frozen=True)
class RectifiedFlow:
    """The path of one backbone; times are float[B], s in [0, 1]."""

    mean: float = 0.0
    """Of the normal distribution of log(s / (1 - s)) ..."""
    std: float = 1.0
    """... and its standard deviation, more than 0. 0 and 1 are those of diffusers' scripts."""

    def sample(self, generator: torch.Generator, low: float = 0.0, high: float = 1.0) -> float:
        """Return one time, logit-normal within low < s < high; takes one number of ``generator``.

        By the inverse of the distribution function, so that a limit narrows the distribution and
        nothing is drawn twice. ValueError where nothing lies between the limits.
        """
        if not 0 <= low < high <= 1:
            raise ValueError(f"no time lies in ({low}, {high})")
        ends = torch.tensor([low, high], dtype=torch.float64).logit()
        first, last = torch.special.ndtr((ends - self.mean) / self.std).tolist()
        share = torch.rand((), generator=generator, dtype=torch.float64)
        normal = torch.special.ndtri(first + (last - first) * share)
        time = torch.sigmoid(self.mean + self.std * normal).item()
        # Rounding, and a share of exactly 0, must not leave the interval: at s = 0 there is no
        # noise whose velocity could be learned.
        inside = torch.finfo(torch.float32).eps * (high - low)
        return min(max(time, low + inside), high - inside)

    def sample_time(
        self, generator: torch.Generator, limits: tuple[float, float], least: int
    ) -> float:
        """Return `sample` between the times of two fractions of T; ``least`` has no meaning here.

        See `mcap.diffusion.noise.NoiseProcess`.
        """
        return self.sample(generator, time_of_fraction(limits[0]), time_of_fraction(limits[1]))

    def is_from(self, times: torch.Tensor, fraction: float) -> torch.Tensor:
        """See `mcap.diffusion.noise.NoiseProcess`."""
        return times >= time_of_fraction(fraction)

    def add_noise(
        self, latents: torch.Tensor, noise: torch.Tensor, times: torch.Tensor
    ) -> torch.Tensor:
        """Return x_s for latents and noise B x C x h x w."""
        s = along(times, latents)
        return (1 - s) * latents + s * noise

    def target(
        self, latents: torch.Tensor, noise: torch.Tensor, times: torch.Tensor
    ) -> torch.Tensor:
        """Return the velocity v, B x C x h x w; the same at all ``times``."""
        return noise - latents

    def clean_estimate(
        self, noised: torch.Tensor, prediction: torch.Tensor, times: torch.Tensor
    ) -> torch.Tensor:
        """Return x_0 by one straight step from x_s, differentiable in the predicted velocity."""
        return noised - along(times, noised) * prediction


def along(times: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return float[B] as B x 1 x 1 x 1 in the precision and on the device of ``like``."""
    return times.to(device=like.device, dtype=like.dtype).reshape(-1, 1, 1, 1)


def equal_snr(alpha: float) -> float:
    """Return the time s at which the path has the signal-to-noise ratio of a_t = ``alpha``.

    (1 - s) / s = sqrt(a_t) / sqrt(1 - a_t), so s = sqrt(1 - a_t) / (sqrt(a_t) + sqrt(1 - a_t)).
    """
    signal, sigma = math.sqrt(alpha), math.sqrt(1 - alpha)
    return sigma / (signal + sigma)


def time_of_fraction(fraction: float) -> float:
    """Return the time s that is as noisy as timestep ``fraction`` T of Stable Diffusion 1.5.

    By `equal_snr`; 0.4 T, the identity row's limit, is 0.537. 0 and 1 are the path's own ends. That
    schedule stops short of the last: its final timestep still has a signal, and is at 0.936.
    """
    timestep = min(int(fraction * STEPS), STEPS)
    if timestep in (0, STEPS):
        return timestep / STEPS
    roots = torch.linspace(FIRST_BETA**0.5, LAST_BETA**0.5, STEPS, dtype=torch.float64)
    return equal_snr((1 - roots[:timestep].square()).prod().item())
