"""The seed of a run, and how it is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mcap.images.marking import NO_MARKS, Marks

if TYPE_CHECKING:
    from mcap.training.recipe import Recipe


@dataclass(frozen=True)
class Options:
    """Everything but the seed leaves the result of a run as it is."""

    seed: int = 0
    """Start of all random numbers: another seed, another result."""
    resume: bool = False
    """Go on from the last checkpoint, where there is one."""
    checkpoint_every: int = 100
    """Steps between two checkpoints; there is one at the end of each phase, too."""
    keep: int = 2
    """Number of checkpoints that are kept, the newest ones; of a whole network that learns, each of
    which takes gigabytes, the last alone."""
    preview_every: int = 0
    """Steps between two previews; 0: none, but for those that early stopping evaluates."""
    preview_prompt: str = ""
    """Prompt of the previews; empty: the first composed prompt."""
    latents: Path | None = None
    """Folder that keeps encoded images between runs; None: they are encoded anew."""
    distilled: bool = False
    """Train even a model that was distilled to draw in a few steps."""
    marks: Marks = NO_MARKS
    """What previews are marked with, beside their XMP."""
    should_stop: Callable[[], bool] = field(default=lambda: False)
    """Asked after each step; true saves a checkpoint and ends the run with `Stopped`."""

    def kept(self, recipe: Recipe) -> int:
        """Return the number of checkpoints that a run of the recipe keeps."""
        return 1 if recipe.learns == "unet" else self.keep
