"""SDXL (arXiv 2307.01952): two text encoders, a pooled embedding and size conditions.

Legend: B prompts, L tokens, D1 and D2 the text encoders' widths (768 and 1280), P the pooled
embedding's (1280).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mcap.contracts import BackboneInfo, PromptEmbedding
from mcap.diffusion.pooling import pool_at_end
from mcap_plugins.stable_diffusion.sd15 import StableDiffusionBackbone


class StableDiffusionXLBackbone(StableDiffusionBackbone):
    """`mcap.contracts.Backbone` with two text encoders; everything frozen."""

    def __init__(
        self,
        info: BackboneInfo,
        modules: Mapping[str, Any],
        device: torch.device | str,
        dtype: torch.dtype,
        zero_empty: bool = True,
    ) -> None:
        """``zero_empty``: without a negative prompt guidance starts from zeros, as SDXL was
        trained, and not from the embedding of an empty text (``force_zeros_for_empty_prompt`` in
        the model's model_index.json)."""
        super().__init__(info, modules, device, dtype)
        pool_at_end(self.text_encoders[1], self.tokenizers[1])
        self.zero_empty = zero_empty

    def encode_prompt(self, input_ids: Sequence[torch.Tensor]) -> PromptEmbedding:
        """Two int64[B, L] -> hidden B x L x (D1 + D2) and pooled B x P.

        The hidden states of both encoders are those before the last layer, without its norm; the
        pooled vector is the second encoder's projection at the end of the text, see
        `mcap.diffusion.pooling`.
        """
        hidden = []
        for encoder, ids in zip(self.text_encoders, input_ids, strict=True):
            output = encoder(ids.to(self.device), output_hidden_states=True)
            hidden.append(output.hidden_states[-2])
        return PromptEmbedding(torch.cat(hidden, dim=-1), output.text_embeds)

    def added_conditions(
        self, embedding: PromptEmbedding, size: tuple[int, int]
    ) -> dict[str, torch.Tensor]:
        """``text_embeds`` B x P and ``time_ids`` B x 6 for pictures of (height, width) pixels.

        The six are the original size, the crop's top left corner and the target size (section 2.2).
        A training crop counts as a whole picture of its own size, which is also what drawing asks
        for.
        """
        pooled = embedding.pooled
        assert pooled is not None, "encode_prompt of this class gives one"
        times = pooled.new_tensor([*size, 0, 0, *size]).expand(len(pooled), -1)
        return {"text_embeds": pooled, "time_ids": times}

    def pipeline(self) -> Any:
        """A StableDiffusionXLPipeline over these very modules, with a scheduler of its own."""
        from diffusers import StableDiffusionXLPipeline

        return StableDiffusionXLPipeline(
            vae=self.vae,
            text_encoder=self.text_encoders[0],
            text_encoder_2=self.text_encoders[1],
            tokenizer=self.tokenizers[0],
            tokenizer_2=self.tokenizers[1],
            unet=self.unet,
            scheduler=type(self.scheduler).from_config(self.scheduler.config),
            force_zeros_for_empty_prompt=self.zero_empty,
            add_watermarker=False,  # it would change pixels where the package happens to be there
        )
