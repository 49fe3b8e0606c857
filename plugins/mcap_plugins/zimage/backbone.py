"""Z-Image: a transformer that sees image and text in one stream, read by Qwen3.

Legend: B rows, L tokens of a padded prompt, D Qwen3's width, C x h x w a latent of its VAE; the
transformer makes a token of each 2 x 2 patch itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mcap.contracts import BackboneInfo, PromptEmbedding
from mcap_plugins.shared.qwen import chat_tokenizer
from mcap_plugins.zimage.text import prompt_rows, text_states


class ZImageBackbone:
    """`mcap.contracts.Backbone` over the parts of a ZImagePipeline; everything frozen.

    ``unet`` is the transformer; its ``info.prediction_type`` is "rectified_flow".
    """

    def __init__(
        self,
        info: BackboneInfo,
        modules: Mapping[str, Any],
        device: torch.device | str,
        dtype: torch.dtype,
    ) -> None:
        """``modules``: the parts by diffusers' names."""
        self.info = info
        self.device = torch.device(device)
        self.dtype = dtype
        self.tokenizers = [chat_tokenizer(modules["tokenizer"], thinking=True)]
        self.text_encoders = [modules["text_encoder"]]
        self.vae = modules["vae"]
        self.unet = modules["transformer"]
        self.scheduler = modules["scheduler"]
        for module in (*self.text_encoders, self.vae, self.unet):
            module.to(self.device).eval().requires_grad_(False)

    def encode_prompt(self, input_ids: Sequence[torch.Tensor]) -> PromptEmbedding:
        """One int64[B, L] -> hidden states B x L x D and how many of them are the prompt's."""
        (ids,) = input_ids
        pad = self.tokenizers[0].pad_token_id
        return text_states(self.text_encoders[0], ids.to(self.device), pad)

    def added_conditions(
        self, embedding: PromptEmbedding, size: tuple[int, int]
    ) -> dict[str, torch.Tensor] | None:
        return None

    def velocity(
        self, noised: torch.Tensor, times: torch.Tensor, embedding: PromptEmbedding
    ) -> torch.Tensor:
        """Return v for x_s B x C x h x w at times s float[B]; as `mcap.contracts.PredictsVelocity`.

        The transformer is given 1 - s, and gives -v.
        """
        predicted = self.unet(
            list(noised.unsqueeze(2)),
            1 - times.to(noised),
            prompt_rows(embedding),
            return_dict=False,
        )[0]
        velocity: torch.Tensor = -torch.stack(predicted).squeeze(2)
        return velocity

    def pipeline(self) -> Any:
        """A ZImagePipeline over these very modules, with a scheduler of its own."""
        from mcap_plugins.zimage.pipeline import MethodZImagePipeline

        return MethodZImagePipeline(
            scheduler=type(self.scheduler).from_config(self.scheduler.config),
            vae=self.vae,
            text_encoder=self.text_encoders[0],
            tokenizer=self.tokenizers[0],
            transformer=self.unet,
        )
