"""What the demo backbone makes of a picture: the same person as it would have drawn them.

A portrait that the backbone draws has no original, so a restorer cannot be taught from it. These
have one: the picture's own latents ("rebuilt"), and the latents noised and brought back by the
UNet in the steps in which it draws ("redrawn": SDEdit, Meng et al. 2022, at a small strength), so
that they have its softness and its faults and still the picture's outlines.

Legend: B batch, S side of a picture (256), L h w of latents.
"""

from __future__ import annotations

from pathlib import Path

import backbone_tools  # noqa: F401
import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

STEPS = 20  # of a whole picture
STRENGTHS = (0.05, 0.2)
"""Least and largest share of the way to pure noise. From 0.3 on the outlines move."""
CAPTION = "a photo of a person"


class Backbone:
    """Autoencoder and UNet of a diffusers folder, float32, on the CPU."""

    def __init__(self, folder: Path):
        def read(kind, name):
            model = kind.from_pretrained(folder / name, torch_dtype=torch.float32)
            return model.eval().requires_grad_(False)

        self.vae = read(AutoencoderKL, "vae")
        self.unet = read(UNet2DConditionModel, "unet")
        self.scheduler = DDIMScheduler.from_pretrained(folder / "scheduler")
        self.scheduler.set_timesteps(STEPS)
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        tokens = tokenizer(
            CAPTION, padding="max_length", max_length=tokenizer.model_max_length,
            truncation=True, return_tensors="pt",
        ).input_ids  # fmt: skip
        with torch.no_grad():
            self.context = read(CLIPTextModel, "text_encoder")(tokens)[0]

    @torch.no_grad()
    def latents(self, pictures: np.ndarray) -> torch.Tensor:
        """float32[B, L, h, w], scaled as the UNet has them, of uint8[B, S, S, 3]."""
        x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
        return self.vae.encode(x).latent_dist.mode() * self.vae.config.scaling_factor

    @torch.no_grad()
    def redrawn(self, clean: torch.Tensor, strength: float, rng) -> torch.Tensor:
        """Latents noised to a share of the way and brought back in the steps that are left."""
        times = self.scheduler.timesteps[STEPS - max(round(strength * STEPS), 1) :]
        noise = torch.from_numpy(rng.normal(size=tuple(clean.shape)).astype(np.float32))
        x = self.scheduler.add_noise(clean, noise, times[:1])
        context = self.context.expand(len(x), -1, -1)
        for time in times:
            velocity = self.unet(x, time, context).sample
            x = self.scheduler.step(velocity, time, x).prev_sample
        return x

    @torch.no_grad()
    def decoded(self, latents: torch.Tensor) -> np.ndarray:
        """uint8[B, S, S, 3]."""
        y = self.vae.decode(latents / self.vae.config.scaling_factor).sample
        y = ((y.permute(0, 2, 3, 1) + 1) * 127.5).round().clamp(0, 255)
        return y.byte().numpy()

    def seen(self, picture: np.ndarray, rng) -> np.ndarray:
        """uint8[2, S, S, 3]: a picture uint8[S, S, 3] rebuilt, and redrawn at a random strength."""
        clean = self.latents(picture[None])
        redrawn = self.redrawn(clean, rng.uniform(*STRENGTHS), rng)
        return self.decoded(torch.cat([clean, redrawn]))
