"""Small images from the weights as they are now, always from the same noise, and their likeness.

Because the seeds stay, two previews of a run differ by what was learned between them and by
nothing else, so the mean similarity of their faces to the person can be compared between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mcap.diffusion.sampling import SamplingSettings, generate_images
from mcap.faces.similarity import likeness
from mcap.generation.safety import look
from mcap.images.jpeg import write_jpeg
from mcap.images.marking import NO_MARKS, Marks
from mcap.images.provenance import mark_only
from mcap.runtime.randomness import preserve_rng_state

if TYPE_CHECKING:
    from mcap.contracts import (
        Backbone,
        FaceDetector,
        Float32Array,
        IdentityModel,
        SafetyClassifier,
        UInt8Image,
    )

STEPS = 20
GREY = 128  # level of 255 that stands where an image was withheld
IMAGES = 4
"""Images of a preview: one alone says as much of its seed as of the training."""


@dataclass(frozen=True)
class Preview:
    jpeg: bytes
    """The file with its marks: the images side by side, grey where one was withheld."""
    size: tuple[int, int]
    """(width, height) of the file."""
    similarity: float | None
    """Mean cosine of their faces to the person, in [-1, 1], an image without a face counting as 0;
    None without a scorer."""
    withheld: tuple[int, ...] = ()
    """Seeds of images that the safety classifier keeps from being written."""


@dataclass(frozen=True)
class PreviewScorer:
    """Finds the faces of a preview and compares them with the person."""

    detector: FaceDetector
    identity: IdentityModel
    target: Float32Array
    """float32[D], the person's mean embedding."""

    def similarity(self, images: Sequence[UInt8Image]) -> float:
        """Return the mean cosine of the images' faces to the person; without a face it is 0."""
        found = [
            likeness(image, self.detector, self.identity, self.target).similarity
            for image in images
        ]
        return sum(value or 0.0 for value in found) / len(found)


@dataclass(frozen=True)
class Previews:
    """The previews of a run: one prompt, `IMAGES` seeds from ``seed`` on."""

    backbone: Backbone
    prompt: str
    seed: int
    scorer: PreviewScorer | None = None
    size: tuple[int, int] | None = None
    """(width, height) to draw; None: the backbone's native square."""
    safety: SafetyClassifier | None = None
    """Looks at each image before it is written."""
    marks: Marks = NO_MARKS

    def draw(self, path: Path) -> Preview:
        """Draw a preview and write it as one JPEG.

        No random state that training reads is moved, and no module is changed.
        """
        steps = min(STEPS, int(self.backbone.info.generate_defaults.get("steps", STEPS)))
        seeds = [self.seed + number for number in range(IMAGES)]
        with preserve_rng_state(self.backbone.device):
            settings = SamplingSettings.for_backbone(
                self.backbone.info, steps=steps, size=self.size
            )
            drawn = generate_images(self.backbone, self.prompt, seeds, settings)
        info = self.backbone.info
        passed = [look(image, info, self.safety).passed for image in drawn]
        shown = [
            image if good else np.full_like(image, GREY)
            for image, good in zip(drawn, passed, strict=True)
        ]
        side_by_side = np.concatenate(shown, axis=1)
        write_jpeg(path, side_by_side, mark_only(self.marks))
        height, width = side_by_side.shape[:2]
        return Preview(
            path.read_bytes(),
            (width, height),
            self.scorer.similarity(drawn) if self.scorer else None,
            tuple(seed for seed, good in zip(seeds, passed, strict=True) if not good),
        )
