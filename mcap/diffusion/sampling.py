"""Sampling: prompts and seeds -> images, with whatever the backbone holds at the moment.

The backbone may have a subject loaded, learned tokens at their initial values, or nothing at all:
`generate_images` is the same, so that before and after can be compared seed by seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mcap.diffusion import schedulers
from mcap.diffusion.attention import WHOLE, AttentionRecorder
from mcap.diffusion.joint_attention import recorder_of
from mcap.diffusion.latents import decode, vae_factor
from mcap.diffusion.prompt_length import require_fit
from mcap.diffusion.steering import call_arguments
from mcap.diffusion.tokens import own_tokens

if TYPE_CHECKING:
    from mcap.contracts import Backbone, BackboneInfo, Float32Array, UInt8Image

STEPS = 30
GUIDANCE_SCALE = 7.0
BATCH_PIXELS = 8 * 256 * 256
"""Pixels sampled at once by default: eight images of the demo backbone, two of SD1.5, one of SDXL.
Larger batches are hardly faster on a CPU, and a GPU of 8 GB holds these."""
WATCHED = (0.3, 0.5, 0.7)
"""Fractions of the UNet's calls at which attention is recorded: earlier there is no picture yet to
look at, later only texture is left to be decided."""

MAP_LAYERS = 8
"""A transformer's layers whose attention is recorded, evenly spread over the part of its depth that
its recipe watches: queries and keys of all 30 of Z-Image's would take 4 GB for a picture of 1024 x
1024."""

AfterCall = Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]]
"""diffusers' ``callback_on_step_end``: pipeline, call from 0, timestep, tensors -> tensors."""


@dataclass(frozen=True)
class SamplingSettings:
    """Settings of the sampler. `for_backbone` fills in what is not said."""

    steps: int
    guidance_scale: float
    size: tuple[int, int]
    """(width, height) in pixels."""
    negative_prompt: str = ""
    batch_size: int | None = None
    """Images sampled at once; None: as many as `BATCH_PIXELS` allow."""

    @classmethod
    def for_backbone(
        cls,
        info: BackboneInfo,
        *,
        steps: int | None = None,
        guidance_scale: float | None = None,
        size: tuple[int, int] | None = None,
        negative_prompt: str = "",
        batch_size: int | None = None,
    ) -> SamplingSettings:
        """Return the settings given, and for None the backbone's own, else mcap's.

        ``size`` defaults to the backbone's native square.
        """
        own = info.generate_defaults
        if guidance_scale is None:
            guidance_scale = float(own.get("guidance_scale", GUIDANCE_SCALE))
        return cls(
            steps=steps or int(own.get("steps", STEPS)),
            guidance_scale=guidance_scale,
            size=size or (info.native_size, info.native_size),
            negative_prompt=negative_prompt,
            batch_size=batch_size,
        )


@dataclass(frozen=True)
class GeneratedImage:
    """One sampled image. ``attention``: token -> float32[h, w] on the latent grid, the mean
    probability over the recorded calls, layers and heads."""

    image: UInt8Image
    prompt: str
    seed: int
    attention: dict[str, Float32Array] = field(default_factory=dict)


def generate_images(
    backbone: Backbone,
    prompts: str | Sequence[str],
    seeds: Sequence[int],
    settings: SamplingSettings | None = None,
    *,
    pipeline: Any | None = None,
    on_step: Callable[[int], None] | None = None,
) -> list[UInt8Image]:
    """Return images uint8[H, W, 3], one a seed; see `stream_images` for the arguments."""
    stream = stream_images(backbone, prompts, seeds, settings, pipeline=pipeline, on_step=on_step)
    return [generated.image for generated in stream]


