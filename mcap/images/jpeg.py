"""Pictures made to be looked at, not worked on: contact sheets and previews, as JPEG files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from mcap.runtime import files

if TYPE_CHECKING:
    from mcap.contracts import UInt8Image

QUALITY = 90


def write_jpeg(path: Path, image: UInt8Image) -> None:
    """Write uint8[H, W, 3] RGB, or uint8[H, W] grey, to ``path``: the whole file or none."""
    picture = Image.fromarray(image)
    files.write_with(
        path, lambda temporary: picture.save(temporary, quality=QUALITY, optimize=True)
    )
