"""The settings' slice ``[finish]``."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class FinishSettings(BaseModel):
    """Limits on what is extrapolated beyond a picture, and the resolution of prints."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dpi: int = Field(default=300, ge=50, le=2400)
    """Resolution of a picture whose profile has a ``size_mm``."""
    extend_background: float = Field(default=0.5, ge=0, le=1)
    """Share of the finished picture's height or width, on each side, that may be extrapolated where
    only background is missing."""
    extend_person: float = Field(default=0.25, ge=0, le=0.5)
    """The same where the picture cuts the person off: shoulders below a close-up. Two fifths of it
    on the other sides."""
    extrapolated_person: float = Field(default=0.03, ge=0, le=1)
    """Share of the finished person's pixels that may be extrapolated. Where the framing needs more,
    nobody is: the picture is cut as near to it as it can be, and said to lack the rest."""
    plain: float = Field(default=0.05, ge=0)
    """A background whose brightness varies less than this next to the picture's edge is extended
    (`mcap.framing.extend_canvas.roughness`). Of 102 sides of portraits, paper and painted walls
    have 0.002 to 0.03, lawns and sunny walls 0.03 to 0.05, leaves and offices, even blurred, 0.06
    to 0.19."""
