"""Decode a clean estimate for a face network: the whole latent, or the window the face needs.

The decoder, forward and backward, dominates a training step, so the identity term decodes no
more than it must. Legend: C x h x w a latent, H x W pixels; boxes and points are pixels (x, y).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.utils.checkpoint import checkpoint

from mcap.diffusion.latents import decode, patch_side, unscaled, vae_factor
from mcap.geometry.align import invert, similarity


@dataclass(frozen=True)
class Decoded:
    """A decoded part of a picture, float[1, 3, H', W'] about [0, 1], not clamped."""

    image: torch.Tensor
    left: int = 0
    """Where the part lies in the whole picture, pixels."""
    top: int = 0


class Decoder(Protocol):
    """Decodes a clean estimate for a face network."""

    whole: bool
    """True where the result does not depend on ``box``, so a detector can search it."""

    def __call__(self, latent: torch.Tensor, box: tuple[float, float, float, float]) -> Decoded:
        """A latent 1 x C x h x w, and the pixels (x0, y0, x1, y1) that will be looked at."""
        ...


class FullDecoder:
    """The whole latent through ``vae``, the backbone's own or a tiny one for the same latents."""

    whole = True

    def __init__(self, vae: Any) -> None:
        self.vae = vae

    def __call__(self, latent: torch.Tensor, box: tuple[float, float, float, float]) -> Decoded:
        return Decoded(decode(self.vae, latent))


class WindowDecoder:
    """The window that covers ``box`` plus ``margin`` latent positions on each side.

    The decoder's first convolution and middle block, which attend globally, run on the whole
    latent; only the upsampling blocks, where the work is, run on the window. Their GroupNorms
    then see other statistics, so a window is close to the full decode and not equal to it. The
    last two blocks, which cost most and see least around them, keep three quarters and one half of
    the margin.

    Measured with SFace on the demo backbone's decoder, six photos at 0.35, 0.5 and 0.65 of the
    picture's side, with and without noise in the latent, margin 2: cosine to the full decode at
    least 0.997, of the gradient 0.94; margin 1: 0.99 and 0.90. Needs an AutoencoderKL.
    """

    whole = False

    def __init__(self, vae: Any, margin: int = 2) -> None:
        if not hasattr(vae.decoder, "mid_block"):
            raise ValueError(f"a window cannot be decoded with {type(vae).__name__}; use 'full'")
        self.vae = vae
        self.margin = margin

    def __call__(self, latent: torch.Tensor, box: tuple[float, float, float, float]) -> Decoded:
        vae, decoder = self.vae, self.vae.decoder
        factor = vae_factor(vae)
        left, top, right, bottom = self.window(latent, box)
        weight = decoder.conv_in.weight
        hidden = latent.to(device=weight.device, dtype=weight.dtype)
        hidden, side = unscaled(vae, hidden), patch_side(vae)
        if vae.post_quant_conv is not None:
            hidden = vae.post_quant_conv(hidden)
        hidden = decoder.mid_block(decoder.conv_in(hidden))
        hidden = hidden[:, :, side * top : side * bottom, side * left : side * right]
        blocks = list(decoder.up_blocks)
        for index, (block, part) in enumerate(zip(blocks, _margins(len(blocks)), strict=True)):
            grid = side * 2**index  # of positions that the block has for one of the latent
            x0, y0, x1, y1 = self.window(latent, box, part, grid)
            rows = slice(round((y0 - top) * grid), round((y1 - top) * grid))
            columns = slice(round((x0 - left) * grid), round((x1 - left) * grid))
            hidden, (left, top) = hidden[:, :, rows, columns], (x0, y0)
            if decoder.gradient_checkpointing and torch.is_grad_enabled():
                hidden = checkpoint(block, hidden, use_reentrant=False)
            else:
                hidden = block(hidden)
        image = decoder.conv_out(decoder.conv_act(decoder.conv_norm_out(hidden)))
        image = image.to(torch.promote_types(image.dtype, torch.float32)) / 2 + 0.5
        return Decoded(image, round(left * factor), round(top * factor))

    def window(
        self,
        latent: torch.Tensor,
        box: tuple[float, float, float, float],
        part: float = 1.0,
        grid: int = 1,
    ) -> tuple[Any, Any, Any, Any]:
        """Return the latent positions (left, top, right, bottom) that are decoded for ``box``.

        With ``part`` of the margin, rounded up to one ``grid``-th of a position.
        """
        factor, (height, width) = vae_factor(self.vae), latent.shape[-2:]
        margin = math.ceil(self.margin * part * grid) / grid
        margin = int(margin) if margin.is_integer() else margin
        left, right = _span(box[0], box[2], factor, margin, width)
        top, bottom = _span(box[1], box[3], factor, margin, height)
        return left, top, right, bottom

    def share(self, latent: torch.Tensor, box: tuple[float, float, float, float]) -> float:
        """Return the part of the latent that is decoded for ``box``; 1 where nothing is saved."""
        left, top, right, bottom = self.window(latent, box)
        return (right - left) * (bottom - top) / (latent.shape[-2] * latent.shape[-1])


def template_box(
    landmarks: torch.Tensor, template: torch.Tensor, size: int
) -> tuple[float, float, float, float]:
    """Return the pixels (x0, y0, x1, y1) that a recogniser's ``size`` x ``size`` square covers.

    ``landmarks`` float[5, 2] in the picture, ``template`` float[5, 2] in the square.
    """
    points = torch.as_tensor(landmarks).detach().to("cpu", torch.float64)
    back = invert(similarity(points, torch.as_tensor(template).to("cpu", torch.float64)))
    corners = torch.tensor(
        [[0, 0, 1], [size, 0, 1], [0, size, 1], [size, size, 1]], dtype=torch.float64
    )
    places = corners @ back.T
    low, high = places.amin(dim=0).tolist(), places.amax(dim=0).tolist()
    return (low[0], low[1], high[0], high[1])


def _margins(blocks: int) -> list[float]:
    """Return the part of the margin that each upsampling block sees."""
    return [1.0] * (blocks - 2) + [0.75, 0.5] if blocks > 2 else [1.0] * blocks


def _span(low: float, high: float, factor: int, margin: float, length: int) -> tuple[Any, Any]:
    """Return the positions of a pixel interval, widened and cut to the latent; never empty."""
    start = math.floor(low / factor) - margin
    stop = math.ceil(high / factor) + margin
    start = min(max(start, 0), length - 1)
    return start, max(min(stop, length), start + 1)
