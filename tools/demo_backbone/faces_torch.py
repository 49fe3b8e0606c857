"""SFace as a frozen torch module, and the crop it expects."""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F

# Where SFace wants right eye, left eye, nose, right and left mouth corner: pixels of 112 x 112.
TEMPLATE = torch.tensor(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655],
     [70.7299, 92.2041]]
)  # fmt: skip


def load_sface(path: str) -> torch.nn.Module:
    """Frozen, in eval mode (its batch norms refuse a batch of 1 in train mode)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx2torch import convert

        network = convert(path)
    return network.eval().requires_grad_(False)


def similarity(points: torch.Tensor) -> torch.Tensor:
    """Least-squares similarity from template to picture pixels: [B, 5, 2] -> [B, 2, 3].

    A rotation with scale is a complex factor: p = s * t + o with s, o complex, so least squares
    has a closed form (a reflection cannot come out of it).
    """
    template = TEMPLATE.to(points).expand_as(points)
    t_mean, p_mean = template.mean(1, keepdim=True), points.mean(1, keepdim=True)
    t, p = template - t_mean, points - p_mean
    norm = (t * t).sum((1, 2))
    a = (t * p).sum((1, 2)) / norm
    b = (t[..., 0] * p[..., 1] - t[..., 1] * p[..., 0]).sum(1) / norm
    turn = torch.stack([torch.stack([a, -b], -1), torch.stack([b, a], -1)], 1)
    shift = p_mean[:, 0] - (turn @ t_mean[:, 0, :, None])[..., 0]
    return torch.cat([turn, shift[..., None]], 2)


def crop(images: torch.Tensor, points: torch.Tensor, size: int = 112) -> torch.Tensor:
    """Aligned faces: images [B, 3, H, W], points [B, 5, 2] in pixels -> [B, 3, size, size]."""
    height, width = images.shape[-2:]
    matrix = similarity(points)
    axis = torch.arange(size, dtype=images.dtype)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    grid = torch.stack([x, y, torch.ones_like(x)], -1) @ matrix[:, None].transpose(-1, -2)
    # Pixel centres to grid_sample's [-1, 1] with align_corners=False.
    scale = torch.tensor([width, height], dtype=images.dtype)
    grid = (grid + 0.5) / scale * 2 - 1
    return F.grid_sample(images, grid, align_corners=False, padding_mode="border")


def embed(network, images: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Unit face embeddings [B, 128] of images [B, 3, H, W] in [0, 1] RGB."""
    return F.normalize(network(crop(images, points) * 255), dim=-1)
