"""Qwen3 as a text encoder: prompts in its chat template, and learned words in its pipelines.

Legend: B prompts, L tokens of a padded prompt, D the encoder's width.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from mcap.diffusion.tokens import OutputRows, TokenEmbedding

PROMPT_TOKENS = 512
"""Length that every prompt is padded to, the chat template included."""


def chat_tokenizer(tokenizer: Any, *, thinking: bool) -> Any:
    """Return a copy of Qwen3's tokenizer that puts the chat template around what it is given.

    As the pipelines do with the user's turn, with or without ``thinking``; a prompt that begins or
    ends with white space aside, the tokens are the same. The template's tokens count as special
    ones, so that prompts are counted and padded as those of other tokenizers are.
    """
    made = copy.deepcopy(tokenizer)
    mark = "mcap-prompt"
    text = made.apply_chat_template(
        [{"role": "user", "content": mark}],
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=thinking,
    )
    around = []
    for name, part in zip(("before", "after"), text.split(mark), strict=True):
        ids = made(part, add_special_tokens=False).input_ids
        tokens = made.convert_ids_to_tokens(ids)
        around.append({"id": name, "ids": ids, "tokens": tokens})
    made.backend_tokenizer.post_processor = TemplateProcessing(
        single="before:0 $A:0 after:0", special_tokens=around
    )
    made.model_max_length = PROMPT_TOKENS
    made.padding_side = "right"
    return made


def prompt_ids(tokenizer: Any, prompts: list[str]) -> torch.Tensor:
    """Return the padded tokens int64[B, L] of prompts, by a `chat_tokenizer`."""
    ids: torch.Tensor = tokenizer(
        prompts,
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    return ids


def hidden_states(encoder: Any, ids: torch.Tensor, pad: int) -> tuple[torch.Tensor, ...]:
    """Return the hidden states of Qwen3 for int64[B, L], B x L x D: the embeddings', then each
    layer's.

    Without the head over the vocabulary, which nothing reads.
    """
    output = encoder.base_model(
        input_ids=ids,
        attention_mask=(ids != pad).long(),
        output_hidden_states=True,
        use_cache=False,
    )
    states: tuple[torch.Tensor, ...] = output.hidden_states
    return states


def with_outputs(encoder: Any, ids: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """Return states B x L x W of int64[B, L] with what learned words add behind the encoder."""
    table = encoder.get_input_embeddings()
    return table.add_outputs(ids, states) if isinstance(table, TokenEmbedding) else states


def keep_layers(encoder: Any, count: int) -> None:
    """Take all but the first ``count`` layers out of Qwen3, and its last norm: the states behind
    that layer are then the last ones, as they were."""
    model = encoder.base_model
    model.layers = model.layers[:count]
    model.norm = torch.nn.Identity()
    model.config.num_hidden_layers = count


class QwenPipeline:
    """Learned words, in a wrapper around the text encoder's own table, and ``unet``: mcap asks a
    pipeline for both, and those of diffusers with Qwen3 have neither.

    Of one text encoder at a time.
    """

    # Set or made by diffusers' classes, where no type checker sees them.
    transformer: Any
    text_encoder: Any
    tokenizer: Any
    vae: Any
    _execution_device: Any

    words: dict[str, torch.Tensor]
    """Word -> float[D], of those that are in ..."""
    outputs: dict[str, torch.Tensor]
    """... and float[W] of those among them that add to their states."""
    bare: tuple[Any, str]
    """The table and the tokenizer's state without any."""

    @property
    def unet(self) -> Any:
        """The denoising network, by the name that it has in mcap."""
        return self.transformer

    def maybe_convert_prompt(self, prompt: str, tokenizer: Any) -> str:
        """Return the prompt as it is: each learned word is one token."""
        return prompt

    def load_textual_inversion(
        self,
        vectors: dict[str, torch.Tensor] | list[dict[str, torch.Tensor]],
        *,
        text_encoder: Any,
        tokenizer: Any,
        outputs: dict[str, torch.Tensor] | None = None,
        **_: Any,
    ) -> None:
        """Add words to a tokenizer and their vectors float[D] to a text encoder; ``outputs`` are
        what they add to its states, float[W]."""
        if isinstance(vectors, list):  # as diffusers takes several
            vectors = {word: vector for each in vectors for word, vector in each.items()}
        known = getattr(self, "words", {})
        if not known:
            table = text_encoder.get_input_embeddings()
            self.bare = (table, tokenizer.backend_tokenizer.to_str())
        self.words = known | vectors
        self.outputs = (self.outputs if known else {}) | (outputs or {})
        tokenizer.add_tokens(list(vectors))
        self.put_words(text_encoder, tokenizer)

    def unload_textual_inversion(
        self, tokens: list[str], *, text_encoder: Any, tokenizer: Any
    ) -> None:
        """Take words out again; with the last one the table itself is back in its place."""
        self.words = {word: row for word, row in self.words.items() if word not in tokens}
        self.outputs = {word: row for word, row in self.outputs.items() if word in self.words}
        tokenizer._tokenizer = Tokenizer.from_str(self.bare[1])
        tokenizer.add_tokens(list(self.words))
        self.put_words(text_encoder, tokenizer)

    def put_words(self, text_encoder: Any, tokenizer: Any) -> None:
        """Put a wrapper with all words, or without any the table itself, into the encoder."""
        table = self.bare[0]
        if not self.words:
            text_encoder.set_input_embeddings(table)
            return
        rows = torch.stack([row.to(table.weight.device) for row in self.words.values()])
        ids = tokenizer.convert_tokens_to_ids(list(self.words))
        outputs = None
        if self.outputs:
            nothing = torch.zeros_like(next(iter(self.outputs.values())))
            added = torch.stack([self.outputs.get(word, nothing) for word in self.words])
            outputs = OutputRows(added.to(rows))
        made = TokenEmbedding(table, ids, rows, outputs).requires_grad_(False)
        text_encoder.set_input_embeddings(made)
