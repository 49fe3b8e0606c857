"""Pictures to latents, once; masks to the latent grid.

A latent is here as the denoising network takes it: times the VAE's scaling factor, or, of FLUX.2's
VAE, in patches of 2 x 2 that are normalised by the statistics of its BatchNorm (`scaled`).

Legend: B pictures, H x W pixels, C x h x w a latent.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import adaptive_avg_pool2d, pixel_shuffle, pixel_unshuffle

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
        found.append(scaled(vae, mean))
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
    picture = vae.decode(unscaled(vae, latents)).sample
    return picture.to(torch.promote_types(picture.dtype, torch.float32)) / 2 + 0.5


def vae_factor(vae: Any) -> int:
    """Return the pixels on a side of one latent position."""
    factor: int = 2 ** (len(vae.config.block_out_channels) - 1) * patch_side(vae)
    return factor


def patch_side(vae: Any) -> int:
    """Return the side of the patch of the VAE's own latents that is one position: 2 for FLUX.2."""
    return int(vae.config.patch_size[0]) if normalises_patches(vae) else 1


def normalises_patches(vae: Any) -> bool:
    """Return True for FLUX.2's VAE, whose BatchNorm stands in the place of a scaling factor."""
    return getattr(vae.config, "batch_norm_eps", None) is not None


def scaled(vae: Any, mean: torch.Tensor) -> torch.Tensor:
    """Return the VAE's own latents as the denoising network takes them.

    x = (z - shift) scaling, or x = (patches(z) - mean) / sqrt(variance + eps) of FLUX.2.
    """
    if not normalises_patches(vae):
        shifted: torch.Tensor = (mean - shift_factor(vae)) * vae.config.scaling_factor
        return shifted
    offset, deviation = patch_statistics(vae, mean)
    return (pixel_unshuffle(mean, patch_side(vae)) - offset) / deviation


def unscaled(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Return latents as the VAE decodes them: the inverse of `scaled`."""
    if not normalises_patches(vae):
        shifted: torch.Tensor = latents / vae.config.scaling_factor + shift_factor(vae)
        return shifted
    offset, deviation = patch_statistics(vae, latents)
    return pixel_shuffle(latents * deviation + offset, patch_side(vae))


def patch_statistics(vae: Any, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and standard deviation of FLUX.2's patches, 1 x C x 1 x 1 each."""
    variance = vae.bn.running_var.reshape(1, -1, 1, 1) + vae.config.batch_norm_eps
    return vae.bn.running_mean.reshape(1, -1, 1, 1).to(like), variance.sqrt().to(like)


def shift_factor(vae: Any) -> float:
    """Return the mean that a VAE takes off its latents; 0 where its configuration has none."""
    return getattr(vae.config, "shift_factor", None) or 0.0


def latent_mask(mask: Float32Array | torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Reduce a mask [H, W] in [0, 1] to float32[1, h, w] by area average, still soft."""
    return adaptive_avg_pool2d(torch.as_tensor(mask, dtype=torch.float32)[None, None], size)[0]


def region(mask: torch.Tensor) -> torch.Tensor:
    """Return soft masks on the latent grid as 0 and 1; a position is in from one half on."""
    return (mask >= 0.5).to(mask.dtype)
