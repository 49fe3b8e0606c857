"""The two phases: the parameters that learn in each, and from which terms.

phase 1   the two tokens learn; everything else is frozen
phase 2   LoRA layers go into the UNet and learn, the tokens go on learning; or, as the recipe's
          ``learns`` says, all of the UNet learns, or the keys and values of its cross-attention
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from mcap.diffusion.compile import plain_blocks
from mcap.diffusion.key_value import add_key_values
from mcap.diffusion.lora import add_lora, add_text_lora
from mcap.diffusion.rectified_flow import RectifiedFlow
from mcap.diffusion.untouched import Untouched
from mcap.training.batches import Role
from mcap.training.optimizer import PhaseOptimizer
from mcap.training.step import StepTerms

if TYPE_CHECKING:
    from mcap.contracts import Backbone
    from mcap.diffusion.tokens import LearnedTokens
    from mcap.training.recipe import Recipe


@dataclass(frozen=True)
class Phase:
    number: int
    """1: tokens; 2: what the recipe says beside them."""
    first: int
    """Steps of the run that are done when it begins."""
    steps: int

    @property
    def last(self) -> int:
        """Steps of the run that are done when it ends."""
        return self.first + self.steps


def phases(recipe: Recipe, done: int = 0) -> list[Phase]:
    """Return the phases that are left after ``done`` steps.

    A phase that is over is left only where it is the run's last one, whose values are to be saved.
    """
    both = [
        Phase(1, 0, recipe.phase1_steps),
        Phase(2, recipe.phase1_steps, recipe.phase2_steps),
    ]
    return [
        phase
        for phase in both
        if phase.steps and (done < phase.last or done == phase.last == recipe.steps)
    ]


def step_terms(recipe: Recipe, phase: int) -> StepTerms:
    """Return the terms of a phase: the first reconstructs the two plain rows, the second has all.

    Where rows are computed one by one, their means become sums over calls: the identity weight is
    divided by the number of its roles.
    """
    tuning = phase == 2
    roles: tuple[Role, ...] = ("identity",)
    if recipe.identity_rows == "data":
        roles = ("source", "composed")
    identity_weight = recipe.identity_weight
    if recipe.batching == "sequential":
        identity_weight /= len(roles)
    return StepTerms(
        composed=recipe.composed_weight if tuning and recipe.composed else 0.0,
        identity=identity_weight if tuning and recipe.identity else 0.0,
        identity_every=recipe.identity_every,
        attention=recipe.attention_weight if tuning and recipe.attention else 0.0,
        attention_min_range=recipe.attention_min_range,
        attention_among=recipe.attention_among,
        identity_roles=roles,
        masked=recipe.masks,
        mask_form=recipe.mask_form,
        timesteps=(0.0, recipe.timestep_limit if tuning else 1.0),
        identity_timesteps=(recipe.identity_from, recipe.identity_limit),
        flow=RectifiedFlow(recipe.flow_mean, recipe.flow_std),
        shape=recipe.shape_weight if tuning and recipe.keeps_head else 0.0,
        shape_from=recipe.shape_from,
        tone=recipe.tone_weight if tuning and recipe.keeps_head else 0.0,
        tone_windows=recipe.tone_windows,
        prior=recipe.prior_weight if tuning and recipe.has_prior else 0.0,
        prior_outputs=tuning and recipe.has_prior and recipe.prior == "outputs",
        early_weight=recipe.early_style_weight,
    )


def phase_optimizer(
    phase: Phase, recipe: Recipe, untouched: Untouched, tokens: LearnedTokens, seed: int
) -> PhaseOptimizer:
    """Return the optimiser of a phase; what learns in phase 2 is put into the backbone."""
    backbone = untouched.backbone
    groups: dict[str, tuple[list[torch.nn.Parameter], float, float]] = {}
    if recipe.tokens:
        rate = recipe.phase1_token_lr if phase.number == 1 else recipe.phase2_token_lr
        # Words that stay as they are need no gradient through the text encoders, and each prompt is
        # embedded once.
        learn = phase.number == 1 or rate > 0
        for parameter in tokens.parameters():
            parameter.requires_grad_(learn)
        if learn:
            groups["tokens"] = (tokens.parameters(), rate, recipe.token_weight_decay)
    if phase.number == 1:
        return PhaseOptimizer(groups, phase.steps, recipe, backbone)
    keep = recipe.needs_untouched
    if recipe.learns == "unet":
        weights = untouched.learn_unet(keep=keep)
    elif recipe.learns == "key-value":
        weights = add_key_values(backbone.unet)
    else:
        weights = add_lora(backbone.unet, recipe.lora_rank, recipe.lora_targets, seed)
    groups[recipe.learns] = (weights, recipe.phase2_lora_lr, recipe.lora_weight_decay)
    if recipe.text_encoder:
        if recipe.learns == "unet":
            text = untouched.learn_text_encoders(keep=keep)
        else:
            text = [
                parameter
                for number, encoder in enumerate(backbone.text_encoders)
                for parameter in add_text_lora(encoder, recipe.lora_rank, seed + 1 + number)
            ]
        groups["text"] = (text, recipe.phase2_text_lr, recipe.lora_weight_decay)
    return PhaseOptimizer(groups, phase.steps, recipe, backbone)


@contextmanager
def frozen(backbone: Backbone, recipe: Recipe) -> Iterator[Untouched]:
    """Freeze the backbone, as the recipe wants it computed; hand it back as it came.

    That is gradient checkpointing, the memory layout, and at the end nothing that learned and no
    compiled blocks.
    """
    untouched = Untouched(backbone)
    for module in (backbone.unet, backbone.vae, *backbone.text_encoders):
        module.requires_grad_(False)
        module.eval()
    with ExitStack() as stack:
        stack.callback(untouched.put_back)
        stack.callback(plain_blocks, backbone.unet)
        if recipe.gradient_checkpointing:
            for module in (backbone.unet, backbone.vae):
                module.enable_gradient_checkpointing()
                stack.callback(module.disable_gradient_checkpointing)
        half_on_gpu = backbone.device.type == "cuda" and backbone.dtype.itemsize == 2
        if recipe.channels_last == "on" or (recipe.channels_last == "auto" and half_on_gpu):
            for module in (backbone.unet, backbone.vae.decoder):
                module.to(memory_format=torch.channels_last)
                stack.callback(module.to, memory_format=torch.contiguous_format)
        yield untouched
