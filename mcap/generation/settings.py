"""Settings of generation, and the models that it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mcap.images import provenance
from mcap.images.marking import NO_MARKS, Marks

if TYPE_CHECKING:
    from mcap.contracts import (
        Backbone,
        FaceDetector,
        IdentityModel,
        SafetyClassifier,
        SteersPipeline,
    )

LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True)
class GenerationModels:
    """The loaded models that generation and editing run."""

    backbone: Backbone
    identity: IdentityModel | None
    """The network that the subject was embedded by: similarity is measured with it. None where the
    subject is a thing."""
    detector: FaceDetector
    judge: IdentityModel | None = None
    """A network that did not teach; None where none is there."""
    safety: SafetyClassifier | None = None
    """Looks at each picture before it is written. None only for a backbone that needs none
    (`mcap.generation.safety`)."""
    marks: Marks = NO_MARKS
    """What the pictures are marked with, beside their XMP."""
    encoder: SteersPipeline | None = None
    """The identity encoder that draws the subject (`mcap.subjects.subject.Subject.encoded`); None
    of one that was trained."""


class MeasureSettings(BaseModel):
    """The settings' slice ``[measure]``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    identity: str = "auto"
    """The network that judges likeness and never teaches: a name, "none", or "auto": the first that
    only measures and is installed."""


class SafetySettings(BaseModel):
    """The settings' slice ``[safety]``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    classifier: str = "nsfw"
    """The classifier that looks at pictures of real backbones before they are written: a name, or
    "off"."""
    i_am_responsible: bool = False
    """Must be true for ``classifier = "off"``: nobody looks at the pictures then but you."""

    @model_validator(mode="after")
    def answered_for(self) -> SafetySettings:
        """Refuse to switch the classifier off where nobody says to answer for it."""
        if self.classifier == "off" and not self.i_am_responsible:
            raise ValueError(
                'classifier = "off" needs i_am_responsible = true beside it: pictures are then '
                "written that no classifier has looked at, and you answer for them"
            )
        return self


class GenerateSettings(BaseModel):
    """Settings of one run. None: the backbone's own value, else the profile's, else mcap's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    count: int | None = Field(default=None, ge=1)
    """Pictures a style."""
    seed: int = Field(default=0, ge=0, le=LARGEST_SEED)
    """Of the first picture; picture i has ``seed + i``."""
    prompts: tuple[str, ...] = ()
    """Templates ({id}, {style}, {noun}) or plain text, instead of the profile's; used in turn."""
    all_prompts: bool = False
    """Use all of the profile's composed prompts in turn, not the first alone."""
    negative: str | None = None
    steps: int | None = Field(default=None, ge=1, le=1000)
    guidance_scale: float | None = Field(default=None, ge=0, le=50)
    scheduler: str | None = None
    """One of `mcap.diffusion.schedulers.names`, or another name that
    `mcap.diffusion.schedulers.find` knows."""
    adapter_scale: float = Field(default=1.0, ge=0, le=2)
    token_scale: float = Field(default=1.0, ge=0, le=2)
    batch_size: int | None = Field(default=None, ge=1)
    best: int | None = Field(default=None, ge=1)
    """Pictures of each style that stay; the others go to ``rest/``."""
    format: Literal["png", "jpg", "webp"] = "png"
    quality: int = Field(default=95, ge=1, le=100)
    metadata: provenance.Metadata = "all"
    attention_maps: bool = False
