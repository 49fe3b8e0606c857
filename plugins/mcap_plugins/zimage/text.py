"""A prompt as Z-Image's transformer reads it: a hidden state of Qwen3, without padding.

Legend: B prompts, L tokens of a padded prompt, L' of one without padding, D Qwen3's width.
"""

from __future__ import annotations

from typing import Any

import torch

from mcap.contracts import PromptEmbedding
from mcap_plugins.shared.qwen import hidden_states, with_outputs

TEXT_LAYER = -2
"""Before the text encoder's last layer."""


def text_states(encoder: Any, ids: torch.Tensor, pad: int) -> PromptEmbedding:
    """Return the `TEXT_LAYER` of Qwen3 for int64[B, L] and the lengths of the prompts.

    Qwen3 is causal, and padding follows a prompt: it is run as far as the longest one, and the
    states of the padding, which nothing reads, are 0.
    """
    lengths = (ids != pad).sum(dim=1)
    longest = int(lengths.max())
    ids, rest = ids[:, :longest], ids.shape[1] - longest
    states = with_outputs(encoder, ids, hidden_states(encoder, ids, pad)[TEXT_LAYER])
    return PromptEmbedding(torch.nn.functional.pad(states, (0, 0, 0, rest)), lengths=lengths)


def prompt_rows(embedding: PromptEmbedding) -> list[torch.Tensor]:
    """Return each prompt's embedding without its padding, L' x D."""
    assert embedding.lengths is not None, "text_states gives them"
    return [
        row[:length]
        for row, length in zip(embedding.hidden, embedding.lengths.tolist(), strict=True)
    ]
