"""A prompt as klein's transformer reads it: three hidden states of Qwen3, side by side.

Legend: B prompts, L tokens of a padded prompt, D Qwen3's width.
"""

from __future__ import annotations

from typing import Any

import torch

TEXT_LAYERS = (9, 18, 27)


def text_states(encoder: Any, ids: torch.Tensor, pad: int) -> torch.Tensor:
    """Return the `TEXT_LAYERS` of Qwen3 for int64[B, L], side by side: B x L x 3 D.

    Without the head over the vocabulary, which nothing reads.
    """
    output = encoder.model(
        input_ids=ids,
        attention_mask=(ids != pad).long(),
        output_hidden_states=True,
        use_cache=False,
    )
    return torch.cat([output.hidden_states[layer] for layer in TEXT_LAYERS], dim=-1)
