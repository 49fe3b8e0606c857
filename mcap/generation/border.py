"""The room that a drawn picture lacks for its profile's frame, drawn with the same subject."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mcap.diffusion import schedulers
from mcap.diffusion.latents import vae_factor
from mcap.diffusion.outpaint import Canvas, outpaint
from mcap.diffusion.sampling import SamplingSettings
from mcap.framing.border import WORST_SEAM, Border, join, plan_border, repeats_mouth
from mcap.framing.crop import Box, cut
from mcap.framing.head import crown_to_chin, head_from_box
from mcap.framing.placement import outside
from mcap.generation.events import BorderBegun
from mcap.generation.settings import LARGEST_SEED
from mcap.geometry.similarity_transform import clip

if TYPE_CHECKING:
    from mcap.contracts import Face, UInt8Image
    from mcap.generation.extra_networks import ExtraNetworks
    from mcap.generation.jobs import GenerationJob
    from mcap.generation.settings import GenerationModels

TRIES = 3
"""Borders that are drawn, from different noise, before a picture is left without one."""

STAYS = 0.05
"""Of the face's height: the landmarks, which are not drawn anew, are found again within this."""


@dataclass(frozen=True)
class FramedImage:
    """A drawn image as it will be written."""

    image: UInt8Image
    box: Box
    """The part of the drawn image that is in it."""
    border: dict[str, Any] | None = None
    """What its record says of the border; None where none was lacking, or asked for."""


def framed(
    job: GenerationJob,
    image: UInt8Image,
    networks: ExtraNetworks,
    pipeline: Any,
    models: GenerationModels,
    on_step: Callable[[int], None] | None = None,
) -> Generator[BorderBegun, None, FramedImage]:
    """Frame an image uint8[H, W, 3] as its job's profile asks, with a border where it lacks room.

    Yields a `BorderBegun` for each border that is drawn, with ``pipeline``, which holds the subject
    and ``networks``, and returns the image: with the first border that fits, else cut as near as
    can be. A border's noise is that of the job's seed, or of the numbers after it.
    """
    profile, size = job.profile, (image.shape[1], image.shape[0])
    faces = [] if models.identity is None else models.detector.detect(image)
    face = max(faces, key=lambda face: face.area) if faces else None
    head = head_from_box(face) if face else None
    box = cut(size, profile.aspect_ratio, head, profile.framing)
    plain = FramedImage(np.ascontiguousarray(image[box[1] : box[3], box[0] : box[2]]), box)
    backbone = models.backbone
    if face is None or not profile.framing.draw_border:
        return plain
    border = plan_border(
        size,
        crown_to_chin(face),
        profile,
        factor=vae_factor(backbone.vae),
        # What diffusers' pipelines take: a UNet hands odd sizes through its levels, a transformer
        # has whole tokens.
        step=backbone.info.multiple_of
        if backbone.info.is_rectified_flow
        else math.lcm(vae_factor(backbone.vae), 8),
        native_size=backbone.info.native_size,
    )
    if border is None:
        return plain
    record = job.record
    settings = SamplingSettings(
        steps=record["steps"],
        guidance_scale=record["guidance_scale"],
        size=border.size,
        negative_prompt=networks.expand(record["negative_prompt"]),
    )
    prompt = networks.expand(record["prompt"])
    canvas, wrong = Canvas(border.canvas(image), border.known), ""
    for number in range(TRIES):
        yield BorderBegun(schedulers.calls(pipeline.scheduler, settings.steps))
        seed = (job.seed + number) % (LARGEST_SEED + 1)
        drawn = outpaint(backbone, pipeline, prompt, seed, canvas, settings, on_step)
        finished, seam = join(image, drawn, border)
        wrong = misfit(finished, seam, face, border, models)
        if not wrong:
            told = {
                "drawn": True,
                "sides": [round(share, 4) for share in outside(border.box, size)],
                "box": list(border.box),
                "canvas": list(border.size),
                "seed": seed,
                "seam": round(seam, 2),
            }
            return FramedImage(finished, clip(border.box, size), told)
    return replace(plain, border={"drawn": False, "tries": TRIES, "reason": wrong})


def misfit(
    finished: UInt8Image, seam: float, face: Face, border: Border, models: GenerationModels
) -> str:
    """Return why a border does not go with its picture, in a word or two; "" where it does.

    ``face`` is in pixels of the picture without it.
    """
    if seam > WORST_SEAM:
        return f"the seam shows ({seam:.0f} levels of 255)"
    found = models.detector.detect(finished)
    there = face.moved(-border.box[0], -border.box[1])
    again = max(found, key=lambda one: one.area, default=None)
    if again is None or np.abs(again.landmarks - there.landmarks).max() > STAYS * face.height:
        return "the face is not found again"
    if any(one.score >= 0.5 for one in found if one is not again):
        return "a second face was drawn"
    if repeats_mouth(finished, there, crown_to_chin(there)):
        return "a second mouth was drawn"
    return ""
