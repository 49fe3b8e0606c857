"""What `make demo` gives: likeness, leak and background of its eight pictures, before and after.

    make demo
    python benchmarks/demo.py out/demo.mcap --sheet before-after.jpg --hide 3

Draws seeds 0 to 7 as the command does, once with the words' initial values and no LoRA, once as
trained. Likeness to the person of ``examples/selfies`` and to the reference people of ``passport``
is the centred cosine by dlib's ResNet, which training never sees; white as in the demo backbone's
model card. The sheet has before above and after below; ``--hide`` leaves seeds out of it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from centred_dlib import Measure

from mcap.diffusion.sampling import SamplingSettings, generate_images
from mcap.framing.crop import sampling_size
from mcap.images.find import find_photos
from mcap.images.jpeg import write_jpeg
from mcap.registry import registry
from mcap.style.profile import find_profile
from mcap.style.prompts import composed_prompts, negative_prompt_of
from mcap.subjects.subject import read_subject

sys.path.insert(0, str(Path(__file__).parent.parent / "tools" / "demo_backbone"))
from evaluate import is_plain_white

SELFIES = Path(__file__).parent.parent / "examples" / "selfies"
SEEDS = range(8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("subject", type=Path)
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--hide", type=int, nargs="*", default=[], metavar="SEED")
    options = parser.parse_args()
    measure, profile = Measure(), find_profile("passport", registry().profile_dirs)
    own = [measure.photo(path) for path in find_photos([SELFIES])]
    target = measure.mean([found for found in own if found is not None])
    references = [measure.photo(path) for path in profile.reference_paths()]
    references = np.stack([found for found in references if found is not None])

    subject = read_subject(options.subject)
    backbone = registry().get("backbone", "demo").factory("cpu", "float32")
    size = sampling_size(backbone.info, profile.aspect_ratio)
    print("| | best four | all eight | nearest reference person | white background | faces |")
    print("| --- | --- | --- | --- | --- | --- |")
    strips = []
    for moment, scale in (("before", 0.0), ("after", 1.0)):
        pipeline = backbone.pipeline()
        subject.load_into(pipeline, adapter_scale=scale, token_scale=scale)
        negative = negative_prompt_of(backbone.info, profile)
        images = generate_images(
            backbone,
            composed_prompts(profile)[0],
            SEEDS,
            SamplingSettings.for_backbone(backbone.info, size=size, negative_prompt=negative),
            pipeline=pipeline,
        )
        subject.unload_from(pipeline)
        vectors = [measure.image(image) for image in images]
        faces = np.stack([found for found in vectors if found is not None])
        similar = np.sort(faces @ target)[::-1]
        print(
            f"| {moment} | {similar[:4].mean():.3f} | {similar.mean():.3f} "
            f"| {(faces @ references.T).mean(axis=0).max():.3f} "
            f"| {sum(is_plain_white(image) for image in images)} of {len(images)} "
            f"| {len(faces)} |"
        )
        pairs = zip(SEEDS, images, strict=True)
        strips.append(np.hstack([image for seed, image in pairs if seed not in options.hide]))
    if options.sheet:
        write_jpeg(options.sheet, np.vstack(strips))


if __name__ == "__main__":
    main()
