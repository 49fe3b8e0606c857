"""Pictures to latents, once; masks to the latent grid.

Legend: B pictures, H x W pixels, C x h x w a latent times the VAE's scaling factor.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import adaptive_avg_pool2d

if TYPE_CHECKING:
    from mcap.contracts import Float32Array, UInt8Image


@torch.no_grad()
def encode(backbone: Any, images: torch.Tensor) -> torch.Tensor:
    """Encode images float[B, 3, H, W] in [0, 1] into latents float32[B, C, h, w] on the CPU.

    The mean of the VAE's posterior, not a sample of it, so that a latent depends on the picture
    alone. One picture at a time: the batch a picture is in would change its last bits.
    """
    vae = backbone.vae
    weight = next(vae.parameters())
    found = []
    for image in images:
        pixels = (image[None] * 2 - 1).to(device=weight.device, dtype=weight.dtype)
        mean = vae.encode(pixels).latent_dist.mode()
        mean = mean.to(torch.promote_types(mean.dtype, torch.float32))
        found.append((mean - shift_factor(vae)) * vae.config.scaling_factor)
    return torch.cat(found).cpu()


def encode_image(backbone: Any, image: UInt8Image, cache: Path | None = None) -> torch.Tensor:
    """Encode uint8[H, W, 3] into a latent float32[C, h, w] on the CPU, kept in folder ``cache``.

    A cached file is named by the hash of the pixels, the backbone's weights and its precision.
    A file that does not read is computed anew.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    file: Path | None = None
    if cache is not None:
        digest = hashlib.sha256()
        digest.update(f"mode {backbone.info.sha256} {backbone.dtype} {image.shape}".encode())
        digest.update(image.tobytes())
        file = Path(cache) / f"{digest.hexdigest()}.safetensors"
        if file.is_file():
            try:
                return load(file.read_bytes())["latent"]
            except (SafetensorError, KeyError):
                pass  # damaged: computed anew
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255
    latent = encode(backbone, pixels)[0]
    if file is not None:
        from mcap.runtime.files import write_bytes
        from mcap.runtime.safetensors import safetensors_bytes

        write_bytes(file, safetensors_bytes({"latent": latent}))
    return latent


def decode(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Decode latents B x C x h x w into images B x 3 x H x W about [0, 1], differentiable.

    ``vae`` is any of diffusers' autoencoders for this latent space, AutoencoderTiny (taesd) too.
    Not clamped: that would cut the gradient wherever an estimate overshoots.
    """
    weight = next(vae.decoder.parameters())  # the encoder may be offloaded
    latents = latents.to(device=weight.device, dtype=weight.dtype)
    picture = vae.decode(latents / vae.config.scaling_factor + shift_factor(vae)).sample
    return picture.to(torch.promote_types(picture.dtype, torch.float32)) / 2 + 0.5


def vae_factor(vae: Any) -> int:
    """Return the pixels on a side of one latent position."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def shift_factor(vae: Any) -> float:
    """Return the mean that a VAE takes off its latents; 0 where its configuration has none."""
    return getattr(vae.config, "shift_factor", None) or 0.0


def latent_mask(mask: Float32Array | torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Reduce a mask [H, W] in [0, 1] to float32[1, h, w] by area average, still soft."""
    return adaptive_avg_pool2d(torch.as_tensor(mask, dtype=torch.float32)[None, None], size)[0]


def region(mask: torch.Tensor) -> torch.Tensor:
    """Return soft masks on the latent grid as 0 and 1; a position is in from one half on."""
    return (mask >= 0.5).to(mask.dtype)
