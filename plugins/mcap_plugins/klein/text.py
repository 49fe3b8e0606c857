"""A prompt as klein's transformer reads it: three hidden states of Qwen3, side by side.

Legend: B prompts, L tokens of a padded prompt, D Qwen3's width.
"""

from __future__ import annotations

from typing import Any

import torch

from mcap_plugins.shared.qwen import hidden_states, with_outputs

TEXT_LAYERS = (9, 18, 27)


def text_states(encoder: Any, ids: torch.Tensor, pad: int) -> torch.Tensor:
    """Return the `TEXT_LAYERS` of Qwen3 for int64[B, L], side by side: B x L x 3 D."""
    states = hidden_states(encoder, ids, pad)
    return with_outputs(encoder, ids, torch.cat([states[layer] for layer in TEXT_LAYERS], dim=-1))
