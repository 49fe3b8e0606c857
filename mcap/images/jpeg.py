"""JPEG files of pictures that are made to be looked at, not worked on: sheets and previews.

Portraits themselves are written by `mcap.images.write`, with their record, and with
`lossy_options`.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from mcap.runtime import files

if TYPE_CHECKING:
    from mcap.contracts import UInt8Image
    from mcap.images.provenance import Label

QUALITY = 90

EXIF_LIMIT = 65_533
"""Bytes of EXIF, its head "Exif\\0\\0" included, that a segment holds (ITU-T T.81, section B.1.1.4:
two bytes give the length, themselves included)."""

LONGEST_SIDE = {".jpg": 65_500, ".webp": 16_383}
"""Pixels of the longer side that the format, or libjpeg, holds."""

XMP_LIMIT = 65_000  # the same of XMP, less its head


def jpeg_bytes(image: UInt8Image, packet: bytes | None = None) -> bytes:
    """Return uint8[H, W, 3] RGB, or uint8[H, W] grey, as a JPEG file with that XMP packet."""
    buffer = io.BytesIO()
    embedded = {} if packet is None else {"xmp": packet}
    Image.fromarray(image).save(buffer, "JPEG", quality=QUALITY, optimize=True, **embedded)
    return buffer.getvalue()


def write_jpeg(path: Path, image: UInt8Image, label: Label | None = None) -> None:
    """Write uint8[H, W, 3] RGB, or uint8[H, W] grey, to ``path``: the whole file or none.

    With a ``label`` it gets that label's marks, the watermark too; None is for photographs.
    """
    if label is None:
        files.write_bytes(path, jpeg_bytes(image))
        return
    data = jpeg_bytes(label.marks.watermarked(image), label.packet(limit=XMP_LIMIT))
    label.write_with(path, lambda temporary: temporary.write_bytes(data))


def lossy_options(suffix: str, quality: int) -> dict[str, Any]:
    """Return Pillow's options for a portrait as ``.jpg`` or ``.webp``.

    JPEG keeps a colour for every pixel (4:4:4): halved colours bleed at a lip's edge. ``quality``
    is 1 to 100; 100 in WebP is lossless.
    """
    if suffix == ".jpg":
        return {"quality": quality, "subsampling": 0, "optimize": True}
    return {"quality": quality, "lossless": quality >= 100, "method": 4}
