"""AdamW of a phase: its parameters, learning rates and gradient scaling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from mcap.errors import McapError, MissingResourceError

if TYPE_CHECKING:
    from mcap.contracts import Backbone
    from mcap.training.recipe import Recipe

EIGHT_BIT = "bitsandbytes"
"""The package whose AdamW keeps its moments in eight bits."""

LEAST_SCALE = 2.0**-10
"""Of the loss in half precision, which begins at 2^16 and is halved with every step that overflows:
26 of them without 2000 good ones in between."""


class PhaseOptimizer:
    """AdamW over named groups of float32 parameters, with the recipe's rates for one phase."""

    def __init__(
        self,
        groups: Mapping[str, tuple[Sequence[torch.nn.Parameter], float, float]],
        steps: int,
        recipe: Recipe,
        backbone: Backbone,
    ) -> None:
        """``groups``: name -> (parameters, learning rate, weight decay)."""
        self.groups = {name: list(parameters) for name, (parameters, _, _) in groups.items()}
        self.base = {name: rate for name, (_, rate, _) in groups.items()}
        self.steps = steps
        self.recipe = recipe
        for name, parameters in self.groups.items():
            for parameter in parameters:
                if parameter.dtype not in (torch.float32, torch.float64):
                    raise ValueError(f"{name} learns in {parameter.dtype}, which is too coarse")
        self.optimiser = adamw(
            [
                {"params": list(parameters), "lr": rate, "weight_decay": decay}
                for parameters, rate, decay in groups.values()
            ],
            recipe.optimiser,
            backbone.device,
        )
        # Half precision's gradients vanish below 6e-8 unless the loss is scaled up first.
        half = backbone.dtype == torch.float16
        self.scaler = torch.amp.GradScaler(backbone.device.type, enabled=half)

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        return [parameter for group in self.groups.values() for parameter in group]

    def counts(self) -> dict[str, int]:
        """Return name -> number of values that learn."""
        return {
            name: sum(parameter.numel() for parameter in group)
            for name, group in self.groups.items()
        }

    def rates(self, step: int) -> dict[str, float]:
        """Return the learning rates of step ``step`` of the phase, counted from 0."""
        left = 1.0 if self.recipe.lr_schedule == "constant" else 1.0 - step / self.steps
        return {name: base * left for name, base in self.base.items()}

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of ``loss`` to those of the step."""
        self.scaler.scale(loss).backward()

    def update(self, step: int) -> dict[str, float]:
        """Take one optimiser step with the gathered gradients; return the learning rates.

        `McapError` where a gradient is not finite. In half precision the step is passed over and
        the scale lowered instead; it is an error there where no scale is left, because nothing
        would be learned any more.
        """
        rates = self.rates(step)
        for group, rate in zip(self.optimiser.param_groups, rates.values(), strict=True):
            group["lr"] = rate
        self.scaler.unscale_(self.optimiser)
        limit = self.recipe.max_grad_norm or float("inf")
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, limit)
        if not self.scaler.is_enabled() and not torch.isfinite(norm):
            raise McapError(
                f"the gradient is {norm.item()} in step {step + 1} of the phase; lower the "
                "learning rate, or use --precision fp32."
            )
        self.scaler.step(self.optimiser)
        self.scaler.update()
        if self.scaler.is_enabled() and self.scaler.get_scale() < LEAST_SCALE:
            raise McapError(
                f"the gradient has not been finite for many steps in half precision, in step "
                f"{step + 1} of the phase again; use --precision bf16 or fp32."
            )
        self.optimiser.zero_grad(set_to_none=True)
        return rates

    def values(self) -> dict[str, list[torch.Tensor]]:
        """Return name -> a copy of the parameters, on the CPU."""
        return {
            name: [parameter.detach().cpu().clone() for parameter in group]
            for name, group in self.groups.items()
        }

    @torch.no_grad()
    def load_values(self, values: Mapping[str, Sequence[torch.Tensor]]) -> None:
        """Take back what `values` gave."""
        for name, group in self.groups.items():
            for parameter, value in zip(group, values[name], strict=True):
                parameter.copy_(value)

    def state(self) -> dict[str, Any]:
        """Return values, moments and gradient scale, for a checkpoint."""
        return {
            "parameters": self.values(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take back exactly what `state` gave."""
        self.load_values(state["parameters"])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])


def adamw(
    groups: Sequence[dict[str, Any]], name: str, device: torch.device
) -> torch.optim.Optimizer:
    """Return AdamW over torch's parameter groups, in one kernel where the device has one.

    ``name``: "adamw", or "adamw-8bit", whose moments have eight bits; `MissingResourceError` where
    bitsandbytes is not installed for it.
    """
    betas, eps = (0.9, 0.999), 1e-8
    if name == "adamw-8bit":
        try:
            from bitsandbytes.optim import AdamW8bit  # type: ignore[import-not-found]  # an extra
        except ImportError as error:
            raise MissingResourceError(
                f"optimiser 'adamw-8bit' needs the package {EIGHT_BIT}: pip install {EIGHT_BIT}; "
                "or leave --set optimiser out. It halves what the optimiser keeps, which matters "
                "with a large lora_rank only."
            ) from error
        optimiser: torch.optim.Optimizer = AdamW8bit(groups, betas=betas, eps=eps)
        return optimiser
    fused = device.type in ("cuda", "cpu")
    return torch.optim.AdamW(groups, betas=betas, eps=eps, fused=fused)
