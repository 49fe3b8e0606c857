"""Latent diffusion models with one text encoder, in diffusers' own classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from mcap.contracts import BackboneInfo, PromptEmbedding

if TYPE_CHECKING:
    from mcap_plugins.stable_diffusion.identity_encoder import IdentityEncoder


class StableDiffusionBackbone:
    """`mcap.contracts.Backbone` over the parts of a diffusers pipeline; everything frozen."""

    def __init__(
        self,
        info: BackboneInfo,
        modules: Mapping[str, Any],
        device: torch.device | str,
        dtype: torch.dtype,
        identity_encoder: IdentityEncoder | None = None,
    ) -> None:
        """``modules``: the parts by diffusers' names (`mcap_plugins.stable_diffusion.parts`).

        ``identity_encoder`` is there where ``info.identity_encoder`` says so.
        """
        self.info = info
        self.identity_encoder = identity_encoder
        self.device = torch.device(device)
        self.dtype = dtype
        names = [name for name in ("", "_2") if f"text_encoder{name}" in modules]
        self.tokenizers = [modules[f"tokenizer{name}"] for name in names]
        self.text_encoders = [modules[f"text_encoder{name}"] for name in names]
        self.vae = modules["vae"]
        self.unet = modules["unet"]
        self.scheduler = modules["scheduler"]
        for module in (*self.text_encoders, self.vae, self.unet):
            module.to(self.device).eval().requires_grad_(False)

    def encode_prompt(self, input_ids: Sequence[torch.Tensor]) -> PromptEmbedding:
        """One int64[B, L] -> the text encoder's last hidden state, as plain diffusers takes it."""
        (ids,) = input_ids
        return PromptEmbedding(self.text_encoders[0](ids.to(self.device), return_dict=False)[0])

    def identity_rows(self, embeddings: torch.Tensor) -> list[torch.Tensor]:
        """Return the row of [V1] for one person's unit face embeddings float32[N, D]: that of the
        direction of their mean."""
        assert self.identity_encoder is not None, "info.identity_encoder says whether there is one"
        mean = torch.nn.functional.normalize(embeddings.float().mean(dim=0, keepdim=True), dim=-1)
        return [self.identity_encoder.rows(mean)[0]]

    def added_conditions(
        self, embedding: PromptEmbedding, size: tuple[int, int]
    ) -> dict[str, torch.Tensor] | None:
        return None

    def pipeline(self) -> Any:
        """A StableDiffusionPipeline over these very modules, with a scheduler of its own."""
        from diffusers import StableDiffusionPipeline

        return StableDiffusionPipeline(
            vae=self.vae,
            text_encoder=self.text_encoders[0],
            tokenizer=self.tokenizers[0],
            unet=self.unet,
            scheduler=type(self.scheduler).from_config(self.scheduler.config),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
