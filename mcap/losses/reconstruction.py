"""Masked reconstruction: the denoising error inside a mask, a small face as heavy as a large wall.

Legend: B rows, C latent channels, h x w the latent grid.
"""

from __future__ import annotations

import torch
from torch.nn.functional import avg_pool2d


def masked_reconstruction(
    pred: torch.Tensor, target: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """Return ``sum_p M_p mean_c (target - pred)^2 / sum_p M_p``, the mean over the batch, a scalar.

    ``pred`` and ``target`` are B x C x h x w, ``mask`` B x 1 x h x w in [0, 1]. Rows whose mask is
    all 0 are left out of the mean; with none left the loss is 0 and its gradients are 0. The
    gradient by ``pred`` and ``target`` is exactly 0 wherever the mask is 0, whatever stands there.

    MagiCapture (arXiv 2309.06895), section 3.3, normalised by the mask's area. Raises ValueError
    where the shapes do not fit.
    """
    pred, target, mask = _checked(pred, target, mask)
    # Masking the difference and not only the square keeps an infinite value outside the mask from
    # turning its zero gradient into a NaN.
    difference = torch.where(mask > 0, target - pred, 0.0)
    error = difference.square().mean(dim=1, keepdim=True)
    area = mask.sum(dim=(1, 2, 3))
    filled = area > 0
    rows = (mask * error).sum(dim=(1, 2, 3)) / torch.where(filled, area, 1.0)
    return rows.sum() / filled.sum().clamp(min=1)


def weighted_reconstruction(
    pred: torch.Tensor, target: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """Return ``mean (m * (target - pred))^2 / mean m`` with ``m = (M + 0.01) / max``, the mean over
    the batch, a scalar.

    The released code's form (junhahyung/MagiCapture, commit 004c04e, ``loss_step``, whose batch
    is one row). Shapes and errors as in `masked_reconstruction`. The mask never reaches 0, so no
    row is ever left out.
    """
    pred, target, mask = _checked(pred, target, mask)
    weight = mask + 0.01
    weight = weight / weight.amax(dim=(1, 2, 3), keepdim=True)
    rows = (weight * (target - pred)).square().mean(dim=(1, 2, 3))
    return (rows / weight.mean(dim=(1, 2, 3))).mean()


LEAST_FILLED = 0.3
"""Of a window, that must lie in the mask for the window to count."""


def tone_difference(
    pred: torch.Tensor, target: torch.Tensor, mask: torch.Tensor, windows: float = 4.5
) -> torch.Tensor:
    """Return ``mean_w mean_c (sum_w M (pred - target) / sum_w M)^2``, the mean over the batch, a
    scalar: how far the local means of two predictions differ, whatever their details do.

    w are the squares, at every place, ``windows`` of which are as high as the picture and
    `LEAST_FILLED` of which lies in the mask. Shapes, rows without any and errors as in
    `masked_reconstruction`. mcap's own, not of the paper.
    """
    pred, target, mask = _checked(pred, target, mask)
    height, width = mask.shape[2:]
    side = max(1, min(round(height / windows), width))
    difference = torch.where(mask > 0, pred - target, 0.0)
    filled = avg_pool2d(mask, side, stride=1)
    means = avg_pool2d(mask * difference, side, stride=1) / filled.clamp(min=LEAST_FILLED)
    counts = (filled >= LEAST_FILLED).to(mask)
    count = counts.sum(dim=(1, 2, 3))
    rows = (counts * means.square().mean(dim=1, keepdim=True)).sum(dim=(1, 2, 3))
    return (rows / count.clamp(min=1)).sum() / (count > 0).sum().clamp(min=1)


def _checked(
    pred: torch.Tensor, target: torch.Tensor, mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the tensors in one dtype, float32 or better; ValueError where shapes do not fit."""
    if pred.ndim != 4 or pred.shape != target.shape:
        raise ValueError(
            f"pred and target must both be B x C x h x w; got {tuple(pred.shape)} "
            f"and {tuple(target.shape)}"
        )
    expected = (pred.shape[0], 1, *pred.shape[2:])
    if tuple(mask.shape) != expected:
        raise ValueError(f"mask must be B x 1 x h x w = {expected}; got {tuple(mask.shape)}")
    dtype = torch.float32
    for tensor in (pred, target, mask):
        dtype = torch.promote_types(dtype, tensor.dtype)
    return pred.to(dtype), target.to(dtype), mask.to(dtype)
