"""The settings' slice ``[enhance]``."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class EnhanceSettings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    restorers: tuple[str, ...] = ("demo-sr", "demo-face")
    """In the order in which they work; () for none. demo-face is for what the backbone ``demo``
    drew, and leaves other pictures alone."""

    scale: float | None = Field(default=None, gt=0, le=16)
    """Times as many pixels on a side as the input; None: what the restorers make of it."""

    fidelity: float | None = Field(default=None, ge=0, le=1)
    """0: best looking, 1: closest to the input; for restorers that have it. None: their own."""

    denoise: float | None = Field(default=None, ge=0, le=1)
    """0: noise is kept, 1: taken away; for restorers that have it. None: their own."""

    tile: int = Field(default=512, ge=32)
    """Side in input pixels of what a restorer sees at once."""

    max_megapixels: float = Field(default=512.0, gt=0)
    """Larger results are refused before work begins: of 512 megapixels the file alone is a
    gigabyte."""

    min_face: int = Field(default=32, ge=1)
    """Faces of fewer pixels of height in the input are not given to face restorers: they hold too
    little of a person. Measured with SFace on 30 faces made small and compressed: at 24 pixels 5 %
    are less than 0.45 similar to what they were, at 16 pixels 0.18; strangers reach 0.49 (1 %)."""

    max_yaw: float = Field(default=60.0, gt=0, le=90)
    """Degrees. Faces turned further are not given to face restorers, which know them from the
    front and half turned."""

    colour_match: bool = True
    """Shades and colours of a restored face stay the input's; only what is finer is new."""

    guard: Literal["blend", "refuse", "off"] = "blend"
    """What becomes of a face that a restorer makes too unlike itself: as much of the restoration
    as keeps it like (blend), none of it (refuse), or all of it, measured all the same (off)."""

    max_change: float = Field(default=0.4, ge=0, le=2)
    """Cosine similarity that a face may lose to itself before.

    A restoration that brought back the very face would lose, measured with SFace on 30 faces and
    told as what 5 % exceed: 0.43 of a face of 32 pixels, 0.21 of 48, 0.12 of 64, 0.05 of 96; 0.19
    of one of 95 pixels that is blurred, noisy and compressed twice, and 0.34 at most. Between
    strangers there is 0.44 and more (435 pairs). So 0.4 lets through what a poor picture needs, and
    no other person."""

    max_loss: float = Field(default=0.05, ge=0, le=2)
    """Cosine similarity that a face may lose to the person, where photos of the person or a
    subject are given."""

    format: Literal["png", "jpg", "webp"] = "png"
    quality: int = Field(default=95, ge=1, le=100)
    """Of jpg and webp; 100 in webp is lossless."""

    keep_location: bool = False
    """Where, by whom and with which device a photo was taken stays in it: GPS, serial numbers,
    maker notes, thumbnails."""

    metadata: Literal["all", "label", "none"] = "all"
    """all: everything that the input carries, and how it was enhanced; label, none: only the marks
    that say where the picture comes from."""
