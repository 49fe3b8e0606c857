"""Draw a picture again and, beside it from the same noise, the picture of an edited prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from mcap.diffusion import schedulers
from mcap.diffusion.latents import vae_factor
from mcap.diffusion.prompt_length import require_fit, token_limit
from mcap.diffusion.sampling import decode_pictures, default_batch, denoise
from mcap.generation.editing.prompt_to_prompt import (
    AttentionEditor,
    LocalBlend,
    TokenEdit,
    token_edit,
)
from mcap.generation.editing.word_alignment import PromptEdit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mcap.contracts import Backbone, UInt8Image

KEEP = 0.8
"""Share of the UNet's calls in which the source's cross-attention is taken over."""


@dataclass(frozen=True)
class Edit:
    """What is to be drawn: a prompt edit, with filled prompts, and the noise's seed."""

    prompt: PromptEdit
    seed: int
    weights: Mapping[int, float] = field(default_factory=dict)
    """Word of the target -> factor of its attention."""
    source_where: frozenset[int] | None = None
    """The source's words that say where a local edit changes the picture; None: those that
    changed."""
    target_where: frozenset[int] | None = None


@dataclass(frozen=True)
class Redrawn:
    source: UInt8Image
    target: UInt8Image
    region: NDArray[np.bool_] | None
    """bool[h, w] on the latent grid, where a local edit changed the picture."""


def redraw(
    backbone: Backbone,
    edits: Sequence[Edit],
    *,
    negative_prompt: str,
    steps: int,
    guidance_scale: float,
    size: tuple[int, int],
    pipeline: Any,
    keep: float = KEEP,
    layout: float | None = None,
    local: bool = False,
    batch_size: int | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Iterator[Redrawn]:
    """One `Redrawn` an edit, all of one size = (width, height) and the same settings.

    ``keep`` and ``layout`` are the shares of the UNet's calls, 0 to 1, in which cross-attention and
    self-attention are the source's (``layout``: half of ``keep``). ``local`` leaves the source as
    it is wherever the changed words do not look. ``batch_size`` counts edits; each takes two rows.
    Raises `UsageError` for a prompt that the tokenizer would cut.
    """
    texts = [text for edit in edits for text in (edit.prompt.source, edit.prompt.target)]
    require_fit(
        dict.fromkeys([*texts, negative_prompt]), backbone.tokenizers, backbone.text_encoders
    )
    batch_size = batch_size or max(1, default_batch(size[0] * size[1]) // 2)
    for first in range(0, len(edits), batch_size):
        yield from _batch(
            backbone,
            edits[first : first + batch_size],
            negative_prompt=negative_prompt,
            steps=steps,
            guidance_scale=guidance_scale,
            size=size,
            pipeline=pipeline,
            keep=keep,
            layout=keep / 2 if layout is None else layout,
            local=local,
            on_step=on_step,
        )


def _batch(
    backbone: Backbone,
    edits: Sequence[Edit],
    *,
    negative_prompt: str,
    steps: int,
    guidance_scale: float,
    size: tuple[int, int],
    pipeline: Any,
    keep: float,
    layout: float,
    local: bool,
    on_step: Callable[[int], None] | None,
) -> Iterator[Redrawn]:
    count = len(edits)
    calls = schedulers.calls(pipeline.scheduler, steps)
    unet, factor = backbone.unet, vae_factor(backbone.vae)
    tokens = [_token_edit(backbone, edit) for edit in edits]
    rows = {"pairs": [(i, count + i) for i in range(count)], "rows": 2 * count, "calls": calls}
    editor = AttentionEditor(
        unet,
        tokens,
        **rows,
        cross=keep,
        layout=layout,
        positions=(size[0] // factor) * (size[1] // factor),
        native_side=unet.config.sample_size,
    )
    blend = None
    if local:
        stride = max(1, backbone.info.attention_divisor // factor)
        blend = LocalBlend(unet, stride, tokens, **rows)

    def after_step(
        pipeline: Any, call: int, _timestep: Any, kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        editor.after_call()
        if on_step is not None:
            on_step(count)
        if blend is None:
            return {}
        batch = 2 * count * (2 if pipeline.do_classifier_free_guidance else 1)
        return {"latents": blend.after_call(call, kwargs["latents"], batch)}

    with ExitStack() as stack:
        stack.enter_context(editor.attached())
        if blend is not None:
            stack.enter_context(blend.attached())
        latents = denoise(
            pipeline,
            [edit.prompt.source for edit in edits] + [edit.prompt.target for edit in edits],
            [edit.seed for edit in edits] * 2,
            negative_prompt=negative_prompt,
            steps=steps,
            guidance_scale=guidance_scale,
            size=size,
            after_step=after_step,
        )
    pictures = decode_pictures(backbone.vae, latents)
    for index in range(count):
        region = None
        if blend is not None and blend.mask is not None:
            region = blend.mask[index].cpu().numpy()
        yield Redrawn(pictures[index], pictures[count + index], region)


def _token_edit(backbone: Backbone, edit: Edit) -> TokenEdit:
    # Both of SDXL's tokenizers cut a text in the same places; they differ in the padding.
    tokenizer = backbone.tokenizers[0]
    return token_edit(
        edit.prompt,
        tokenizer,
        token_limit(tokenizer, backbone.text_encoders[0]),
        weights=edit.weights,
        source_where=edit.source_where,
        target_where=edit.target_where,
    )
