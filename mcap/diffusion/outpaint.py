"""Draw what lies beyond a picture's edges, with a plain UNet or transformer.

RePaint (arXiv 2201.09865, equation 8) and Blended Latent Diffusion (2206.02779): at every step the
latents of what is known are put back, noised to the step's level, so that the rest is denoised
beside them. The noise is one for all steps: the known part then follows the sampler's own path.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from mcap.diffusion import schedulers
from mcap.diffusion.latents import encode_image
from mcap.diffusion.rectified_flow import RectifiedFlow
from mcap.diffusion.sampling import SamplingSettings, decode_images, denoise

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mcap.contracts import Backbone, UInt8Image


@dataclass(frozen=True, eq=False)
class Canvas:
    """A picture of which a part is known; the rest may hold anything."""

    image: UInt8Image
    """[H, W, 3]"""
    known: NDArray[np.bool_]
    """[h, w], on the latent grid."""


@torch.no_grad()
def outpaint(
    backbone: Backbone,
    pipeline: Any,
    prompt: str,
    seed: int,
    canvas: Canvas,
    settings: SamplingSettings,
    on_step: Callable[[int], None] | None = None,
) -> UInt8Image:
    """Return the canvas, uint8[H, W, 3], with everything drawn anew that is not known.

    What is known comes back as the autoencoder gives it, so that the two fit together;
    ``settings.size`` is (W, H). The noise is that of ``seed``, on the CPU, as in
    `mcap.diffusion.sampling`. ``on_step`` is called after each call of the UNet with 1.
    """
    picture = encode_image(backbone, canvas.image)[None].to(backbone.device, backbone.dtype)
    kept = torch.from_numpy(canvas.known).to(picture)[None, None]
    generator = torch.Generator("cpu").manual_seed(seed)
    noise = torch.randn(picture.shape, generator=generator, dtype=backbone.dtype).to(picture)

    def put_back(used: Any, call: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        steps = used.scheduler.timesteps
        there = picture
        if call + 1 < len(steps):
            if schedulers.is_straight(used.scheduler):
                # Its steps are of one order, so that each has its time on the path.
                there = RectifiedFlow().add_noise(picture, noise, used.scheduler.sigmas[call + 1])
            else:
                there = used.scheduler.add_noise(picture, noise, steps[call + 1 : call + 2])
        drawn = tensors["latents"]
        tensors["latents"] = (kept * there + (1 - kept) * drawn).to(drawn.dtype)
        if on_step is not None:
            on_step(1)
        return tensors

    latents = denoise(pipeline, [prompt], [seed], settings, put_back, start=noise)
    image: UInt8Image = decode_images(backbone.vae, latents)[0]
    return image
