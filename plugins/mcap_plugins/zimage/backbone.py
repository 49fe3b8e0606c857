"""Z-Image: a transformer that sees image and text in one stream, read by Qwen3.

Legend: B rows, L tokens of a padded prompt, D Qwen3's width, C x h x w a latent of its VAE; the
transformer makes a token of each 2 x 2 patch itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from mcap.contracts import PromptEmbedding
from mcap_plugins.shared.flow_backbone import FlowBackbone
from mcap_plugins.zimage.text import prompt_rows, text_states


class ZImageBackbone(FlowBackbone):
    """`mcap.contracts.Backbone` over the parts of a ZImagePipeline."""

    thinking = True

    def encode_prompt(self, input_ids: Sequence[torch.Tensor]) -> PromptEmbedding:
        """One int64[B, L] -> hidden states B x L x D and how many of them are the prompt's."""
        (ids,) = input_ids
        pad = self.tokenizers[0].pad_token_id
        return text_states(self.text_encoders[0], ids.to(self.device), pad)

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
            **self.pipeline_parts(),
        )
