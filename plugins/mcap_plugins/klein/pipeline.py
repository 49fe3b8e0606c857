"""Flux2KleinPipeline as mcap calls pipelines: learned words, a negative prompt, scaled latents."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import Flux2KleinPipeline

from mcap.diffusion.latents import scaled
from mcap.diffusion.sampling import AfterCall
from mcap_plugins.klein.text import text_states
from mcap_plugins.shared.qwen import QwenPipeline, prompt_ids


class KleinPipeline(QwenPipeline, Flux2KleinPipeline):
    """A Flux2KleinPipeline that takes and gives what diffusers' older pipelines do.

    Its tokenizer is `mcap_plugins.shared.qwen.chat_tokenizer`'s.
    """

    _prepare_text_ids: Any
    vae_scale_factor: int

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
            ids = prompt_ids(self.tokenizer, texts)
            pad = self.tokenizer.pad_token_id
            prompt_embeds = text_states(self.text_encoder, ids.to(device), pad)
        prompt_embeds = prompt_embeds.repeat_interleave(num_images_per_prompt, dim=0)
        return prompt_embeds, self._prepare_text_ids(prompt_embeds).to(device)

    @torch.no_grad()
    def __call__(
        self,
        *,
        negative_prompt: list[str] | None = None,
        output_type: str = "pil",
        callback_on_step_end: AfterCall | None = None,
        **given: Any,
    ) -> Any:
        """As the pipeline it derives from, by keywords; "latent" are scaled latents B x C x h x w,
        and so are those that ``callback_on_step_end`` sees and gives back.

        ``negative_prompt`` stands in the place of the empty text that guidance leads away from.
        """
        if negative_prompt is not None:
            given["negative_prompt_embeds"] = self.encode_prompt(negative_prompt)[0]
        if callback_on_step_end is not None:
            side = 2 * self.vae_scale_factor
            grid = (given["height"] // side, given["width"] // side)
            told = callback_on_step_end

            def on_grid(
                used: Any, call: int, timestep: Any, tensors: dict[str, Any]
            ) -> dict[str, Any]:
                tokens = tensors["latents"]  # B x (h w) x C
                tensors["latents"] = tokens.transpose(1, 2).unflatten(2, grid)
                back = told(used, call, timestep, tensors)
                if "latents" in back:
                    back["latents"] = back["latents"].flatten(2).transpose(1, 2)
                return back

            given["callback_on_step_end"] = on_grid
        draw: Any = Flux2KleinPipeline.__call__
        drawn = draw(self, output_type=output_type, **given)
        if output_type == "latent":
            drawn.images = scaled(self.vae, drawn.images)
        return drawn
