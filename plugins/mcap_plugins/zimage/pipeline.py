"""ZImagePipeline as mcap calls pipelines: learned words, prompts in the tokenizer's template."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import ZImagePipeline

from mcap_plugins.shared.qwen import LearnedWords, prompt_ids
from mcap_plugins.zimage.text import prompt_rows, text_states


class MethodZImagePipeline(LearnedWords, ZImagePipeline):
    """A ZImagePipeline whose tokenizer is `mcap_plugins.shared.qwen.chat_tokenizer`'s."""

    # Set or made by the class it derives from, where no type checker sees them.
    transformer: Any
    text_encoder: Any
    tokenizer: Any
    _execution_device: Any

    @property
    def unet(self) -> Any:
        """The denoising network, by the name that it has in mcap."""
        return self.transformer

    def _encode_prompt(
        self,
        prompt: str | list[str],
        device: torch.device | None = None,
        prompt_embeds: list[torch.Tensor] | None = None,
        max_sequence_length: int = 512,
    ) -> list[torch.Tensor]:
        if prompt_embeds is not None:
            return prompt_embeds
        ids = prompt_ids(self.tokenizer, [prompt] if isinstance(prompt, str) else prompt)
        device = device or self._execution_device
        pad = self.tokenizer.pad_token_id
        return prompt_rows(text_states(self.text_encoder, ids.to(device), pad))
