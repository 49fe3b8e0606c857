"""The frozen parts of a rectified flow: Qwen3 reads the prompt, a transformer denoises.

Legend: B rows, L tokens of a padded prompt, C x h x w a latent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from mcap.contracts import BackboneInfo, PromptEmbedding
from mcap.diffusion.offload import Turns
from mcap_plugins.shared.quantised import quantise
from mcap_plugins.shared.qwen import chat_tokenizer, keep_layers


class FlowBackbone:
    """The frozen parts of a `mcap.contracts.Backbone`; how its network is called is its own.

    ``unet`` is the transformer; its ``info.prediction_type`` is "rectified_flow".
    """

    thinking: bool
    """How the pipeline sets the chat template's ``enable_thinking``."""
    text_layers: int | None = None
    """Of Qwen3's layers, how many are read; None: all, or all but the last."""

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
        self.tokenizers = [chat_tokenizer(modules["tokenizer"], thinking=self.thinking)]
        self.text_encoders = [modules["text_encoder"]]
        if self.text_layers is not None:
            keep_layers(self.text_encoders[0], self.text_layers)
        if info.quantised is not None:
            for module in (*self.text_encoders, modules["transformer"]):
                quantise(module, info.quantised, self.device)
        self.vae = modules["vae"]
        self.unet = modules["transformer"]
        self.scheduler = modules["scheduler"]
        for module in (*self.text_encoders, self.vae, self.unet):
            module.eval().requires_grad_(False)
        self.vae.to(self.device)
        if info.in_turns:
            (encoder,) = self.text_encoders
            # Where the encoder and the decoder are entered.
            turns = {encoder.base_model: encoder, self.unet: self.unet, self.vae.decoder: None}
            Turns(turns, self.device)
            return
        for module in (*self.text_encoders, self.unet):
            module.to(self.device)

    def added_conditions(
        self, embedding: PromptEmbedding, size: tuple[int, int]
    ) -> dict[str, torch.Tensor] | None:
        return None

    def pipeline_parts(self) -> dict[str, Any]:
        """Return these very modules, and a scheduler of its own, as diffusers' pipelines take
        them."""
        return {
            "scheduler": type(self.scheduler).from_config(self.scheduler.config),
            "vae": self.vae,
            "text_encoder": self.text_encoders[0],
            "tokenizer": self.tokenizers[0],
            "transformer": self.unet,
        }
