"""Settings of an edit."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from mcap.images import provenance

KEEP = 0.8
"""Share of the UNet's calls in which the source's cross-attention is taken over."""
LARGEST_FACTOR = 10.0


class EditSettings(BaseModel):
    """Changes of the prompt, and how much of the picture they leave."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    replace: tuple[tuple[str, str], ...] = ()
    """Words of the prompt and what to put in their place; empty: nothing."""
    add: tuple[str, ...] = ()
    """Words to put at the end of the prompt, after a comma."""
    prompt: str | None = None
    """A whole new prompt instead."""
    weights: tuple[tuple[str, float], ...] = ()
    """Words and the factor by which they count."""
    keep: float = Field(default=KEEP, ge=0, le=1)
    """Share of the steps in which the composition is held."""
    layout: float | None = Field(default=None, ge=0, le=1)
    """... and of those in which layout is, too; None: half of ``keep``."""
    local: bool = False
    """Change the picture only where the changed words look."""
    where: tuple[str, ...] = ()
    """Change the picture only where these words look."""
    batch_size: int | None = Field(default=None, ge=1)
    format: Literal["png", "jpg", "webp"] = "png"
    quality: int = Field(default=95, ge=1, le=100)
    metadata: provenance.Metadata = "all"
