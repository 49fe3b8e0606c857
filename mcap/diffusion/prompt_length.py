"""Prompts that a text encoder would cut: counted with the learned tokens, and refused.

A learned token counts as one token whether the tokenizer knows it yet or not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mcap.contracts import ID_TOKEN, STYLE_TOKEN
from mcap.errors import UsageError


@dataclass(frozen=True)
class TooLong:
    """A prompt that a tokenizer would cut."""

    prompt: str
    tokens: int
    limit: int

    def __str__(self) -> str:
        return f"'{self.prompt}' is {self.tokens} tokens long, of which {self.limit} fit"


def count_tokens(
    prompt: str, tokenizer: Any, *, learned: Sequence[str] = (ID_TOKEN, STYLE_TOKEN)
) -> int:
    """Return the tokens that a prompt takes, start and end included.

    Learned tokens count as one whether the tokenizer knows them yet or not.
    """
    known = "|".join(re.escape(token) for token in learned)
    parts = re.split(f"({known})", prompt) if known else [prompt]
    total = tokenizer.num_special_tokens_to_add()
    for part in parts:
        if part in learned:
            total += 1
        elif part.strip():
            total += len(tokenizer(part, add_special_tokens=False, verbose=False).input_ids)
    return total


def token_limit(tokenizer: Any, text_encoder: Any | None = None) -> int:
    """Return the tokens that fit: the smaller of tokenizer's limit and encoder's positions."""
    limit = int(tokenizer.model_max_length)  # a tokenizer without one says 10 ** 30
    positions = getattr(getattr(text_encoder, "config", None), "max_position_embeddings", None)
    return min(limit, positions) if positions else limit


def too_long(
    prompts: Iterable[str],
    tokenizers: Sequence[Any],
    text_encoders: Sequence[Any] | None = None,
    *,
    learned: Sequence[str] = (ID_TOKEN, STYLE_TOKEN),
) -> list[TooLong]:
    """Return the filled prompts that do not fit, by the tokenizer that cuts most; [] if all do.

    What does not fit is cut off without a word by every Stable Diffusion pipeline, and with it,
    where a token stands late, the person.
    """
    encoders = text_encoders or [None] * len(tokenizers)
    limits = [
        token_limit(tokenizer, encoder)
        for tokenizer, encoder in zip(tokenizers, encoders, strict=True)
    ]
    found = []
    for prompt in prompts:
        worst: TooLong | None = None
        for tokenizer, limit in zip(tokenizers, limits, strict=True):
            count = count_tokens(prompt, tokenizer, learned=learned)
            excess = worst.tokens - worst.limit if worst else 0
            if count - limit > excess:
                worst = TooLong(prompt, count, limit)
        if worst:
            found.append(worst)
    return found


def require_fit(
    prompts: Iterable[str],
    tokenizers: Sequence[Any],
    text_encoders: Sequence[Any] | None = None,
    *,
    learned: Sequence[str] = (ID_TOKEN, STYLE_TOKEN),
    where: str = "Prompt",
) -> None:
    """`mcap.errors.UsageError` that names every prompt that is too long and by how much."""
    found = too_long(prompts, tokenizers, text_encoders, learned=learned)
    if found:
        raise UsageError(
            f"{where}: {'; '.join(str(item) for item in found)}. Shorten the text: what does not "
            "fit would be ignored.",
            details={"too_long": [vars(item) for item in found]},
        )