def stream_images(
    backbone: Backbone,
    prompts: str | Sequence[str],
    seeds: Sequence[int],
    settings: SamplingSettings | None = None,
    *,
    pipeline: Any | None = None,
    watch: Sequence[str] = (),
    on_step: Callable[[int], None] | None = None,
) -> Iterator[GeneratedImage]:
    """Yield image after image, sampled a batch at a time.

    ``prompts`` are filled prompts, one for all or one a seed. Image i starts from noise of a
    generator of its own on the CPU, seeded with ``seeds[i]``, so that it can be sampled again alone
    and on any device (up to the last bits of floating point, which depend on batch and device).
    ``settings`` default to the backbone's own, ``pipeline`` to a new one over the backbone.
    ``watch`` names tokens whose attention is recorded. ``on_step`` is called after each call of the
    UNet (one a step, with some schedulers two) with the number of images in it. torch's global
    random state is not touched.

    Raises `mcap.errors.UsageError` for a prompt that the tokenizer would cut.
    """
    texts = [prompts] * len(seeds) if isinstance(prompts, str) else list(prompts)
    if len(texts) != len(seeds):
        raise ValueError(f"{len(seeds)} seeds need as many prompts, or one, not {len(texts)}")
    settings = settings or SamplingSettings.for_backbone(backbone.info)
    require_fit(
        dict.fromkeys([*texts, settings.negative_prompt]),
        backbone.tokenizers,
        backbone.text_encoders,
    )
    pipeline = pipeline if pipeline is not None else backbone.pipeline()
    width, height = settings.size
    batch_size = settings.batch_size or default_batch(width * height)
    calls = schedulers.calls(pipeline.scheduler, settings.steps)
    for first in range(0, len(seeds), batch_size):
        batch, chosen = texts[first : first + batch_size], seeds[first : first + batch_size]
        attention = TokenAttention(backbone, pipeline, batch, watch, calls, settings.size)
        with attention:
            latents = denoise(pipeline, batch, chosen, settings, attention.callback(on_step))
        images, maps = decode_images(backbone.vae, latents), attention.maps()
        for row, (prompt, seed) in enumerate(zip(batch, chosen, strict=True)):
            own = {token: found[row] for token, found in maps.items()}
            yield GeneratedImage(images[row], prompt, seed, own)


