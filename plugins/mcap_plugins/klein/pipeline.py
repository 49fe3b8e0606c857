"""Flux2KleinPipeline as mcap calls pipelines: learned words, a negative prompt, scaled latents."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import Flux2KleinPipeline
from tokenizers import Tokenizer

from mcap.diffusion.latents import scaled
from mcap.diffusion.tokens import TokenEmbedding
from mcap_plugins.klein.backbone import text_states


class KleinPipeline(Flux2KleinPipeline):
    """A Flux2KleinPipeline that takes and gives what diffusers' older pipelines do.

    Its tokenizer is `mcap_plugins.klein.backbone.chat_tokenizer`'s. A prompt has learned words
    through `load_textual_inversion`, in a wrapper around the text encoder's own table.
    """

    @property
    def unet(self) -> Any:
        """The denoising network, by the name that it has in mcap."""
        return self.transformer

    def encode_prompt(
        self,
        prompt: str | list[str] | None,
        device: torch.device | None = None,
        num_images_per_prompt: int = 1,
        prompt_embeds: torch.Tensor | None = None,
        **_: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return embeddings B x L x 3 D and their places, of prompts or of embeddings."""
        device = device or self._execution_device
        if prompt_embeds is None:
            texts = [prompt or ""] if isinstance(prompt, str | None) else prompt
            ids = self.tokenizer(
                texts,
                padding="max_length",
                max_length=self.tokenizer.model_max_length,
                truncation=True,
                return_tensors="pt",
            ).input_ids
            pad = self.tokenizer.pad_token_id
            prompt_embeds = text_states(self.text_encoder, ids.to(device), pad)
        prompt_embeds = prompt_embeds.repeat_interleave(num_images_per_prompt, dim=0)
        return prompt_embeds, self._prepare_text_ids(prompt_embeds).to(device)

    @torch.no_grad()
    def __call__(
        self, *, negative_prompt: list[str] | None = None, output_type: str = "pil", **given: Any
    ) -> Any:
        """As the pipeline it derives from, by keywords; "latent" are scaled latents B x C x h x w.

        ``negative_prompt`` stands in the place of the empty text that guidance leads away from.
        """
        if negative_prompt is not None:
            given["negative_prompt_embeds"] = self.encode_prompt(negative_prompt)[0]
        drawn = super().__call__(output_type=output_type, **given)
        if output_type == "latent":
            drawn.images = scaled(self.vae, drawn.images)
        return drawn

    def load_textual_inversion(
        self, vectors: dict[str, torch.Tensor], *, text_encoder: Any, tokenizer: Any, **_: Any
    ) -> None:
        """Add words to a tokenizer and their vectors float[D] to a text encoder."""
        table = text_encoder.get_input_embeddings()
        words = dict(getattr(self, "_words", {}))
        if not words:
            self._bare = (table, tokenizer.backend_tokenizer.to_str())
        self._words = words | vectors
        tokenizer.add_tokens(list(vectors))
        self._put_words(text_encoder, tokenizer)

    def unload_textual_inversion(
        self, tokens: list[str], *, text_encoder: Any, tokenizer: Any
    ) -> None:
        """Take words out again; with the last one the table itself is back in its place."""
        self._words = {word: row for word, row in self._words.items() if word not in tokens}
        tokenizer._tokenizer = Tokenizer.from_str(self._bare[1])
        tokenizer.add_tokens(list(self._words))
        self._put_words(text_encoder, tokenizer)

    def _put_words(self, text_encoder: Any, tokenizer: Any) -> None:
        table = self._bare[0]
        if not self._words:
            text_encoder.set_input_embeddings(table)
            return
        rows = torch.stack([row.to(table.weight.device) for row in self._words.values()])
        ids = tokenizer.convert_tokens_to_ids(list(self._words))
        wrapper = TokenEmbedding(table, ids, rows).requires_grad_(False)
        text_encoder.set_input_embeddings(wrapper)
