"""Edit a picture by editing its prompt: Prompt-to-Prompt (arXiv 2208.01626).

The source and the edited picture are drawn side by side from the same noise. What a position looks
at decides where things are; so while the picture takes shape the edited one looks where the source
looks, and only at other words. In the conditional rows of the UNet, for source s and target t:

    self-attention    softmax(q_s k_s) v_t                                     (section 3.2)
    cross-attention   [ softmax(q_s k_s) A + softmax(q_t k_t) diag(o) ] / n  diag(w) v_t

A spreads each source token's column over the target's tokens that stand for it, o is 1 at tokens
that are new (their attention is the target's own) and w scales tokens (re-weighting). Everything is
linear in the values, so that A, o and w are applied to v and the probabilities are never laid open:
attention stays with torch's fused kernels, in any precision, and costs more calls only where a
prompt has words more or fewer.

n is the sum of the bracket's rows, which the paper leaves out. It is 1 where words are exchanged;
words that are added bring attention of their own to a full sum, words that are gone leave a gap.
With Stable Diffusion's maps, where the start of the text takes nearly all, that is little. The demo
backbone looks at few words and at those hard: ", black and white" appended turned pictures orange.

Legend: P pairs of source and target, B rows of a UNet call, L tokens of a padded prompt. Of the
prompts the P sources come first and then, in the same order, the P targets; with guidance the
UNet's conditional rows are the last ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import max_pool2d, scaled_dot_product_attention

from mcap.diffusion.attention import AttentionRecorder
from mcap.generation.editing.word_alignment import PromptEdit, token_words

LAYOUT_SIDE = 32
"""Self-attention is taken over where maps have this side or less at the model's native size: finer
ones hold texture and not layout (the paper's code does the same at 64 x 64)."""
BLEND_FROM = 0.2
"""Share of the calls after which the rest of the picture is held fast (the paper's code)."""
BLEND_THRESHOLD = 0.3
"""Of a map between its own minimum and maximum: where a word looks (the paper's code; it divides by
the maximum alone, and the minimum is near 0 in Stable Diffusion)."""
FLAT = 0.1
"""A map whose range is less than this share of its maximum says nothing of a place."""
SMALLEST_TOTAL = 0.01


@dataclass(frozen=True)
class TokenEdit:
    """The attention of a target prompt's tokens in terms of a source prompt's."""

    spread: torch.Tensor
    """A: float32[L, L], share of source token i (row) that goes to target token j; rows sum to 1,
    or to 0 where a token is gone."""
    own: torch.Tensor
    """o: float32[L], 1 where a target token is new."""
    weight: torch.Tensor
    """w: float32[L], 1 where a target token is not re-weighted."""
    source_columns: torch.Tensor
    """float32[L]: 1 at the source tokens that say where the change is."""
    target_columns: torch.Tensor
    """The same of the target's new tokens."""


def token_edit(
    edit: PromptEdit,
    tokenizer: Any,
    length: int,
    *,
    weights: Mapping[int, float] | None = None,
    source_where: frozenset[int] | None = None,
    target_where: frozenset[int] | None = None,
) -> TokenEdit:
    """Return the edit of a text as one of its tokens, padded to ``length``.

    ``weights``: target word -> factor. ``source_where`` and ``target_where``, word numbers, say
    where the change is; by default the words that changed or are re-weighted. A target word looks
    where the source's looked that it stands for; only new words look for themselves. Start, end
    and padding stand for themselves, padding counted from the end of the text.
    """
    around = tokens_around(tokenizer)
    source, source_end = word_tokens(edit.source, tokenizer, length, around)
    target, target_end = word_tokens(edit.target, tokenizer, length, around)
    own, weight = torch.zeros(length), torch.ones(length)
    # Source token -> target tokens that stand for it.
    claims: dict[int, list[int]] = {i: [i] for i in range(around[0])}
    for word, origin in enumerate(edit.origins):
        there = target.get(word, [])
        before = [source.get(i, []) for i in sorted(origin)]
        if len(before) == 1 and len(before[0]) == len(there):
            pairs = list(zip(before[0], there, strict=True))
        else:
            pairs = [(i, j) for tokens in before for i in tokens for j in there]
        if not pairs:
            own[there] = 1
        for i, j in pairs:
            claims.setdefault(i, []).append(j)
    for i in range(source_end, length):
        if i - source_end + target_end < length:
            claims[i] = [i - source_end + target_end]
    own[target_end + length - source_end :] = 1  # more padding than the source has
    spread = torch.zeros(length, length)
    for i, tokens in claims.items():
        spread[i, tokens] = 1 / len(tokens)
    for word, factor in (weights or {}).items():
        weight[target.get(word, [])] = factor
    if source_where is None:
        source_where = edit.changed_source
    if target_where is None:
        target_where = edit.changed_target | frozenset(weights or {})
    new = frozenset(word for word in target_where if not edit.origins[word])
    old = source_where.union(*(edit.origins[word] for word in target_where))
    source_columns, target_columns = torch.zeros(length), torch.zeros(length)
    for word in old:
        source_columns[source.get(word, [])] = 1
    for word in new:
        target_columns[target.get(word, [])] = 1
    return TokenEdit(spread, own, weight, source_columns, target_columns)


def tokens_around(tokenizer: Any) -> tuple[int, int]:
    """Return the numbers of tokens that a tokenizer puts before and behind a text: one each of
    CLIP's, of a language model's those of its chat template."""
    special = tokenizer("a", return_special_tokens_mask=True)["special_tokens_mask"]
    return special.index(0), special[::-1].index(0)


def word_tokens(
    text: str, tokenizer: Any, length: int, around: tuple[int, int]
) -> tuple[dict[int, list[int]], int]:
    """Return word -> positions of its tokens, and the position of the end of the text;
    ``around`` as of `tokens_around`."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    found: dict[int, list[int]] = {}
    # A text that is cut keeps what stands behind it.
    before, end = around[0], length - around[1]
    for position, word in enumerate(token_words(text, encoded["offset_mapping"]), start=before):
        if word is not None and position < end:
            found.setdefault(word, []).append(position)
    return found, min(len(encoded["input_ids"]) + before, end)


class AttentionEditor:
    """Takes over the attention of sources in the rows of their targets.

    ``edits`` has one `TokenEdit` a pair. ``cross`` and ``layout`` are the shares of the ``calls``
    in which cross- and self-attention are taken over (the paper's tau); re-weighting holds in all.
    ``positions`` counts the latent's h x w, ``native_side`` is the latent's side that the model was
    made for.

    While attached, processors of its own stand where the UNet's were; `detach` puts them back.
    """

    def __init__(
        self,
        unet: Any,
        edits: Sequence[TokenEdit],
        calls: int,
        *,
        cross: float,
        layout: float,
        positions: int,
        native_side: int,
    ) -> None:
        self.layers = {
            name: module
            for name, module in unet.named_modules()
            if name.endswith((".attn1", ".attn2"))
        }
        self.pairs = len(edits)
        self.spread = torch.stack([edit.spread for edit in edits])[:, None]  # P x 1 x L x L
        self.own = torch.stack([edit.own for edit in edits])[:, None, :, None]  # P x 1 x L x 1
        self.weight = torch.stack([edit.weight for edit in edits])[:, None, :, None]
        kept = self.spread.sum(dim=-1)  # P x 1 x L: 1 where a source token still counts
        self.kept = kept[..., None]
        self.whole = bool(((kept - 1).abs() < 1e-6).all() and not self.own.any())
        self.cross_calls = round(cross * calls)
        self.layout_calls = round(layout * calls)
        stride = max(1.0, native_side / LAYOUT_SIDE)
        self.layout_positions = positions / stride**2
        self.call = 0
        self._originals: dict[str, Any] = {}

    def attach(self) -> None:
        """Put the processors in. ValueError for layers whose attention is of another kind."""
        if self._originals:
            raise RuntimeError("this editor is attached already")
        for name, module in self.layers.items():
            if getattr(module, "fused_projections", False):
                raise ValueError(
                    f"{name} has fused projections; call unet.unfuse_qkv_projections() first"
                )
            odd = [
                part
                for part in ("norm_q", "norm_k", "group_norm", "spatial_norm", "norm_cross")
                if getattr(module, part, None)
            ]
            if odd:
                raise ValueError(f"{name} has {', '.join(odd)}, which edits do not know")
        for name, module in self.layers.items():
            self._originals[name] = module.processor
            module.set_processor(_EditedAttention(self, module.processor))

    def detach(self) -> None:
        """Put the UNet's own processors back; a second call does nothing."""
        for name, processor in self._originals.items():
            self.layers[name].set_processor(processor)
        self._originals.clear()

    @contextmanager
    def attached(self) -> Iterator[AttentionEditor]:
        self.attach()
        try:
            yield self
        finally:
            self.detach()

    def after_call(self) -> None:
        """The UNet was called once more."""
        self.call += 1

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, is_cross: bool
    ) -> torch.Tensor:
        """Attention of B x heads x positions x d, the targets' rows edited."""
        batch = query.shape[0]
        sources = list(range(batch - 2 * self.pairs, batch - self.pairs))
        targets = list(range(batch - self.pairs, batch))
        if not is_cross:
            if self.call < self.layout_calls and query.shape[2] <= self.layout_positions:
                query, key = query.clone(), key.clone()
                query[targets], key[targets] = query[sources], key[sources]
            return scaled_dot_product_attention(query, key, value)
        spread, own, kept, weight = (
            part.to(value) for part in (self.spread, self.own, self.kept, self.weight)
        )
        weighted = weight * value[targets]
        value = value.clone()
        if self.call >= self.cross_calls:
            value[targets] = weighted
            return scaled_dot_product_attention(query, key, value)
        own_query, own_key = query[targets], key[targets]
        query, key = query.clone(), key.clone()
        query[targets], key[targets] = query[sources], key[sources]
        value[targets] = spread @ weighted
        found = scaled_dot_product_attention(query, key, value)
        if not self.whole:
            # The sums of rows are attention, too: of values that are all the same.
            new = scaled_dot_product_attention(own_query, own_key, own * weighted)
            total = scaled_dot_product_attention(
                query[sources], key[sources], kept.expand_as(weighted)
            ) + scaled_dot_product_attention(own_query, own_key, own.expand_as(weighted))
            # Next to nothing is left where everything looked at is gone, and stays so.
            found[targets] = (found[targets] + new) / total.clamp_min(SMALLEST_TOTAL)
        return found


class _EditedAttention:
    """A diffusers attention processor: projections as they are (LoRA too), attention edited.

    ``original`` is the processor in whose place it stands. Where that one is an IP-Adapter's
    (arXiv 2308.06721, section 3.2.2) its image prompts are attended to as they are: an edit is one
    of words.
    """

    def __init__(self, editor: AttentionEditor, original: Any) -> None:
        self.editor = editor
        self.original = original

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | tuple[Any, ...] | None = None,
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
        **_kwargs: Any,
    ) -> torch.Tensor:
        if attention_mask is not None:
            raise ValueError("edits do not know attention masks")
        is_cross = encoder_hidden_states is not None
        images: list[torch.Tensor] = []  # of each IP-Adapter B x pictures x tokens x width
        if isinstance(encoder_hidden_states, tuple):
            encoder_hidden_states, images = encoder_hidden_states
        context = encoder_hidden_states if is_cross else hidden_states

        def heads(states: torch.Tensor) -> torch.Tensor:
            return states.unflatten(-1, (attn.heads, -1)).transpose(1, 2)

        query = heads(attn.to_q(hidden_states))
        found = self.editor.attend(
            query, heads(attn.to_k(context)), heads(attn.to_v(context)), is_cross
        )
        for number, image in enumerate(images):
            scale, seen = self.original.scale[number], image.flatten(1, 2)
            if scale:
                key = heads(self.original.to_k_ip[number](seen))
                value = heads(self.original.to_v_ip[number](seen))
                found = found + scale * scaled_dot_product_attention(query, key, value)
        found = attn.to_out[1](attn.to_out[0](found.transpose(1, 2).flatten(2)))
        if attn.residual_connection:
            found = found + hidden_states
        return found / attn.rescale_output_factor