@torch.no_grad()
def denoise(
    pipeline: Any,
    prompts: Sequence[str],
    seeds: Sequence[int],
    settings: SamplingSettings,
    after_call: AfterCall,
    start: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return one batch's scaled latents float[B, C, h, w]; row i starts from noise of ``seeds[i]``.

    ``after_call`` sees and may give back ``latents``. ``start`` is noise of that shape to start
    from instead; the seeds are then those of what noise the scheduler adds on its way.
    """
    pipeline.set_progress_bar_config(disable=True)
    width, height = settings.size
    negative = settings.negative_prompt
    return pipeline(
        prompt=list(prompts),
        # None where it is empty: SDXL then starts from zeros, as it was trained, and not
        # from the embedding of an empty text. With one text encoder there is no difference.
        negative_prompt=[negative] * len(prompts) if negative else None,
        num_inference_steps=settings.steps,
        guidance_scale=settings.guidance_scale,
        width=width,
        height=height,
        generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
        latents=start,
        output_type="latent",
        callback_on_step_end=after_call,
        callback_on_step_end_tensor_inputs=["latents"],
        **call_arguments(pipeline, settings.guidance_scale),
    ).images


def default_batch(pixels: int) -> int:
    """Return the number of images of ``pixels`` each that are sampled at once by default."""
    return max(1, BATCH_PIXELS // pixels)


@torch.no_grad()
def decode_images(vae: Any, latents: torch.Tensor) -> list[UInt8Image]:
    """Decode scaled latents float[B, C, h, w] into images uint8[H, W, 3], one by one.

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


def token_recorder(backbone: Backbone) -> AttentionRecorder:
    """Return a recorder of the layers by whose attention drawn pictures are told: all those with
    maps of the recipe's size, or of a transformer `MAP_LAYERS`."""
    own = backbone.info.recipe_overrides
    depth = own.get("attention_from", WHOLE[0]), own.get("attention_to", WHOLE[1])
    return recorder_of(backbone, MAP_LAYERS if backbone.info.is_rectified_flow else 0, depth)


def padded_ids(backbone: Backbone, pipeline: Any, prompts: Sequence[str]) -> torch.Tensor:
    """Return the token ids int64[B, L] of prompts in the pipeline's first tokenizer."""
    tokenizer = backbone.tokenizers[0]
    ids: torch.Tensor = tokenizer(
        [pipeline.maybe_convert_prompt(prompt, tokenizer) for prompt in prompts],
        padding="max_length",
        truncation=True,
        max_length=tokenizer.model_max_length,
        return_tensors="pt",
    ).input_ids
    return ids


def among_tokens(backbone: Backbone, ids: torch.Tensor) -> torch.Tensor | None:
    """Return float32[B, L], 1 at the tokens over which attention adds up to 1 by the backbone's own
    recipe; None: over all."""
    if backbone.info.recipe_overrides.get("attention_among") != "prompt":
        return None
    return own_tokens(ids, backbone.tokenizers[0])


class TokenAttention:
    """The mean cross-attention of some tokens over the calls at `WATCHED`, while it is entered.

    ``prompts`` are one batch's, ``calls`` those that the UNet will be called, ``size`` (width,
    height) in pixels. Without ``tokens`` nothing is recorded.
    """

    def __init__(
        self,
        backbone: Backbone,
        pipeline: Any,
        prompts: Sequence[str],
        tokens: Sequence[str],
        calls: int,
        size: tuple[int, int],
    ) -> None:
        self.rows = len(prompts)
        self.watched = {min(calls - 1, int(part * calls)) for part in WATCHED}
        self.sums: dict[str, torch.Tensor] = {}
        self.columns: dict[str, torch.Tensor] = {}
        self.among: torch.Tensor | None = None
        self.recorder: AttentionRecorder | None = None
        self.recording = ExitStack()
        if not tokens:
            return
        factor = vae_factor(backbone.vae)
        self.grid = (size[1] // factor, size[0] // factor)
        self.recorder = token_recorder(backbone)
        tokenizer = backbone.tokenizers[0]
        ids = padded_ids(backbone, pipeline, prompts)
        self.among = among_tokens(backbone, ids)
        for token in tokens:
            known = tokenizer.convert_tokens_to_ids(token)
            if known is not None and known != tokenizer.unk_token_id:
                self.columns[token] = (ids == known).float()

    def __enter__(self) -> TokenAttention:
        if self.recorder is not None:
            self.recorder.attach()
            self.record_call(0)
        return self

    def __exit__(self, *error: Any) -> None:
        self.recording.close()
        if self.recorder is not None:
            self.recorder.detach()

    def record_call(self, call: int) -> None:
        """Keep queries and keys of this call only where it is watched: SDXL's are half a GB."""
        if self.recorder is not None and call in self.watched:
            self.recording.enter_context(self.recorder.recording())

    def callback(self, on_step: Callable[[int], None] | None) -> AfterCall:
        """Return the pipeline's callback: it adds the call's maps and tells ``on_step``."""

        def after_call(
            pipeline: Any, call: int, _timestep: Any, tensors: dict[str, Any]
        ) -> dict[str, Any]:
            if self.recorder is not None:
                if call in self.watched:
                    self.add_maps(self.recorder, guided=pipeline.do_classifier_free_guidance)
                self.recording.close()
                self.recorder.clear()
                self.record_call(call + 1)
            if on_step is not None:
                on_step(self.rows)
            return tensors

        return after_call

    def add_maps(self, recorder: AttentionRecorder, *, guided: bool) -> None:
        """Add what was recorded of one call; with guidance half of a UNet's is the negative's."""
        first = self.rows if guided and not recorder.prompts_first else 0
        rows = range(first, first + self.rows)
        for token, columns in self.columns.items():
            maps = recorder.maps(columns, self.grid, rows, self.among).mean(dim=1).cpu()
            self.sums[token] = self.sums.get(token, torch.zeros(())) + maps / len(self.watched)

    def maps(self) -> dict[str, Float32Array]:
        """Return token -> float32[B, h, w], the mean over the calls so far."""
        return {token: maps.numpy().astype(np.float32) for token, maps in self.sums.items()}
