"""Tiny random transformers of the classes of FLUX.2 klein and Z-Image, made in seconds."""

from __future__ import annotations

import torch

TOKENS = 16
"""Width of a text token of the tiny Qwen3."""


def tiny_flux2(seed: int = 0, dtype: torch.dtype = torch.float32):
    """Flux2Transformer2DModel of klein's form, two blocks of each kind; tokens of 16 channels."""
    from diffusers import Flux2Transformer2DModel

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = Flux2Transformer2DModel(
            in_channels=16,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=3 * TOKENS,
            timestep_guidance_channels=16,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=False,
        )
    return made.to(dtype).eval().requires_grad_(False)


def tiny_zimage(seed: int = 0, dtype: torch.dtype = torch.float32):
    """ZImageTransformer2DModel of two layers and a refiner of each kind; latents of 4 channels."""
    from diffusers import ZImageTransformer2DModel

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = ZImageTransformer2DModel(
            in_channels=4,
            dim=32,
            n_layers=2,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=TOKENS,
            axes_dims=[4, 6, 6],
            axes_lens=[128, 16, 16],
        )
    return made.to(dtype).eval().requires_grad_(False)