class LocalBlend:
    """Holds the target at the source wherever the changed words do not look (section 3.2).

    After each call from `BLEND_FROM` on, the target's latent is the source's outside of the union
    of two regions: where the changed words look in the source, and where new ones look in the
    target. A region is where the mean attention so far exceeds `BLEND_THRESHOLD`; words that look
    everywhere alike (`FLAT`) have none.
    """

    def __init__(
        self,
        recorder: AttentionRecorder,
        edits: Sequence[TokenEdit],
        calls: int,
        among: torch.Tensor | None = None,
    ) -> None:
        """``among``: as of `AttentionRecorder.maps`, for the sources and then the targets."""
        self.recorder = recorder
        self.among = among
        self.pairs = len(edits)
        self.first = round(BLEND_FROM * calls)
        self.columns = torch.stack(
            [edit.source_columns for edit in edits] + [edit.target_columns for edit in edits]
        )
        self.sums: torch.Tensor | None = None
        self.mask: torch.Tensor | None = None  # bool[P, h, w], as last used

    @contextmanager
    def attached(self) -> Iterator[LocalBlend]:
        with self.recorder.attached(), self.recorder.recording():
            yield self

    def after_call(self, call: int, latents: torch.Tensor, batch: int) -> torch.Tensor:
        """Blend latents float[2 P, C, h, w] after call number ``call`` of ``batch`` UNet rows."""
        rows = range(batch - 2 * self.pairs, batch)
        height, width = latents.shape[-2:]
        maps = self.recorder.maps(self.columns, (height, width), rows, self.among).mean(dim=1)
        self.recorder.clear()
        self.sums = maps if self.sums is None else self.sums + maps
        if call < self.first:
            return latents
        first, second = attended_regions(self.sums).chunk(2)
        self.mask = (first | second)[:, 0]
        kept, changed = latents.chunk(2)
        return torch.cat([kept, torch.where(self.mask[:, None], changed, kept)])


def attended_regions(maps: torch.Tensor) -> torch.Tensor:
    """Return bool[B, 1, h, w]: where maps float[B, h, w], all at least 0, look."""
    maps = maps[:, None]
    most, least = (pick(maps, dim=(2, 3), keepdim=True) for pick in (torch.amax, torch.amin))
    pooled = max_pool2d(maps, 3, stride=1, padding=1)
    return (pooled > least + BLEND_THRESHOLD * (most - least)) & (most - least > FLAT * most)
