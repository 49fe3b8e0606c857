"""What a reconstruction is held to: L1, squares, pixel steps, colour, and the face's identity.

Shapes: pictures float[B, 3, H, W] in [0, 1], landmarks float[B, 5, 2] in pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from faces_torch import embed


def picture_terms(y: torch.Tensor, x: torch.Tensor, chroma: float) -> dict[str, torch.Tensor]:
    """Weighted terms of reconstructions y against originals x."""
    return {
        "l1": (y - x).abs().mean(),
        "squares": 2 * (y - x).pow(2).mean(),
        "sharp": 0.5 * differences(y, x),
        "colour": chroma * colours(y, x),
    }


def face_distance(sface, y: torch.Tensor, x: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """1 - SFace similarity of reconstruction and original, mean over the batch."""
    with torch.no_grad():
        wanted = embed(sface, x, points)
    found = embed(sface, y.clamp(-0.1, 1.1), points)
    return (1 - (wanted * found).sum(-1)).mean()


def green_magenta(x: torch.Tensor) -> torch.Tensor:
    """Green less the mean of red and blue: [B, 3, H, W] -> [B, 1, H, W]."""
    return x[:, 1:2] - (x[:, :1] + x[:, 2:]) / 2


def colours(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """L1 of the red-blue and green-magenta differences of two pictures, averaged over 4 x 4 pixels.

    Colour is a small part of the squared error of a face, so without this term a code gives one
    direction of it away for detail.
    """
    d = F.avg_pool2d(a - b, 4)
    return (d[:, 0] - d[:, 2]).abs().mean() + green_magenta(d).abs().mean()


def differences(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """L1 between the pixel-to-pixel steps of two pictures, both directions, two scales."""
    d = a - b
    coarse = F.avg_pool2d(d, 2)
    return sum(
        (x[..., 1:] - x[..., :-1]).abs().mean() + (x[..., 1:, :] - x[..., :-1, :]).abs().mean()
        for x in (d, coarse)
    )
