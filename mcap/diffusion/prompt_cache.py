"""Embeddings of prompts that nothing learned can change, computed once.

A prompt with a learned token in it is embedded anew each step, because the token moves and the
gradient must pass. One without (a class prompt, a negative prompt), and any once the tokens are
frozen, is the same every time, as long as the text encoders themselves are frozen.

Legend: B prompts, L tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from mcap.contracts import PromptEmbedding
from mcap.diffusion.offload import Offloaded
from mcap.diffusion.tokens import LearnedTokens

if TYPE_CHECKING:
    from mcap.contracts import Backbone


class PromptCache:
    """``encode_prompt`` of a backbone that runs the text encoders for no prompt twice for nothing.

    While anything of the text encoders learns (the recipe's ``text_encoder``), nothing is kept.
    What is kept lies on the backbone's device: some 240 KB a prompt in SD1.5, 650 KB in SDXL, in
    single precision. ``offloaded`` are the text encoders where they are not on that device but for
    an embedding, and for its part of a backward pass (`EmbeddedAgain`).
    """

    def __init__(
        self, backbone: Any, tokens: LearnedTokens | None, offloaded: Offloaded | None = None
    ) -> None:
        self.backbone = backbone
        self.tokens = tokens
        self.offloaded = offloaded
        self._kept: dict[bytes, PromptEmbedding] = {}

    def encode(self, input_ids: Sequence[torch.Tensor]) -> PromptEmbedding:
        """Embed int64[B, L] on the CPU, one tensor a text encoder, as `encode_prompt` does.

        Where every prompt has a learned token, as in all of the method's rows, this is one plain
        call. Tokens that learn behind the text encoder change nothing in it: there what is kept is
        what they are added to.
        """
        if self.tokens is None or self.tokens.place == "input":
            return self.encode_rows(input_ids)
        with self.tokens.without_outputs():
            found = self.encode_rows(input_ids)
        return self.tokens.with_outputs(found, input_ids[0])

    def encode_rows(self, input_ids: Sequence[torch.Tensor]) -> PromptEmbedding:
        """Embed as `encode`, but for what tokens add behind the text encoder."""
        fixed = self.fixed_rows(input_ids)
        if not fixed.any():
            return self.encode_now(input_ids)
        # The batch that a prompt is in changes its last bits, so fixed ones are embedded alone:
        # what a step computes must not depend on what was kept before.
        found: list[PromptEmbedding | None] = [None] * len(fixed)
        for row in fixed.nonzero()[:, 0].tolist():
            key = b"".join(ids[row].numpy().tobytes() for ids in input_ids)
            if key not in self._kept:
                with torch.no_grad():
                    self._kept[key] = self.encode_now([ids[row : row + 1] for ids in input_ids])
            found[row] = self._kept[key]
        moving = (~fixed).nonzero()[:, 0].tolist()
        if moving:
            embedded = self.encode_now([ids[moving] for ids in input_ids])
            for place, row in enumerate(moving):
                found[row] = take_row(embedded, place)
        return concatenate([embedding for embedding in found if embedding is not None])

    def fixed_rows(self, input_ids: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return bool[B]: True of prompts for which the text encoders make the same whatever is
        learned."""
        count = len(input_ids[0])
        rows = {id(parameter) for parameter in self.tokens.parameters()} if self.tokens else set()
        for encoder in self.backbone.text_encoders:
            for parameter in encoder.parameters():
                if parameter.requires_grad and id(parameter) not in rows:
                    return torch.zeros(count, dtype=torch.bool)
        has_token = torch.zeros(count, dtype=torch.bool)
        tokens = self.tokens
        if tokens is None or tokens.place == "output":
            return ~has_token
        if any(part.requires_grad for part in tokens.parameters()):
            for token in tokens.tokens:
                has_token |= tokens.columns(input_ids[0], token).any(dim=1)
        return ~has_token

    def encode_now(self, input_ids: Sequence[torch.Tensor]) -> PromptEmbedding:
        """Run the text encoders on all rows."""
        ids = [part.to(self.backbone.device) for part in input_ids]
        if self.offloaded is None or not self.offloaded.modules:
            return self.backbone.encode_prompt(ids)
        learned = [
            parameter
            for encoder in self.backbone.text_encoders
            for parameter in encoder.parameters()
            if parameter.requires_grad
        ]
        if learned and torch.is_grad_enabled():
            return PromptEmbedding(
                *EmbeddedAgain.apply(self.backbone, self.offloaded, ids, *learned)
            )
        with self.offloaded.onloaded():
            return self.backbone.encode_prompt(ids)


class EmbeddedAgain(torch.autograd.Function):
    """Embeds prompts with text encoders that leave the device before the network is called.

    Nothing of them is kept for the backward pass: there they come back, embed the prompts a second
    time, and give the gradients of what learns in them.
    """

    @staticmethod
    def forward(
        ctx: Any, backbone: Backbone, offloaded: Offloaded, ids: Any, *learned: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        """Return the parts of `PromptEmbedding`; ``learned`` are the parameters with a gradient."""
        ctx.backbone, ctx.offloaded, ctx.ids, ctx.learned = backbone, offloaded, ids, learned
        with offloaded.onloaded():
            found = backbone.encode_prompt(ids)
        if found.lengths is not None:
            ctx.mark_non_differentiable(found.lengths)
        return found.hidden, found.pooled, found.lengths

    @staticmethod
    def backward(ctx: Any, *given: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of ``learned`` for those of the embedding."""
        with torch.enable_grad(), ctx.offloaded.onloaded():
            found = ctx.backbone.encode_prompt(ctx.ids)
            outputs = [found.hidden] if found.pooled is None else [found.hidden, found.pooled]
            gradients = torch.autograd.grad(
                outputs, ctx.learned, given[: len(outputs)], allow_unused=True
            )
        return None, None, None, *gradients


def take_row(embedding: PromptEmbedding, row: int) -> PromptEmbedding:
    """Return one prompt's embedding as a batch of one."""
    part = slice(row, row + 1)
    pooled, lengths = embedding.pooled, embedding.lengths
    return PromptEmbedding(
        embedding.hidden[part],
        None if pooled is None else pooled[part],
        None if lengths is None else lengths[part],
    )


def concatenate(embeddings: Sequence[PromptEmbedding]) -> PromptEmbedding:
    """Join batches of embeddings along B."""
    pooled = [embedding.pooled for embedding in embeddings if embedding.pooled is not None]
    lengths = [embedding.lengths for embedding in embeddings if embedding.lengths is not None]
    return PromptEmbedding(
        torch.cat([embedding.hidden for embedding in embeddings]),
        torch.cat(pooled) if pooled else None,
        torch.cat(lengths) if lengths else None,
    )
