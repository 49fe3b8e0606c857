"""Likeness where LoRA is on in a part of the denoising steps alone: at which noise it helps a face.

    python benchmarks/adapter_times.py me.mcap selfies --sheet times.png

Draws seeds 0 to 7 of the subject's style on the demo backbone five times, LoRA switched off
outside of a range of t / T. Likeness to the photos is the centred cosine by dlib's ResNet, which
training never sees. The sheet has a row for each range.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from centred_dlib import Measure
from PIL import Image

from mcap.diffusion.sampling import SamplingSettings, generate_images
from mcap.framing.crop import sampling_size
from mcap.images.find import find_photos
from mcap.registry import registry
from mcap.style.profile import find_profile
from mcap.style.prompts import composed_prompts, negative_prompt_of
from mcap.subjects.subject import read_subject

SEEDS = range(8)
RANGES = ((0.0, 1.0), (0.0, 0.6), (0.0, 0.3), (0.3, 1.0), (0.6, 1.0))
"""(from, to]: t / T at which LoRA is on."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("subject", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--style", default="passport")
    parser.add_argument("--sheet", type=Path)
    options = parser.parse_args()
    measure, profile = Measure(), find_profile(options.style, registry().profile_dirs)
    own = [measure.photo(path) for path in find_photos([options.photos])]
    target = measure.mean([found for found in own if found is not None])
    backbone = registry().get("backbone", "demo").factory("cpu", "float32")
    pipeline = backbone.pipeline()
    read_subject(options.subject).load_into(pipeline)
    layers = [layer for layer in pipeline.unet.modules() if hasattr(layer, "lora_A")]
    scales = [dict(layer.scaling) for layer in layers]
    steps = pipeline.scheduler.config.num_train_timesteps
    forward, strips = pipeline.unet.forward, []
    settings = SamplingSettings.for_backbone(
        backbone.info,
        size=sampling_size(backbone.info, profile.aspect_ratio),
        negative_prompt=negative_prompt_of(backbone.info, profile),
    )
    print("| LoRA is on | likeness | faces |")
    print("| --- | --- | --- |")
    for low, high in RANGES:

        def ranged(latents, time, *rest, low=low, high=high, **more):
            is_on = low < float(time) / steps <= high
            for layer, kept in zip(layers, scales, strict=True):
                layer.scaling.update({name: scale * is_on for name, scale in kept.items()})
            return forward(latents, time, *rest, **more)

        pipeline.unet.forward = ranged
        prompt = composed_prompts(profile)[0]
        images = generate_images(backbone, prompt, SEEDS, settings, pipeline=pipeline)
        vectors = [measure.image(image) for image in images]
        faces = np.stack([found for found in vectors if found is not None])
        print(f"| {low:g} to {high:g} | {(faces @ target).mean():.3f} | {len(faces)} |", flush=True)
        strips.append(np.hstack(images))
    if options.sheet:
        Image.fromarray(np.vstack(strips)).save(options.sheet)


if __name__ == "__main__":
    main()
