"""The settings' slice ``[marks]``."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator


class MarkSettings(BaseModel):
    """Marks beside the XMP that every picture has."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    watermark: str = "spread"
    """Name of the watermark that is put into the pixels, or "none"."""
    c2pa: bool = True
    """Sign a C2PA manifest into each picture, where the extra ``mcap[c2pa]`` is installed."""
    certificate: Path | None = None
    """PEM file to sign with: the certificate, then those that vouch for it; None: a certificate
    that is made once on this machine."""
    key: Path | None = None
    """PEM file of its private key, without a password."""
    trust: Path | None = Field(default=None)
    """PEM file of certificates whose signatures ``mcap inspect`` calls trusted."""

    @model_validator(mode="after")
    def both_or_neither(self) -> MarkSettings:
        """Refuse a certificate without its key, and the reverse."""
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together; give both or neither")
        return self
