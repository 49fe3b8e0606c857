"""Records of pictures as they are read back: the keys that sheets and reports are made of.

A record comes from the picture or from results.jsonl, which anybody may have changed. One that does
not fit is as good as none: the picture is made again beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator


class Part(BaseModel):
    """A part of a record; keys beside those named here may be anything."""

    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)


class Size(Part):
    size: list[int] = Field(min_length=2, max_length=2)


class Named(Part):
    name: str


class UsedBackbone(Part):
    id: str
    sha256: str


class Framing(Part):
    met: bool


class Judgement(Part):
    network: str
    similarity: float
    threshold: float
    strangers: int
    like: bool


class DrawnBorder(Part):
    drawn: bool
    reason: str = ""


class GeneratedRecord(Size):
    """Of ``mcap generate``."""

    settings_sha256: str
    mcap: str
    profile: str
    seed: int
    similarity: float | None
    sampler: str
    steps: int
    guidance_scale: float
    adapter_scale: float
    token_scale: float
    prompt: str
    negative_prompt: str
    precision: str
    identity: str
    backbone: UsedBackbone
    framing: Framing | None = None
    judge: Judgement | None = None
    border: DrawnBorder | None = None
    colour_match: float | None = None


class EditStep(Part):
    replace: list[list[str]] = []
    add: list[str] = []
    weights: list[list[str | float]] = []
    prompt: str = ""

    @model_validator(mode="after")
    def in_pairs(self) -> EditStep:
        """Refuse words without their counterpart."""
        counts = [len(pair) for pair in self.replace] + [len(pair) for pair in self.weights]
        if set(counts) - {2} or any(isinstance(factor, str) for _, factor in self.weights):
            raise ValueError("not in pairs")
        return self


class EditedRecord(GeneratedRecord):
    """Of ``mcap edit``."""

    similarity_before: float | None
    face_kept: float | None
    edits: list[EditStep] = Field(min_length=1)


class FaceStage(Part):
    restorer: str
    weight: float
    allowed: bool


class EnhancedFace(Part):
    box: list[float] = Field(min_length=4, max_length=4)
    reason: str | None
    compared_with: str
    similarity_before: float
    similarity_after: float | None
    stages: list[FaceStage]
    held_back: str
    is_person: bool | None = None
    to_person_before: float | None = None
    to_person_after: float | None = None


class EnhancedFor(Part):
    in_picture: bool
    same_person: float


class Finish(Part):
    unmet: list[str] = []
    dpi: list[float] | None = Field(default=None, min_length=2, max_length=2)


class EnhancedRecord(Size):
    """Of ``mcap enhance``."""

    settings_sha256: str
    input: Size
    faces: list[EnhancedFace]
    restorers: list[Named]
    notes: list[str]
    finish: Finish | None
    subject: EnhancedFor | None = None

    @model_validator(mode="after")
    def compared(self) -> EnhancedRecord:
        """Refuse faces that were compared with nobody where somebody was named."""
        if self.subject is not None and any(face.to_person_before is None for face in self.faces):
            raise ValueError("a face was not compared with the person")
        return self


RECORDS: Mapping[str, type[BaseModel]] = MappingProxyType(
    {"generate": GeneratedRecord, "edit": EditedRecord, "enhance": EnhancedRecord}
)
"""A record's ``kind`` -> what it must hold."""


def is_whole(record: Mapping[str, Any], kind: Any) -> bool:
    """Return whether sheets and reports can be made of a record of such pictures."""
    try:
        return RECORDS[kind].model_validate(record) is not None
    except (KeyError, TypeError, ValidationError):
        return False
