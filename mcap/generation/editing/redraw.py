"""Sample a picture again and, beside it from the same noise, the picture of an edited prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from mcap.diffusion import schedulers
from mcap.diffusion.latents import vae_factor
from mcap.diffusion.prompt_length import require_fit, token_limit
from mcap.diffusion.sampling import (
    SamplingSettings,
    among_tokens,
    decode_images,
    default_batch,
    denoise,
    padded_ids,
    token_recorder,
)
from mcap.generation.editing.joint_prompt_to_prompt import JointAttentionEditor
from mcap.generation.editing.prompt_to_prompt import AttentionEditor, LocalBlend, token_edit
from mcap.generation.editing.settings import KEEP
from mcap.generation.editing.word_alignment import PromptEdit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mcap.contracts import Backbone, UInt8Image


@dataclass(frozen=True)
class Edit:
    """A prompt edit, with filled prompts, and the noise's seed."""

    prompt: PromptEdit
    seed: int
    weights: Mapping[int, float] = field(default_factory=dict)
    """Word of the target -> factor of its attention."""
    source_where: frozenset[int] | None = None
    """The source's words that say where a local edit changes the picture; None: those that
    changed."""
    target_where: frozenset[int] | None = None


@dataclass(frozen=True)
class AttentionControl:
    """The part of the source's attention that the target takes over."""

    keep: float = KEEP
    """Share of the UNet's calls, 0 to 1, in which cross-attention is the source's."""
    layout: float | None = None
    """The same of self-attention; None: half of ``keep``."""
    local: bool = False
    """The source stays as it is wherever the changed words do not look."""


@dataclass(frozen=True)
class Redrawn:
    """The source as it was sampled again, and the target beside it."""

    source: UInt8Image
    target: UInt8Image
    region: NDArray[np.bool_] | None
    """bool[h, w] on the latent grid, where a local edit changed the picture."""


def redraw(
    backbone: Backbone,
    pipeline: Any,
    edits: Sequence[Edit],
    sampling: SamplingSettings,
    control: AttentionControl | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Iterator[Redrawn]:
    """Yield one `Redrawn` an edit.

    ``sampling.batch_size`` counts edits; each takes two rows. ``on_step`` is called after each call
    of the UNet with the number of edits in it. Raises `UsageError` for a prompt that the tokenizer
    would cut.
    """
    texts = [text for edit in edits for text in (edit.prompt.source, edit.prompt.target)]
    require_fit(
        dict.fromkeys([*texts, sampling.negative_prompt]),
        backbone.tokenizers,
        backbone.text_encoders,
    )
    width, height = sampling.size
    batch_size = sampling.batch_size or max(1, default_batch(width * height) // 2)
    for first in range(0, len(edits), batch_size):
        batch = edits[first : first + batch_size]
        yield from redraw_batch(
            backbone, pipeline, batch, sampling, control or AttentionControl(), on_step
        )


def redraw_batch(
    backbone: Backbone,
    pipeline: Any,
    edits: Sequence[Edit],
    sampling: SamplingSettings,
    control: AttentionControl,
    on_step: Callable[[int], None] | None,
) -> list[Redrawn]:
    """Sample the sources and, below them in the same batch, their targets."""
    count = len(edits)
    calls = schedulers.calls(pipeline.scheduler, sampling.steps)
    unet, factor = backbone.unet, vae_factor(backbone.vae)
    # Both of SDXL's tokenizers cut a text in the same places; they differ in the padding.
    tokenizer = backbone.tokenizers[0]
    tokens = [
        token_edit(
            edit.prompt,
            tokenizer,
            token_limit(tokenizer, backbone.text_encoders[0]),
            weights=edit.weights,
            source_where=edit.source_where,
            target_where=edit.target_where,
        )
        for edit in edits
    ]
    layout = control.keep / 2 if control.layout is None else control.layout
    shares = {"cross": control.keep, "layout": layout}
    editor: AttentionEditor | JointAttentionEditor
    if backbone.info.is_rectified_flow:
        side = backbone.info.attention_divisor  # of a token, in pixels
        positions = (sampling.size[0] // side) * (sampling.size[1] // side)
        editor = JointAttentionEditor(unet, tokens, calls, positions=positions, **shares)
    else:
        editor = AttentionEditor(
            unet,
            tokens,
            calls,
            positions=(sampling.size[0] // factor) * (sampling.size[1] // factor),
            native_side=unet.config.sample_size,
            **shares,
        )
    prompts = [edit.prompt.source for edit in edits] + [edit.prompt.target for edit in edits]
    blend = None
    if control.local:
        among = among_tokens(backbone, padded_ids(backbone, pipeline, prompts))
        blend = LocalBlend(token_recorder(backbone), tokens, calls, among)

    def after_call(
        pipeline: Any, call: int, _timestep: Any, tensors: dict[str, Any]
    ) -> dict[str, Any]:
        editor.after_call()
        if on_step is not None:
            on_step(count)
        if blend is None:
            return {}
        guided = pipeline.do_classifier_free_guidance and not blend.recorder.prompts_first
        batch = 2 * count * (2 if guided else 1)
        return {"latents": blend.after_call(call, tensors["latents"], batch)}

    with ExitStack() as stack:
        stack.enter_context(editor.attached())
        if blend is not None:
            stack.enter_context(blend.attached())
        latents = denoise(
            pipeline,
            prompts,
            [edit.seed for edit in edits] * 2,
            sampling,
            after_call,
        )
    images = decode_images(backbone.vae, latents)
    mask = blend.mask if blend is not None else None
    regions = [None] * count if mask is None else list(mask.cpu().numpy())
    return [
        Redrawn(source, target, region)
        for source, target, region in zip(images[:count], images[count:], regions, strict=True)
    ]
