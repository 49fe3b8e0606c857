"""Attention Refocusing: a special token's attention stays inside the region it stands for.

Legend: B rows, N heads and layers together, h x w the latent grid.
"""

from __future__ import annotations

import torch


def attention_refocusing(
    maps: torch.Tensor, region: torch.Tensor, min_range: float = 0.0
) -> torch.Tensor:
    """Return the mean over rows and positions of ``[region = 0] * (mean_n S(maps_n))^2``.

    ``maps`` is B x N x h x w, the special token's cross-attention probabilities of each head of
    each layer, already at the region's size; ``region`` is B x 1 x h x w of 0 and 1. S is min-max
    scaling of each map to [0, 1] whose minimum and maximum are constants to the gradient; a
    constant map scales to 0. Only positions outside the region are pushed, towards 0; inside it
    the map is free. Rows with an empty region are left out of the mean; with none left the loss
    is 0 with finite gradients.

    ``min_range``, a probability: a map whose range is smaller is scaled by this instead of by its
    range. The paper has none (0): scaled by its own range, a map that fades goes on being pushed
    as hard, in a small network until its token has no attention left inside the region either.

    MagiCapture (arXiv 2309.06895), section 3.4. Raises ValueError where the shapes do not fit.
    """
    if maps.ndim != 4:
        raise ValueError(f"maps must be B x N x h x w; got {tuple(maps.shape)}")
    expected = (maps.shape[0], 1, *maps.shape[2:])
    if tuple(region.shape) != expected:
        raise ValueError(f"region must be B x 1 x h x w = {expected}; got {tuple(region.shape)}")
    scaled = min_max(maps.to(torch.promote_types(maps.dtype, torch.float32)), min_range)
    outside = region[:, 0] == 0
    row = torch.where(outside, scaled.mean(dim=1), 0.0).square().mean(dim=(1, 2))
    filled = ~outside.all(dim=2).all(dim=1)
    return torch.where(filled, row, 0.0).sum() / filled.sum().clamp(min=1)


def weighted_refocusing(maps: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean over rows and positions of ``(mean_n S(maps_n) - m)^2`` where ``m < 1/2``,
    and of ``(1 - m)^2`` elsewhere.

    The released code's form (junhahyung/MagiCapture, commit 004c04e, ``loss_step``): outside the
    region attention is drawn to the weighted mask ``m``, which is not quite 0 there. ``mask`` is
    that m, B x 1 x h x w in (0, 1] or the rest of it to 1; ``maps`` and S as in
    `attention_refocusing`.
    """
    scaled = min_max(maps.to(torch.promote_types(maps.dtype, torch.float32)))
    drawn = torch.where(mask < 0.5, scaled, 1.0).mean(dim=1, keepdim=True)
    return (drawn - mask).square().mean()


def min_max(maps: torch.Tensor, min_range: float = 0.0) -> torch.Tensor:
    """Return each map of B x N x h x w scaled to [0, 1], a constant one to 0.

    A map counts as constant where its range is within the rounding of its values: resizing a
    constant map leaves steps of that size, and scaling them up would be noise.
    """
    fixed = maps.detach()
    low = fixed.amin(dim=(2, 3), keepdim=True)
    high = fixed.amax(dim=(2, 3), keepdim=True)
    span = high - low
    rounding = 8 * torch.finfo(maps.dtype).eps * torch.maximum(low.abs(), high.abs())
    constant = span <= rounding.clamp(min=torch.finfo(maps.dtype).tiny)
    return torch.where(
        constant, 0.0, (maps - low) / torch.where(constant, 1.0, span.clamp(min=min_range))
    )
