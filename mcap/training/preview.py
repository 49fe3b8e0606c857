"""A small picture from the weights as they are now."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from mcap.atomic import write_with
from mcap.drawing import draw
from mcap.training.device import untouched_randomness

if TYPE_CHECKING:
    from mcap.contracts import Backbone

STEPS = 20


def preview(backbone: Backbone, prompt: str, seed: int, path: Path) -> None:
    """Draw ``prompt`` with the modules as they stand and write it as a JPEG.

    No random state that training reads is moved, and no module is changed.
    """
    steps = min(STEPS, int(backbone.info.generate_defaults.get("steps", STEPS)))
    with untouched_randomness(backbone.device):
        (pixels,) = draw(backbone, prompt, [seed], steps=steps)
    picture = Image.fromarray(pixels)
    write_with(path, lambda temporary: picture.save(temporary, quality=90))
