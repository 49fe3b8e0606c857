"""The forward process: timesteps, noised latents, training targets, the one-step clean estimate.

Legend: B rows, C x h x w a latent, T the scheduler's training steps. ``alphas`` are the
scheduler's cumulative products, a_t in method notation, float[T].

    z_t = sqrt(a_t) z + sqrt(1 - a_t) eps                       (DDPM, arXiv 2006.11239, eq. 4)
    v   = sqrt(a_t) eps - sqrt(1 - a_t) z                       (arXiv 2202.00512, section 4)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from mcap.diffusion.rectified_flow import RectifiedFlow
from mcap.weights.model_source import PREDICTION_TYPES

if TYPE_CHECKING:
    from mcap.contracts import Backbone


class NoiseProcess(Protocol):
    """The way from latents to noise that a model was trained on.

    ``times`` are of each row: timesteps int64[B] of a table of a_t, or s float64[B] of a
    `RectifiedFlow`. Latents and noise are B x C x h x w.
    """

    def sample_time(
        self, generator: torch.Generator, limits: tuple[float, float], least: int
    ) -> float:
        """Return one time; takes one number of ``generator``.

        ``limits`` are fractions of T, of Stable Diffusion 1.5's where there is no table;
        ``least`` is the first timestep of such a table.
        """
        ...

    def is_from(self, times: torch.Tensor, fraction: float) -> torch.Tensor:
        """Return bool[B], whether each time lies at ``fraction``, as `sample_time` has it, or
        beyond, where there is more noise."""
        ...

    def add_noise(
        self, latents: torch.Tensor, noise: torch.Tensor, times: torch.Tensor
    ) -> torch.Tensor:
        """Return the noised latents."""
        ...

    def target(
        self, latents: torch.Tensor, noise: torch.Tensor, times: torch.Tensor
    ) -> torch.Tensor:
        """Return what the network should predict."""
        ...

    def clean_estimate(
        self, noised: torch.Tensor, prediction: torch.Tensor, times: torch.Tensor
    ) -> torch.Tensor:
        """Return the clean latents by one step, differentiable in the prediction."""
        ...


@dataclass(frozen=True)
class Diffusion:
    """The `NoiseProcess` of a table of a_t."""

    alphas: torch.Tensor
    """a_t, float[T]."""
    prediction_type: str

    def sample_time(
        self, generator: torch.Generator, limits: tuple[float, float], least: int
    ) -> float:
        steps = len(self.alphas)
        low, high = limits
        return sample_timestep(generator, max(least, int(low * steps)), int(high * steps))

    def is_from(self, times: torch.Tensor, fraction: float) -> torch.Tensor:
        return times >= int(fraction * len(self.alphas))

    def add_noise(
        self, latents: torch.Tensor, noise: torch.Tensor, times: torch.Tensor
    ) -> torch.Tensor:
        return add_noise(latents, noise, times, self.alphas)

    def target(
        self, latents: torch.Tensor, noise: torch.Tensor, times: torch.Tensor
    ) -> torch.Tensor:
        return training_target(latents, noise, times, self.alphas, self.prediction_type)

    def clean_estimate(
        self, noised: torch.Tensor, prediction: torch.Tensor, times: torch.Tensor
    ) -> torch.Tensor:
        return clean_estimate(noised, prediction, times, self.alphas, self.prediction_type)


def noise_process(backbone: Backbone, flow: RectifiedFlow | None = None) -> NoiseProcess:
    """Return the process that a backbone was trained on; ``flow`` is the spread of the times where
    that is a straight path, by default diffusers' scripts'."""
    if backbone.info.is_rectified_flow:
        return flow or RectifiedFlow()
    return Diffusion(backbone.scheduler.alphas_cumprod, backbone.info.prediction_type)


def sample_timestep(generator: torch.Generator, low: int, high: int) -> int:
    """Return one timestep, uniform over low, ..., high - 1; takes one number of ``generator``."""
    if high <= low:
        raise ValueError(f"no timestep lies in [{low}, {high})")
    return int(torch.randint(low, high, (), generator=generator))


def add_noise(
    latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor, alphas: torch.Tensor
) -> torch.Tensor:
    """Return z_t for latents and noise B x C x h x w and timesteps int64[B]."""
    signal, sigma = signal_and_sigma(timesteps, alphas, latents)
    return signal * latents + sigma * noise


def training_target(
    latents: torch.Tensor,
    noise: torch.Tensor,
    timesteps: torch.Tensor,
    alphas: torch.Tensor,
    prediction_type: str,
) -> torch.Tensor:
    """Return the UNet's target: the noise ("epsilon"), or the velocity ("v_prediction")."""
    _check(prediction_type)
    if prediction_type == "epsilon":
        return noise
    signal, sigma = signal_and_sigma(timesteps, alphas, latents)
    return signal * noise - sigma * latents


def clean_estimate(
    noised: torch.Tensor,
    prediction: torch.Tensor,
    timesteps: torch.Tensor,
    alphas: torch.Tensor,
    prediction_type: str,
) -> torch.Tensor:
    """Return the clean latent that one step from z_t gives, differentiable in the prediction."""
    _check(prediction_type)
    signal, sigma = signal_and_sigma(timesteps, alphas, noised)
    if prediction_type == "epsilon":
        return (noised - sigma * prediction) / signal
    return signal * noised - sigma * prediction


def signal_and_sigma(
    timesteps: torch.Tensor, alphas: torch.Tensor, like: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return sqrt(a_t) and sqrt(1 - a_t), both B x 1 x 1 x 1, on the device of ``like``."""
    level = alphas.to(device=like.device, dtype=like.dtype)[timesteps.to(like.device)]
    level = level.reshape(-1, 1, 1, 1)
    return level.sqrt(), (1 - level).sqrt()


def _check(prediction_type: str) -> None:
    if prediction_type not in PREDICTION_TYPES:
        raise ValueError(
            f"a model with prediction_type '{prediction_type}' cannot be trained here; "
            f"it must be one of {', '.join(PREDICTION_TYPES)}"
        )
