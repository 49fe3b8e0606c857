"""Crops, masks and captions as other trainers read them.

    kohya/10_ohwx person/NAME.png   RGBA: the crop, the mask as its alpha (sd-scripts' --alpha_mask)
                         NAME.txt   the caption (--caption_extension .txt)
    onetrainer/NAME.png             the crop
               NAME-masklabel.png   the mask (masked training)
               NAME.txt             the caption (prompt source "from text file per sample")

sd-scripts takes every folder REPEATS_WORDS inside its ``train_data_dir``, and every picture in
those for a photo, so that masks of their own would be learned. In both white trains, grey less.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

if TYPE_CHECKING:
    from mcap.masking.crops import TrainingCrop

Trainer = Literal["kohya", "onetrainer"]
TRAINERS: tuple[Trainer, ...] = ("kohya", "onetrainer")
"""Their sets' folders are called as they are."""
CAPTION = ".txt"
LABELS = ("-masklabel", "-condlabel")
"""Endings by which OneTrainer knows what is no photo."""


class TrainingSet(BaseModel):
    """Which trainer the files are for, and what they say."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trainer: Trainer
    trigger: Annotated[
        str, StringConstraints(pattern=r'^[^\s./\\:*?"<>|][^/\\:*?"<>|\x00-\x1f]{0,79}$')
    ] = "ohwx person"
    """The words that stand for the subject, at most 80 characters and fit for a folder's name."""
    repeats: int = Field(default=10, ge=1, le=10_000)
    """How often kohya's trainer takes each photo in an epoch."""

    @property
    def folder(self) -> str:
        """The pictures' folder, relative to that of the masks."""
        if self.trainer == "onetrainer":
            return self.trainer
        return f"{self.trainer}/{self.repeats}_{self.trigger}"

    @property
    def caption(self) -> str:
        """The caption of each photo, to be edited."""
        return f"a photo of {self.trigger}"

    @property
    def hint(self) -> str:
        """The options that the trainer needs."""
        if self.trainer == "onetrainer":
            return "prompt source 'from text file per sample', masked training on"
        return "--caption_extension .txt --alpha_mask"

    def files(self, name: str, crop: TrainingCrop) -> dict[str, bytes]:
        """Return the files of a photo that is called ``name``: path -> bytes."""
        if name.endswith(LABELS):
            name += "_"
        bgr = cv2.cvtColor(crop.image, cv2.COLOR_RGB2BGR)
        mask = np.round(crop.mask * np.float32(255.0)).astype(np.uint8)
        pictures = {f"{name}.png": bgr, f"{name}-masklabel.png": mask}
        if self.trainer == "kohya":
            pictures = {f"{name}.png": np.dstack([bgr, mask])}
        found = {
            f"{self.folder}/{file}": cv2.imencode(".png", picture)[1].tobytes()
            for file, picture in pictures.items()
        }
        return found | {f"{self.folder}/{name}{CAPTION}": f"{self.caption}\n".encode()}


def trainer_of(path: str) -> str | None:
    """Return the trainer for which a file inside the folder of masks is, None for another file."""
    top, _, rest = path.partition("/")
    return top if rest and top in TRAINERS else None
