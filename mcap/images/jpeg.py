"""JPEG files of pictures that are made to be looked at, not worked on: sheets and previews.

Portraits themselves are written by `mcap.images.write`, with their record.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

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
    save_jpeg(buffer, Image.fromarray(image), quality=QUALITY, **embedded)
    return buffer.getvalue()


def save_jpeg(file: BinaryIO, picture: Image.Image, **options: Any) -> None:
    """Write a picture into an empty file, open for writing, with Pillow's options.

    Its Huffman tables are made for it, for which Pillow's buffer holds one or two bytes a pixel;
    where noise takes more, the tables are the common ones.
    """
    try:
        picture.save(file, "JPEG", optimize=True, **options)
    except OSError as error:
        if error.errno is not None:  # a disk's, which has a number
            raise
        file.seek(0)
        file.truncate()
        picture.save(file, "JPEG", **options)


def write_jpeg(path: Path, image: UInt8Image, label: Label | None = None) -> None:
    """Write uint8[H, W, 3] RGB, or uint8[H, W] grey, to ``path``: the whole file or none.

    With a ``label`` it gets that label's marks, the watermark too; None is for photographs.
    """
    if label is None:
        files.write_bytes(path, jpeg_bytes(image))
        return
    data = jpeg_bytes(label.marks.watermarked(image), label.packet(limit=XMP_LIMIT))
    label.write_with(path, lambda file: file.write(data), image.nbytes)
