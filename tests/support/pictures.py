"""Small pictures, and files of them."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from mcap.images import provenance
from mcap.images.picture import PictureFile, read_picture
from mcap.images.provenance import Label
from mcap.images.write import write_picture

GENERATED = {
    "schema": 1,
    "kind": "generate",
    "mcap": "0.1.0",
    "subject": {"name": "jürgen", "sha256": "00"},
    "profile": "passport",
    "prompt": "a photo of a <mcap-id> person,\nwhite & bright 日本",
    "negative_prompt": "hat, sunglasses",
    "seed": 42,
    "steps": 20,
    "guidance_scale": 7.0,
    "sampler": "DPM++ 2M Karras",
    "backbone": {"id": "demo", "revision": "local", "sha256": "abcdef0123456789"},
    "drawn_size": [256, 256],
    "size": [199, 256],
    "similarity": None,
}


def gradient(height: int = 48, width: int = 64) -> np.ndarray:
    """uint8[height, width, 3]: red from left to right, green from top to bottom."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 / (width - 1), y * 255 / (height - 1), 0 * x + 90], -1).astype(
        np.uint8
    )


def saved(path: Path, image: Image.Image, **options) -> Path:
    """The picture written to ``path``."""
    image.save(path, **options)
    return path


@functools.cache  # the time when it was made is in it
def profile(name: str = "sRGB") -> bytes:
    """A colour profile of LittleCMS."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile(name)).tobytes()


def rewritten(source: PictureFile, path: Path, **options) -> PictureFile:
    """A picture written as it was read, and read again."""
    words = {
        "source_type": options.pop("source_type", provenance.ALGORITHMICALLY_ENHANCED),
        "metadata": options.pop("metadata", "all"),
    }
    record = {"schema": 1, "kind": "enhance", "mcap": "1.0"}
    write_picture(path, source.pixels, source.alpha, source, Label(record, **words), **options)
    return read_picture(path)


def png_with(path: Path, image: np.ndarray, **chunks: str) -> Path:
    info = PngInfo()
    for key, value in chunks.items():
        info.add_itxt(key.replace("_", ":"), value)
    Image.fromarray(image).save(path, pnginfo=info)
    return path
