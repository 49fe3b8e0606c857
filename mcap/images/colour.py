"""Colours and depths brought to what is worked on: sRGB, 8 bits, on white paper."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageCms

from mcap.errors import InputRejectedError

if TYPE_CHECKING:
    from mcap.contracts import Float32Array, UInt8Image

STRIP = 64
"""Rows that are worked on at once: enormous pictures are in memory only once."""


def by_strips(values: np.ndarray, scaled: Callable[[np.ndarray], np.ndarray]) -> UInt8Image:
    """Return ``scaled(values)`` as uint8, worked out a few rows at a time."""
    small = np.empty(values.shape, dtype=np.uint8)
    for start in range(0, len(values), STRIP):
        small[start : start + STRIP] = scaled(values[start : start + STRIP])
    return small


def to_eight_bits(values: np.ndarray) -> UInt8Image:
    """uint16, or float32 in [0, 1] -> uint8 of the same places, rounded; uint8 as it is."""
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.float32:
        return by_strips(values, lambda strip: np.rint(strip * 255.0).clip(0, 255))
    return by_strips(values, lambda strip: (strip.astype(np.uint32) + 128) // 257)


def to_unit_range(values: np.ndarray) -> Float32Array:
    """uint8 or uint16 in the type's whole range -> float32 in [0, 1]; float32 as it is."""
    if values.dtype == np.float32:
        return values
    return values.astype(np.float32) / np.float32(np.iinfo(values.dtype).max)


def eight_bits(picture: Image.Image, path: Path) -> Image.Image:
    """Scale deep grey pictures, which Pillow's own conversion would clip, to 8 bits.

    (Pillow scales deep colour pictures itself as it decodes them.) `InputRejectedError` for
    numbers that are no photograph's.
    """
    if picture.mode.startswith("I;16"):
        return Image.fromarray(to_eight_bits(np.asarray(picture)))
    if picture.mode == "1":
        return picture.convert("L")
    if picture.mode not in ("I", "F"):
        return picture
    values = np.asarray(picture)
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all() or low < 0:
        raise InputRejectedError(
            f"{path}: pixel values from {low:g} to {high:g} are not a photograph"
        )
    # Floating point runs from 0 to 1 by convention, integers to the end of their depth.
    white = 1.0 if picture.mode == "F" and high <= 1.0 else 255.0 if high <= 255 else 65535.0
    if high > white:
        raise InputRejectedError(f"{path}: pixel values up to {high:g} are not a photograph")
    return Image.fromarray(by_strips(values, lambda strip: np.round(strip * (255.0 / white))))


def without_palette(picture: Image.Image) -> Image.Image:
    """Return a picture whose palette is looked up and whose one transparent colour is an alpha."""
    if picture.mode in ("P", "PA"):
        transparent = picture.mode == "PA" or "transparency" in picture.info
        return picture.convert("RGBA" if transparent else "RGB")
    if picture.mode in ("L", "RGB") and "transparency" in picture.info:
        return picture.convert("RGBA")
    return picture


def flattened(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """Return RGB in sRGB of a picture of any 8-bit mode, transparency laid on white."""
    picture = without_palette(picture)
    alpha = None
    if picture.mode in ("LA", "RGBA", "La", "RGBa"):
        picture = picture.convert("RGBA")
        alpha = picture.getchannel("A")
        picture = picture.convert("RGB")
    if profile:
        picture = apply_profile(picture, profile)
    if picture.mode != "RGB":
        picture = picture.convert("RGB")
    if alpha is not None:
        white = Image.new("RGB", picture.size, (255, 255, 255))
        white.paste(picture, mask=alpha)
        picture = white
    return picture


def apply_profile(picture: Image.Image, profile: bytes) -> Image.Image:
    """Convert colours to sRGB by the embedded profile; one that does not fit is ignored."""
    try:
        embedded = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = embedded.profile.xcolor_space.strip()
        wanted = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK", "LAB": "Lab"}.get(picture.mode)
        if space != wanted:
            return picture
        converted = ImageCms.profileToProfile(
            picture, embedded, ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return picture
    return picture if converted is None else converted


def profile_fits(profile: bytes, *, grey: bool) -> bool:
    """Return whether a profile is one of such pixels (ICC.1:2022, 7.2.6: bytes 16 to 19)."""
    return profile[16:20] == (b"GRAY" if grey else b"RGB ")


def to_srgb(image: UInt8Image, icc: bytes | None) -> UInt8Image:
    """uint8[H, W, 3] in the profile's colours -> the same in sRGB, for networks that look at it."""
    if not icc or not profile_fits(icc, grey=False):
        return image
    return np.asarray(apply_profile(Image.fromarray(image), icc).convert("RGB"))


def on_white(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Lay a transparent picture, uint8, uint16 or float [H, W(, 3)], on white: the same type.

    ``alpha`` [H, W] is of that type, too; floating point is in [0, 1].
    """
    whole = np.issubdtype(pixels.dtype, np.integer)
    white = float(np.iinfo(pixels.dtype).max) if whole else 1.0
    laid = np.empty_like(pixels)
    for start in range(0, len(pixels), STRIP):
        rows = slice(start, start + STRIP)
        share = alpha[rows].astype(np.float32) / white
        share = share[..., None] if pixels.ndim == 3 else share
        strip = white + (pixels[rows] - white) * share
        laid[rows] = np.round(strip) if whole else strip
    return laid
