"""Keys and values of cross-attention that learn: Custom Diffusion (arXiv 2212.04488).

While installed, a wrapper stands where each cross-attention's ``to_k`` and ``to_v`` were: the
frozen projection and, beside it, a float32 weight that starts as its copy. `remove_key_values` puts
the projections back. What was learned is written in the form that diffusers'
``load_attn_procs`` reads.

Legend: B rows, L tokens of a prompt, D the text's width, H the layer's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear

PROJECTIONS = ("to_k", "to_v")


class LearnedProjection(nn.Module):
    """A frozen projection of the text and a trainable weight float32[H, D] in its place.

    At the first position, where every prompt has its start, the result is constant to the gradient,
    as in the authors' code: only what a prompt says may teach.
    """

    def __init__(self, original: nn.Linear) -> None:
        super().__init__()
        self.original = original
        dtype = torch.promote_types(original.weight.dtype, torch.float32)
        self.learned = nn.Parameter(original.weight.detach().to(dtype, copy=True))
        self.switched_on = True

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        """Project float[B, L, D] to float[B, L, H] in the precision of ``text``."""
        if not self.switched_on:
            projected: torch.Tensor = self.original(text)
            return projected
        bias = self.original.bias
        found = linear(text.to(self.learned.dtype), self.learned, bias)
        return torch.cat([found[:, :1].detach(), found[:, 1:]], dim=1).to(text.dtype)


def cross_attentions(unet: Any) -> dict[str, Any]:
    """Return the modules that attend to the text, by name, in the UNet's order."""
    return {name: module for name, module in unet.named_modules() if name.endswith(".attn2")}


def add_key_values(unet: Any) -> list[nn.Parameter]:
    """Let keys and values of every cross-attention learn; return their weights in the UNet's order.

    The UNet computes what it did. ValueError where they learn already.
    """
    weights = []
    for attention in cross_attentions(unet).values():
        for name in PROJECTIONS:
            original = getattr(attention, name)
            if not isinstance(original, nn.Linear):
                raise ValueError("something else stands where keys and values are projected")
            learned = LearnedProjection(original)
            setattr(attention, name, learned)
            weights.append(learned.learned)
    return weights


def learned_projections(unet: Any) -> list[LearnedProjection]:
    """Return what `add_key_values` put in; [] where nothing was."""
    return [module for module in unet.modules() if isinstance(module, LearnedProjection)]


def remove_key_values(unet: Any) -> None:
    """Put the original projections back; without learned ones, do nothing."""
    for attention in cross_attentions(unet).values():
        for name in PROJECTIONS:
            module = getattr(attention, name)
            if isinstance(module, LearnedProjection):
                setattr(attention, name, module.original)


def key_value_state(unet: Any) -> dict[str, torch.Tensor]:
    """Return the learned weights under the names of diffusers' attention processors.

    ``load_attn_procs`` sets every processor of a UNet and takes an empty tensor for one that has
    learned nothing, as self-attention's.
    """
    learned = cross_attentions(unet)
    state: dict[str, torch.Tensor] = {}
    for processor in unet.attn_processors:
        attention = learned.get(processor.removesuffix(".processor"))
        if attention is None:
            state[processor] = torch.zeros(0)
            continue
        for name in PROJECTIONS:
            weight = getattr(attention, name).learned
            state[f"{processor}.{name}_custom_diffusion.weight"] = weight.detach().cpu().clone()
    return state


def plain_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return what `key_value_state` gave under the names that the weights have in a UNet."""
    return {
        key.replace(".processor.", ".").replace("_custom_diffusion", ""): weight
        for key, weight in state.items()
        if weight.numel()
    }
