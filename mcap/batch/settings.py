"""Everything that is asked of the jobs of a batch alike."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field


class BatchSettings(BaseModel):
    """The stages of each job; kept in the ledger, so that ``mcap batch retry`` does the same."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    environment: Mapping[str, str] = {}
    """``MCAP_*`` -> value: the settings (mcap.toml) of whoever began the batch, for every worker on
    every machine."""
    count: int | None = Field(default=None, ge=1)
    """Pictures of each style; None: the profile's number."""
    best: int | None = Field(default=None, ge=1)
    """Pictures of each style that are kept beside the others and enhanced; None: all."""
    enhance: bool = False
    """Enlarge and frame the pictures as the style's profile asks."""
    restorer: str | None = None
    """Restorers of ``mcap enhance``, separated by commas."""
    low_memory: bool = False
    """From the first attempt on, not only after one that ran out of memory."""
    force: bool = False
    """Train over a subject that was trained on other photos."""
    checkpoint_every: int = Field(default=100, ge=1)
    """Steps of training after which a job that is lost goes on."""
    min_free_mb: float = Field(default=1000.0, ge=0)
    """Free space, in MiB, that must be left on the disk of the output beside what a job needs."""
