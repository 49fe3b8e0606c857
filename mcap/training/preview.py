"""A small picture from the weights as they are now."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mcap.atomic import write_with
from mcap.training.device import untouched_randomness

if TYPE_CHECKING:
    from mcap.contracts import Backbone

STEPS = 20


@torch.no_grad()
def preview(backbone: Backbone, prompt: str, seed: int, path: Path) -> None:
    """Draw ``prompt`` with the modules as they stand and write it as a JPEG.

    No random state that training reads is moved, and no module is changed.
    """
    defaults = backbone.info.generate_defaults
    with untouched_randomness(backbone.device):
        pipeline = backbone.pipeline()
        pipeline.set_progress_bar_config(disable=True)
        picture = pipeline(
            prompt,
            num_inference_steps=min(STEPS, int(defaults.get("steps", STEPS))),
            guidance_scale=float(defaults.get("guidance_scale", 7.0)),
            height=backbone.info.native_size,
            width=backbone.info.native_size,
            generator=torch.Generator().manual_seed(seed),
        ).images[0]
    write_with(path, lambda temporary: picture.save(temporary, quality=90))
