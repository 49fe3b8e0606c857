"""Drawing: prompts and seeds -> pictures, with whatever the backbone holds at the moment.

The backbone may have a subject loaded, learned tokens at their initial values, or nothing at all:
`draw` is the same, so that before and after can be compared seed by seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mcap.diffusion import schedulers
from mcap.diffusion.attention import AttentionRecorder
from mcap.diffusion.latents import decode, vae_factor
from mcap.diffusion.prompt_length import require_fit

if TYPE_CHECKING:
    from mcap.contracts import Backbone, Float32Array, UInt8Image

STEPS = 30
GUIDANCE_SCALE = 7.0
BATCH_PIXELS = 8 * 256 * 256
"""Pixels drawn at once by default: eight pictures of the demo backbone, two of SD1.5, one of SDXL.
Larger batches are hardly faster on a CPU, and a GPU of 8 GB holds these."""
WATCHED = (0.3, 0.5, 0.7)
"""At which fractions of the UNet's calls attention is recorded: earlier there is no picture yet to
look at, later only texture is left to be decided."""


@dataclass(frozen=True)
class Drawn:
    """One drawn picture. ``attention``: token -> float32[h, w] on the latent grid, the mean
    probability over the recorded steps, layers and heads."""

    image: UInt8Image
    prompt: str
    seed: int
    attention: dict[str, Float32Array] = field(default_factory=dict)


def draw(
    backbone: Backbone,
    prompts: str | Sequence[str],
    seeds: Sequence[int],
    *,
    negative_prompt: str = "",
    steps: int | None = None,
    guidance_scale: float | None = None,
    size: tuple[int, int] | None = None,
    batch_size: int | None = None,
    on_step: Callable[[int], None] | None = None,
) -> list[UInt8Image]:
    """Pictures uint8[H, W, 3], one a seed; see `draw_each` for what the arguments mean."""
    return [
        drawn.image
        for drawn in draw_each(
            backbone,
            prompts,
            seeds,
            negative_prompt=negative_prompt,
            steps=steps,
            guidance_scale=guidance_scale,
            size=size,
            batch_size=batch_size,
            on_step=on_step,
        )
    ]


def draw_each(
    backbone: Backbone,
    prompts: str | Sequence[str],
    seeds: Sequence[int],
    *,
    negative_prompt: str = "",
    steps: int | None = None,
    guidance_scale: float | None = None,
    size: tuple[int, int] | None = None,
    batch_size: int | None = None,
    on_step: Callable[[int], None] | None = None,
    watch: Sequence[str] = (),
    pipeline: Any | None = None,
) -> Iterator[Drawn]:
    """Draw picture after picture, a batch at a time.

    ``prompts`` are filled prompts, one for all or one a seed. Picture i starts from noise of a
    generator of its own on the CPU, seeded with ``seeds[i]``, so that it can be drawn again alone
    and on any device (up to the last bits of floating point, which depend on batch and device).
    ``steps`` and ``guidance_scale`` default to the backbone's own, ``size`` = (width, height) to
    its native square. ``on_step`` is called after each call of the UNet (one a step, with some
    schedulers two) with the number of pictures in it.
    ``watch`` names tokens whose attention is recorded. torch's global random state is not touched.

    Raises `mcap.errors.UsageError` for a prompt that the tokenizer would cut.
    """
    texts = [prompts] * len(seeds) if isinstance(prompts, str) else list(prompts)
    if len(texts) != len(seeds):
        raise ValueError(f"{len(seeds)} seeds need as many prompts, or one, not {len(texts)}")
    require_fit(
        dict.fromkeys([*texts, negative_prompt]), backbone.tokenizers, backbone.text_encoders
    )
    info = backbone.info
    steps = steps or int(info.generate_defaults.get("steps", STEPS))
    if guidance_scale is None:
        guidance_scale = float(info.generate_defaults.get("guidance_scale", GUIDANCE_SCALE))
    width, height = size or (info.native_size, info.native_size)
    pipeline = pipeline if pipeline is not None else backbone.pipeline()
    batch_size = batch_size or default_batch(width * height)
    calls = schedulers.calls(pipeline.scheduler, steps)
    for first in range(0, len(seeds), batch_size):
        chosen = slice(first, first + batch_size)
        batch = texts[chosen]
        watcher = _Watcher(pipeline, backbone, batch, watch, calls, (width, height), on_step)
        with watcher:
            latents = denoise(
                pipeline,
                batch,
                seeds[chosen],
                negative_prompt=negative_prompt,
                steps=steps,
                guidance_scale=guidance_scale,
                size=(width, height),
                after_step=watcher.after_step,
            )
        images = decode_pictures(backbone.vae, latents)
        found = watcher.result()
        for row, (prompt, seed) in enumerate(zip(batch, seeds[chosen], strict=True)):
            attention = {token: maps[row] for token, maps in found.items()}
            yield Drawn(images[row], prompt, seed, attention)


@torch.no_grad()
def denoise(
    pipeline: Any,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    negative_prompt: str,
    steps: int,
    guidance_scale: float,
    size: tuple[int, int],
    after_step: Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]],
) -> torch.Tensor:
    """One batch's scaled latents float[B, C, h, w]; row i starts from the noise of ``seeds[i]``.

    ``size`` is (width, height) in pixels. ``after_step`` is diffusers' ``callback_on_step_end``,
    which sees and may give back ``latents``.
    """
    pipeline.set_progress_bar_config(disable=True)
    width, height = size
    return pipeline(
        prompt=list(prompts),
        # None where it is empty: SDXL then starts from zeros, as it was trained, and not
        # from the embedding of an empty text. With one text encoder there is no difference.
        negative_prompt=[negative_prompt] * len(prompts) if negative_prompt else None,
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        width=width,
        height=height,
        generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
        output_type="latent",
        callback_on_step_end=after_step,
        callback_on_step_end_tensor_inputs=["latents"],
    ).images


def default_batch(pixels: int) -> int:
    """How many pictures of that many pixels are drawn at once unless somebody says otherwise."""
    return max(1, BATCH_PIXELS // pixels)


@torch.no_grad()
def decode_pictures(vae: Any, latents: torch.Tensor) -> list[UInt8Image]:
    """Scaled latents float[B, C, h, w] -> pictures uint8[H, W, 3], decoded one by one.

    A half-precision decoder runs in float32: SDXL's overflows in float16, and on Apple's MPS
    SD1.5's does too, and the picture is black. bfloat16 has the range and stays. (no_grad and not
    inference_mode: a module moved inside the latter could not be trained through afterwards.)
    """
    kept = vae.dtype
    upcast = kept == torch.float16
    if upcast:
        vae.to(torch.float32)
    try:
        images = []
        for row in latents.split(1):
            pixels = decode(vae, row)[0].clamp(0, 1).mul(255).round()
            images.append(pixels.to("cpu", torch.uint8).permute(1, 2, 0).contiguous().numpy())
    finally:
        if upcast:
            vae.to(kept)
    return images


class _Watcher:
    """What happens between two steps: progress, and at some of them the tokens' attention."""

    def __init__(
        self,
        pipeline: Any,
        backbone: Backbone,
        prompts: Sequence[str],
        tokens: Sequence[str],
        calls: int,
        size: tuple[int, int],
        on_step: Callable[[int], None] | None,
    ) -> None:
        self.on_step = on_step
        self.rows = len(prompts)
        self.watched = {min(calls - 1, int(part * calls)) for part in WATCHED}
        self.sums: dict[str, torch.Tensor] = {}
        self.columns: dict[str, torch.Tensor] = {}
        self.recorder: AttentionRecorder | None = None
        self.recording = ExitStack()
        if not tokens:
            return
        factor = vae_factor(backbone.vae)
        self.grid = (size[1] // factor, size[0] // factor)
        stride = max(1, backbone.info.attention_divisor // factor)
        self.recorder = AttentionRecorder(backbone.unet, stride)
        tokenizer = backbone.tokenizers[0]
        texts = [pipeline.maybe_convert_prompt(prompt, tokenizer) for prompt in prompts]
        ids = tokenizer(
            texts,
            padding="max_length",
            truncation=True,
            max_length=tokenizer.model_max_length,
            return_tensors="pt",
        ).input_ids
        for token in tokens:
            known = tokenizer.convert_tokens_to_ids(token)
            if known is not None and known != tokenizer.unk_token_id:
                self.columns[token] = (ids == known).float()

    def __enter__(self) -> _Watcher:
        if self.recorder is not None:
            self.recorder.attach()
            self._record(0)
        return self

    def __exit__(self, *error: Any) -> None:
        self.recording.close()
        if self.recorder is not None:
            self.recorder.detach()

    def _record(self, call: int) -> None:
        """Keep queries and keys of this call only where it is watched: SDXL's are half a GB."""
        if call in self.watched:
            self.recording.enter_context(self.recorder.recording())

    def after_step(
        self, pipeline: Any, call: int, _timestep: Any, kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        if self.recorder is not None:
            if call in self.watched:
                self._add(pipeline)
            self.recording.close()
            self.recorder.clear()
            self._record(call + 1)
        if self.on_step is not None:
            self.on_step(self.rows)
        return kwargs

    def _add(self, pipeline: Any) -> None:
        # With guidance the first half of the rows is the negative prompt.
        first = self.rows if pipeline.do_classifier_free_guidance else 0
        rows = range(first, first + self.rows)
        for token, columns in self.columns.items():
            maps = self.recorder.maps(columns, self.grid, rows).mean(dim=1).cpu()
            self.sums[token] = self.sums.get(token, 0) + maps / len(self.watched)

    def result(self) -> dict[str, Float32Array]:
        return {token: maps.numpy().astype(np.float32) for token, maps in self.sums.items()}
