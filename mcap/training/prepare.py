"""Masked photos -> what the loop learns from; reference photos drawn where a style has none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from mcap.diffusion.sampling import generate_images
from mcap.masking.crops import TrainingCrop, portrait_crops
from mcap.runtime.files import write_with
from mcap.runtime.randomness import preserve_rng_state
from mcap.style.prompts import composed_prompts, fill, reference_prompts, source_prompts
from mcap.training.batches import Prompts
from mcap.training.loop import TrainingData

if TYPE_CHECKING:
    from mcap.contracts import Backbone
    from mcap.masking.select import MaskedPhoto
    from mcap.style.profile import StyleProfile

REFERENCES_DRAWN = 8


def training_data(
    sources: Sequence[MaskedPhoto],
    references: Sequence[MaskedPhoto],
    profile: StyleProfile,
    backbone: Backbone,
    crops: int = 1,
) -> TrainingData:
    """Crops of the backbone's size and framing, prompts of the profile, the mean embedding.

    Each photo gives ``crops`` crops. The loop draws every crop once a
    round, so all photos count the same.
    """
    size, face_height = backbone.info.native_size, backbone.info.face_height

    def cut(photos: Sequence[MaskedPhoto]) -> list[TrainingCrop]:
        return [
            crop for photo in photos for crop in portrait_crops(photo, size, face_height, crops)
        ]

    mean = np.mean([masked.embedding for masked in sources], axis=0, dtype=np.float64)
    return TrainingData(
        sources=cut(sources),
        references=cut(references),
        prompts=Prompts(
            source_prompts(profile.class_noun),
            reference_prompts(profile.class_noun),
            composed_prompts(profile),
        ),
        target=(mean / np.linalg.norm(mean)).astype(np.float32),
    )


def draw_references(
    backbone: Backbone,
    profile: StyleProfile,
    folder: Path,
    seed: int,
    count: int = REFERENCES_DRAWN,
    on_picture: Callable[[Path], None] | None = None,
) -> list[Path]:
    """Reference pictures from the profile's prompts in turn, kept in ``folder``.

    Those that are there already are not drawn again.
    """
    prompts = [fill(text, profile.class_noun) for text in profile.references.prompts]
    paths = []
    for number in range(count):
        path = folder / f"reference-{number + 1:02d}.png"
        paths.append(path)
        if not path.is_file():
            with preserve_rng_state(backbone.device):
                prompt = prompts[number % len(prompts)]
                (pixels,) = generate_images(backbone, prompt, [seed + number])
            write_with(path, Image.fromarray(pixels).save)
        if on_picture is not None:
            on_picture(path)
    return paths
