"""ZImagePipeline as mcap calls pipelines: learned words, prompts in the tokenizer's template."""

from __future__ import annotations

import torch
from diffusers import ZImagePipeline

from mcap_plugins.shared.qwen import QwenPipeline, prompt_ids
from mcap_plugins.zimage.text import prompt_rows, text_states


class MethodZImagePipeline(QwenPipeline, ZImagePipeline):
    """A ZImagePipeline whose tokenizer is `mcap_plugins.shared.qwen.chat_tokenizer`'s."""

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
