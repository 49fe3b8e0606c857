"""Small pictures from the weights as they are now, always from the same noise, and their likeness.

Because the seeds stay, two previews of a run differ by what was learned between them and by
nothing else, so the mean similarity of their faces to the person can be compared from look to look.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mcap.diffusion.sampling import SamplingSettings, generate_images
from mcap.faces.similarity import likeness
from mcap.images.jpeg import write_jpeg
from mcap.runtime.randomness import preserve_rng_state

if TYPE_CHECKING:
    from mcap.contracts import Backbone, FaceDetector, Float32Array, IdentityModel, UInt8Image

STEPS = 20
PICTURES = 4
"""How many are drawn: one alone says as much of its seed as of the training."""


@dataclass(frozen=True)
class Preview:
    """``pictures`` uint8[H, W, 3] side by side; ``similarity`` the mean cosine of their faces to
    the person, a picture without a face counting as 0; None where nobody judged."""

    pictures: UInt8Image
    similarity: float | None


@dataclass(frozen=True)
class PreviewScorer:
    """Who finds the faces, and which network compares them with whom."""

    detector: FaceDetector
    identity: IdentityModel
    target: Float32Array

    def similarity(self, pictures: Sequence[UInt8Image]) -> float:
        found = [
            likeness(picture, self.detector, self.identity, self.target).similarity
            for picture in pictures
        ]
        return sum(value or 0.0 for value in found) / len(found)


def preview(
    backbone: Backbone, prompt: str, seed: int, path: Path, judge: PreviewScorer | None = None
) -> Preview:
    """Draw ``prompt`` from `PICTURES` seeds, from ``seed`` on, and write them as one JPEG.

    No random state that training reads is moved, and no module is changed.
    """
    steps = min(STEPS, int(backbone.info.generate_defaults.get("steps", STEPS)))
    seeds = [seed + number for number in range(PICTURES)]
    with preserve_rng_state(backbone.device):
        settings = SamplingSettings.for_backbone(backbone.info, steps=steps)
        drawn = generate_images(backbone, prompt, seeds, settings)
    side_by_side = np.concatenate(drawn, axis=1)
    write_jpeg(path, side_by_side)
    return Preview(side_by_side, judge.similarity(drawn) if judge is not None else None)


@dataclass
class EarlyStopping:
    """Says when similarity has stopped rising: ``patience`` looks without a new best one.

    ``least`` is the rise that counts. `kept` is what was handed over with the best look.
    """

    patience: int
    least: float
    seen: list[float] = field(default_factory=list)
    kept: Mapping[str, Any] | None = None

    def look(self, similarity: float, state: Mapping[str, Any]) -> bool:
        """Take in the next look, with what to keep if it is the best; True where it is time."""
        if not self.seen or similarity > self.seen[self._best()] + self.least:
            self.kept = state
        self.seen.append(similarity)
        return len(self.seen) - 1 - self._best() >= self.patience

    def _best(self) -> int:
        """Number of the look that was the last to rise by enough."""
        best = 0
        for number, value in enumerate(self.seen):
            if value > self.seen[best] + self.least:
                best = number
        return best

    def state(self) -> dict[str, Any]:
        return {"seen": list(self.seen), "kept": self.kept}

    def load(self, state: Mapping[str, Any]) -> None:
        self.seen, self.kept = list(state["seen"]), state["kept"]
