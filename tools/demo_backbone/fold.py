"""A trained autoencoder -> a diffusers folder whose latents are standardised.

    python tools/demo_backbone/fold.py --data DATA256 --run RUN --to MODEL/vae

The standardisation is folded into quant_conv and post_quant_conv, exactly: both are 1 x 1 and
linear. So one shift and scale a channel costs nothing and no pipeline knows of it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from train_autoencoder import Pictures, batch, load_autoencoder


@torch.no_grad()
def standardise(vae, mean: torch.Tensor, deviation: torch.Tensor):
    """Latents become (z - mean) / deviation; decoding undoes it. quant_conv holds mean, logvar."""
    count = len(mean)
    quant, post = vae.quant_conv, vae.post_quant_conv
    quant.weight[:count] /= deviation[:, None, None, None]
    quant.bias[:count] = (quant.bias[:count] - mean) / deviation
    quant.bias[count:] -= 2 * deviation.log()
    post.bias += post.weight[:, :, 0, 0] @ mean
    post.weight *= deviation[None, :, None, None]
    vae.register_to_config(scaling_factor=1.0, force_upcast=False)
    return vae


@torch.no_grad()
def moments(vae, pictures: Pictures, count: int = 1024) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation [L] of each latent channel over training pictures.

    A channel that the KL term switched off holds next to nothing (deviation 0.1, its own posterior
    noise 1). Enlarged to deviation 1 it would cost the UNet as much as a real one.
    """
    rng = np.random.default_rng(0)
    rows = rng.permutation(pictures.train)[:count]
    latents = torch.cat(
        [
            vae.encode(batch(pictures, some, rng, 0.5)[0] * 2 - 1).latent_dist.mode()
            for some in np.array_split(rows, max(len(rows) // 16, 1))
        ]
    )
    return latents.mean((0, 2, 3)), latents.std((0, 2, 3)).clamp(min=1.0)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, type=Path, help="prepared at its side")
    parser.add_argument("--run", required=True, type=Path)
    parser.add_argument("--to", required=True, type=Path)
    options = parser.parse_args()
    newest = "enlarged.pt" if (options.run / "enlarged.pt").exists() else "autoencoder.pt"
    vae = load_autoencoder(options.run, newest)
    standardise(vae, *moments(vae, Pictures(options.data)))
    vae.to(torch.float16).save_pretrained(options.to, safe_serialization=True)


if __name__ == "__main__":
    main()
