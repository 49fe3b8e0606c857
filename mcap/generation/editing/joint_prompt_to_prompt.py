"""Prompt-to-Prompt (arXiv 2208.01626) in the joint attention of a rectified flow's transformer.

There is one softmax over the text's and the image's keys. For source s and target t the image's
queries of the target's row are answered by

    softmax( [ q_s K_s  |  q_t K_t,new  |  q K_image  |  q_t K_rest ] / sqrt(d) )
        [ A diag(w) V_t ;  diag(w) V_t,new ;  V_t,image ;  V_t,rest ]

in calls in which text is taken over: the source's text keys, where a target token stands for them,
with the values of those tokens; the target's own keys of new tokens; the image's keys, the source's
with its query (layout) or the target's own; and what else is attended to, reference pictures and
padding of the image, the target's own. The softmax itself divides by the sum of what is left. A,
the new tokens and w are those of `mcap.generation.editing.prompt_to_prompt.TokenEdit`. Text queries
are left alone: the target's words read each other as they would.

Logits of two queries are of one softmax by heads of twice the width: the query [q_s, q_t], the key
[k, 0] or [0, k]. Attention stays with torch's fused kernels, and is taken hold of where they are
called, so that projections, norms, rotary embeddings and LoRA stay the network's own.

Legend: P pairs of source and target, L_s and L_t tokens of their prompts, H heads of width d.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.nn.functional import pad, scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from mcap.diffusion.joint_attention import (
    is_text_first,
    joint_attention_layers,
    padded,
    token_counts,
)
from mcap.errors import UsageError
from mcap.generation.editing.prompt_to_prompt import TokenEdit


class JointAttentionEditor(TorchFunctionMode):
    """Takes over the attention of sources in the rows of their targets.

    ``edits``, ``cross``, ``layout`` and ``calls`` as of
    `mcap.generation.editing.prompt_to_prompt.AttentionEditor`; a call is a step here, of whose
    calls of the network the first is edited, the prompts' own. ``positions`` counts the image's
    tokens. The prompts' rows are the first ones, sources before targets.
    """

    def __init__(
        self,
        transformer: Any,
        edits: Sequence[TokenEdit],
        calls: int,
        *,
        cross: float,
        layout: float,
        positions: int,
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.layers = joint_attention_layers(transformer)
        self.text_first = is_text_first(self.layers)
        self.edits = edits
        self.cross_calls = round(cross * calls)
        self.layout_calls = round(layout * calls)
        self.positions = positions
        self.call = 0
        self.forwards = 0
        self.texts: list[int] = []
        self.inside = False
        self.seen = False

    @contextmanager
    def attached(self) -> Iterator[JointAttentionEditor]:
        """Edit the attention of what is called inside."""
        with ExitStack() as stack:
            before = self.transformer.register_forward_pre_hook(self.begin, with_kwargs=True)
            stack.callback(before.remove)
            for module in self.layers.values():
                stack.callback(module.register_forward_pre_hook(self.enter).remove)
                stack.callback(module.register_forward_hook(self.leave).remove)
            stack.enter_context(self)
            yield self

    def after_call(self) -> None:
        """A step is over."""
        self.call += 1
        self.forwards = 0

    def begin(self, _module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        """Hook before the transformer: keep the rows' numbers of text tokens."""
        self.forwards += 1
        texts, _ = token_counts(args, kwargs, text_first=self.text_first)
        self.texts = texts if self.text_first else [padded(count) for count in texts]

    def enter(self, _module: Any, _args: Any) -> None:
        """Hook before a layer's joint attention."""
        self.inside, self.seen = self.forwards == 1, False

    def leave(self, _module: Any, _args: Any, _output: Any) -> None:
        """Hook behind it. `UsageError` where attention was computed by another way than torch's."""
        if self.inside and not self.seen:
            raise UsageError(
                "Edits know attention by torch's own scaled_dot_product_attention alone, and this "
                "model computes it by another backend of diffusers; leave the environment variable "
                "DIFFUSERS_ATTN_BACKEND unset, or set it to native."
            )
        self.inside = False

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if func is not scaled_dot_product_attention or not self.inside:
            return func(*args, **given)
        self.seen = True
        return self.attend(*args, **given)

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **options: Any
    ) -> torch.Tensor:
        """Return the attention of B x H x tokens x d, the targets' image queries edited."""
        found: torch.Tensor = scaled_dot_product_attention(query, key, value, **options)
        weighed = any(bool((edit.weight != 1).any()) for edit in self.edits)
        if self.call >= max(self.cross_calls, self.layout_calls) and not weighed:
            return found
        if options.get("enable_gqa"):
            raise UsageError(
                "Edits do not know grouped queries, which this model's transformer has; change the "
                "prompt of mcap generate instead."
            )
        found = found.clone()
        mask, pairs = options.get("attn_mask"), len(self.edits)
        for source, edit in enumerate(self.edits):
            target = source + pairs
            image, texts, rest = self.places(source, target, key.shape[2])
            if mask is not None:  # of the batch's padding
                seen = mask[target].reshape(-1)[rest]
                rest = rest[seen.cpu() if seen.dtype == torch.bool else (seen == 0).cpu()]
            rows = [(part[source], part[target]) for part in (query, key)]
            found[target][:, image] = self.answer(rows, value[target], edit, image, texts, rest)
        return found

    def places(
        self, source: int, target: int, tokens: int
    ) -> tuple[slice, tuple[slice, slice], torch.Tensor]:
        """Return where the image is, where the text of either row, and what else a target has."""
        lengths = (self.texts[source], self.texts[target])
        if self.text_first:
            image = slice(lengths[1], lengths[1] + self.positions)
            texts = (slice(0, lengths[0]), slice(0, lengths[1]))
        else:
            image, start = slice(0, self.positions), padded(self.positions)
            texts = (slice(start, start + lengths[0]), slice(start, start + lengths[1]))
        free = torch.ones(tokens, dtype=torch.bool)
        free[image], free[texts[1]] = False, False
        return image, texts, free.nonzero()[:, 0]

    def answer(
        self,
        rows: Sequence[tuple[torch.Tensor, torch.Tensor]],
        value: torch.Tensor,
        edit: TokenEdit,
        image: slice,
        texts: tuple[slice, slice],
        rest: torch.Tensor,
    ) -> torch.Tensor:
        """Return what the target's image queries see, H x positions x d.

        ``rows``: queries and then keys, H x tokens x d, of source and target each; ``value`` the
        target's.
        """
        (query_s, query_t), (key_s, key_t) = rows
        (_, width), (text_s, text_t) = query_t.shape[1:], texts
        words = edit.weight[: text_t.stop - text_t.start].to(value)[:, None] * value[:, text_t]
        # [k, 0] meets the source's query, [0, k] the target's.
        own = pad(key_t, (width, 0))
        if self.call < self.cross_calls:
            spread = edit.spread[: text_s.stop - text_s.start, : words.shape[1]].to(value)
            kept, new = spread.sum(dim=1) > 0, spread.sum(dim=0) == 0
            kept_keys = pad(key_s[:, text_s][:, kept], (0, width))
            keys = [kept_keys, own[:, text_t][:, new]]
            share = spread[kept] / spread[kept].sum(dim=1, keepdim=True)
            values = [share @ words, words[:, new]]
        else:
            keys, values = [own[:, text_t]], [words]
        layout = self.call < self.layout_calls
        keys.append(pad(key_s[:, image], (0, width)) if layout else own[:, image])
        keys.append(own[:, rest])
        values += [value[:, image], value[:, rest]]
        query = torch.cat([query_s[:, image], query_t[:, image]], dim=-1)
        found: torch.Tensor = scaled_dot_product_attention(
            query[None],
            torch.cat(keys, dim=1)[None],
            torch.cat(values, dim=1)[None],
            scale=width**-0.5,
        )
        return found[0]
