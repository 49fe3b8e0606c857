"""Encodes every training picture once a part: half as it is, half in made styles.

    python tools/demo_backbone/encode_latents.py --data DATA --out RUN --part 0

Part k writes RUN/latents_k.npz: latents float16[N, L, h, w] (standardised channel by channel),
rows int32[N] into table.json, flipped bool[N], and the styles' words. The first part also writes
RUN/standard.json: each latent channel's mean and standard deviation, which export.py folds into
the autoencoder's 1 x 1 convolutions, so that the shipped latents have mean 0 and deviation 1.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import numpy as np
import torch
from styles import draw_styles
from train_autoencoder import Pictures, build


def load_autoencoder(run: Path, name: str = "autoencoder.pt"):
    """The trained autoencoder; name "enlarged.pt": the one for twice the side."""
    kept = torch.load(run / name, weights_only=True)
    vae = build(kept["channels"], kept["latents"])
    vae.load_state_dict(kept["vae"])
    return vae.eval().to(memory_format=torch.channels_last)


@torch.no_grad()
def encode(vae, images: np.ndarray) -> np.ndarray:
    """Latent modes float32[B, L, h, w] of pictures float32[B, S, S, 3] in [0, 1]."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2) * 2 - 1
    x = x.contiguous(memory_format=torch.channels_last)
    return vae.encode(x).latent_dist.mode().contiguous().numpy()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--part", type=int, required=True)
    parser.add_argument("--styled", type=float, default=0.55, help="share of rows with a style")
    options = parser.parse_args()
    pictures, vae = Pictures(options.data), load_autoencoder(options.out)
    rng = np.random.default_rng(1000 + options.part)
    rows = rng.permutation(pictures.train)
    # Even parts flip the even numbers, odd parts the odd ones: two parts show both sides of all.
    flipped = (rows + options.part) % 2 == 0
    words = [draw_styles(rng) if rng.random() < options.styled else [] for _ in rows]
    latents = []
    for start in range(0, len(rows), 16):
        some = []
        for k in range(start, min(start + 16, len(rows))):
            image = pictures.styled(rows[k], words[k], rng)
            some.append(image[:, ::-1] if flipped[k] else image)
        latents.append(encode(vae, np.stack(some)))
    latents = np.concatenate(latents)
    standard = options.out / "standard.json"
    if not standard.exists():
        # A channel that the KL term switched off holds next to nothing (deviation 0.1, its own
        # posterior noise 1). Enlarged to deviation 1 it would cost the UNet as much as a real one.
        mean, deviation = latents.mean((0, 2, 3)), np.maximum(latents.std((0, 2, 3)), 1.0)
        values = {"mean": mean.tolist(), "deviation": deviation.tolist()}
        temporary = standard.with_suffix(".part")
        temporary.write_text(json.dumps(values))
        os.replace(temporary, standard)
    kept = json.loads(standard.read_text())
    mean, deviation = (np.array(kept[k], np.float32) for k in ("mean", "deviation"))
    latents = (latents - mean[:, None, None]) / deviation[:, None, None]
    path = options.out / f"latents_{options.part}.npz"
    temporary = path.with_suffix(".part.npz")
    np.savez(
        temporary, latents=latents.astype(np.float16), rows=rows.astype(np.int32),
        flipped=flipped, words=np.array(["|".join(w) for w in words]),
    )  # fmt: skip
    os.replace(temporary, path)
    print(f"{path}: {latents.shape}, mean {np.round(mean, 2)}, deviation {np.round(deviation, 2)}")


if __name__ == "__main__":
    main()
