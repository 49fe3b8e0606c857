"""FLUX.2 klein: a transformer of text and image tokens, read by Qwen3, on a straight path.

Legend: B rows, L tokens of a padded prompt, D Qwen3's width, C x h x w a latent in the grid of the
transformer's tokens: patches of 2 x 2 of the autoencoder's own (`mcap.diffusion.latents`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from mcap.contracts import PromptEmbedding
from mcap_plugins.klein.text import TEXT_LAYERS, text_states
from mcap_plugins.shared.flow_backbone import FlowBackbone


class KleinBackbone(FlowBackbone):
    """`mcap.contracts.Backbone` over the parts of a Flux2KleinPipeline."""

    thinking = False
    text_layers = TEXT_LAYERS[-1]

    def encode_prompt(self, input_ids: Sequence[torch.Tensor]) -> PromptEmbedding:
        """One int64[B, L] -> hidden states B x L x 3 D, differentiable in the embedding rows."""
        (ids,) = input_ids
        pad = self.tokenizers[0].pad_token_id
        return PromptEmbedding(text_states(self.text_encoders[0], ids.to(self.device), pad))

    def velocity(
        self, noised: torch.Tensor, times: torch.Tensor, embedding: PromptEmbedding
    ) -> torch.Tensor:
        """Return v for x_s B x C x h x w at times s float[B]; as `mcap.contracts.PredictsVelocity`.

        The transformer has an embedding of the guidance only in other variants of FLUX.2.
        """
        from diffusers import Flux2KleinPipeline

        places = Flux2KleinPipeline._prepare_latent_ids(noised).to(noised.device)
        words = Flux2KleinPipeline._prepare_text_ids(embedding.hidden).to(noised.device)
        predicted: torch.Tensor = self.unet(
            hidden_states=noised.flatten(2).transpose(1, 2),
            timestep=times.to(noised),
            guidance=None,
            encoder_hidden_states=embedding.hidden,
            img_ids=places,
            txt_ids=words,
            return_dict=False,
        )[0]
        return predicted.transpose(1, 2).reshape(noised.shape)

    def pipeline(self) -> Any:
        """A Flux2KleinPipeline over these very modules, with a scheduler of its own."""
        from mcap_plugins.klein.pipeline import KleinPipeline

        return KleinPipeline(
            **self.pipeline_parts(),
            is_distilled=self.info.distilled,
        )
