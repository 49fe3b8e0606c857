"""A picture with everything that its file carries.

What an enhanced picture must not lose: its depth (16-bit PNG and TIFF), its alpha, its colour
profile, its EXIF, XMP and text. H and W are pixels of the upright picture.

The numbers stay in the file's own colour space, whose profile goes along; only what the networks
cannot take (CMYK, Lab) is converted to sRGB.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, TiffImagePlugin

from mcap.errors import InputRejectedError
from mcap.images import exif, provenance, xmp
from mcap.images.colour import apply_profile, eight_bits, profile_fits, without_palette
from mcap.images.open import PICTURE_MEMORY, PhotoSettings, opened, orientation_of, upright

OURS = ("parameters", "mcap", provenance.PNG_XMP, "Raw profile type exif")
"""Text chunks of PNG that have a place of their own, or one in EXIF and XMP."""

PRIVATE_TEXT = re.compile(
    r"Raw profile type .*|(exif|tiff|xmp|iptc|photoshop|aux):.*|Thumb::.*|.*(GPS|serial|"
    r"location|host(name|computer)).*",
    re.IGNORECASE,
)
"""PNG's text chunks that give away a photo's maker: ImageMagick's copies of EXIF, IPTC and XMP, and
the path that a thumbnail was made from."""

TEXT_LIMIT = 1_000_000  # characters of one text chunk that are carried along


@dataclass(frozen=True)
class PictureFile:
    """One readable picture with its pixels."""

    path: Path
    sha256: str
    """Of the file's bytes."""
    pixels: np.ndarray = field(repr=False)
    """uint8 or uint16 [H, W, 3], RGB; of a grey picture the three are equal."""
    alpha: np.ndarray | None = field(default=None, repr=False)
    """[H, W] of the same type."""
    grey: bool = False
    icc: bytes | None = field(default=None, repr=False)
    """The colour profile of ``pixels``; None: sRGB, or not known."""
    exif: Image.Exif = field(default_factory=Image.Exif, repr=False)
    """Without an orientation: the pixels are upright."""
    xmp: bytes | None = field(default=None, repr=False)
    texts: Mapping[str, str] = field(default_factory=dict, repr=False)
    """PNG's own text, such as "Author"."""
    parameters: str | None = field(default=None, repr=False)
    """AUTOMATIC1111's text on how it was generated."""
    record: dict[str, Any] | None = field(default=None, repr=False)
    """mcap's own record of an earlier step."""
    source_type: str | None = None
    """The IPTC's mark of where a picture comes from."""
    dpi: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()
    """All that could not be kept as it was, in words."""

    @property
    def name(self) -> str:
        """The file's stem."""
        return self.path.stem

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)"""
        return self.pixels.shape[1], self.pixels.shape[0]

    @property
    def generated(self) -> bool:
        """True where the picture is marked as made by a generative model."""
        return self.source_type == provenance.TRAINED_ALGORITHMIC_MEDIA

    def without_private(self) -> tuple[PictureFile, tuple[str, ...]]:
        """Return it without what it says of where and with which device it was taken.

        And what was left out, in words, sorted: "location", "serial numbers", "maker notes", ...
        """
        tags, of_exif = exif.without_private(self.exif)
        packet, of_xmp = xmp.without_private(self.xmp)
        texts = {key: text for key, text in self.texts.items() if not PRIVATE_TEXT.fullmatch(key)}
        found = of_exif | of_xmp | ({"text chunks"} if len(texts) < len(self.texts) else set())
        return replace(self, exif=tags, xmp=packet, texts=texts), tuple(sorted(found))

    def reframed(self) -> PictureFile:
        """Return it without what it says of places in the picture, which was cut or moved."""
        return replace(
            self, exif=exif.without_positions(self.exif), xmp=xmp.without_positions(self.xmp)
        )


@dataclass(frozen=True)
class Decoded:
    """The pixels of a picture as they are stored, before it is turned upright."""

    pixels: np.ndarray
    """uint8 or uint16 [H, W, 3]"""
    alpha: np.ndarray | None
    """[H, W] of the same type."""
    grey: bool
    icc: bytes | None
    notes: tuple[str, ...] = ()


def size_of(path: Path, settings: PhotoSettings | None = None) -> tuple[int, int]:
    """Return (width, height) of the upright picture, from the file's head.

    `InputRejectedError` for what `read_picture` would refuse by its head.
    """
    with opened(Path(path), settings or PhotoSettings()) as (data, picture):
        PICTURE_MEMORY.require(Path(path), picture, len(data), picture.size)
        width, height = picture.size
        return (height, width) if orientation_of(picture) >= 5 else (width, height)


def read_picture(path: Path | str, settings: PhotoSettings | None = None) -> PictureFile:
    """Read one file at its own size and depth; `InputRejectedError` with the reason.

    ``settings.max_side`` is not applied. Of animations and multi-page files the first picture is
    taken. 12 and 10 bits of HEIC and AVIF, and floating point, are read as 8 bits.
    """
    path = Path(path)
    with opened(path, settings or PhotoSettings()) as (data, picture):
        PICTURE_MEMORY.require(path, picture, len(data), picture.size)
        orientation = orientation_of(picture)
        kind = f"{picture.format} {picture.mode}"
        described = exif.described(picture)
        picture.load()  # what comes behind the pixels counts, too
        found = provenance.found(path, picture)
        packet = picture.info.get(provenance.PNG_XMP) or picture.info.get("xmp")
        # Of a PNG that ends too soon Pillow's own "text" is not there.
        texts = {
            str(key): str(value)
            for key, value in picture.info.items()
            if picture.format == "PNG" and isinstance(value, str) and str(key) not in OURS
        }
        decoded = decode_deep(data, picture, path) or decode(picture, path)
    pixels = upright(decoded.pixels, orientation)
    alpha = None if decoded.alpha is None else upright(decoded.alpha, orientation)
    if min(pixels.shape[:2]) < 1:
        raise InputRejectedError(f"{path}: the picture ({kind}) has no pixels")
    return PictureFile(
        path=path,
        sha256=hashlib.sha256(data).hexdigest(),
        pixels=np.ascontiguousarray(pixels),
        alpha=None if alpha is None else np.ascontiguousarray(alpha),
        grey=decoded.grey,
        icc=decoded.icc,
        exif=described,
        xmp=packet.encode() if isinstance(packet, str) else packet,
        texts={key: text for key, text in texts.items() if len(text) <= TEXT_LIMIT},
        parameters=found.parameters,
        record=found.record,
        source_type=found.digital_source_type,
        dpi=found.dpi if found.dpi and min(found.dpi) > 1 else None,
        notes=decoded.notes,
    )


def decode_deep(data: bytes, picture: Image.Image, path: Path) -> Decoded | None:
    """Decode a 16-bit PNG or TIFF, which Pillow would cut to 8 bits; None for all others."""
    if picture.format == "PNG":
        deep = len(data) > 25 and data[24] == 16
    elif picture.format == "TIFF" and isinstance(picture, TiffImagePlugin.TiffImageFile):
        bits = picture.tag_v2.get(258, (1,))
        forms = picture.tag_v2.get(339, (1,))  # SampleFormat: 1 is unsigned
        deep = set(bits) == {16} and set(forms) == {1} and picture.mode in ("RGB", "RGBA", "I;16")
    else:
        deep = False
    if not deep:
        return None
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16:
        # Of a kind that OpenCV does not read: 8 bits are better than nothing.
        shallow = decode(picture, path)
        return replace(shallow, notes=("read as 8 bits", *shallow.notes))
    # Transparency by one colour alone, which 16-bit pictures hardly ever have, is left out.
    alpha = values[..., 3] if values.ndim == 3 and values.shape[2] == 4 else None
    if values.ndim == 2:
        pixels, grey = np.repeat(values[..., None], 3, axis=2), True
    else:
        pixels = values[..., 2::-1]
        same = (np.array_equal(pixels[..., 0], pixels[..., other]) for other in (1, 2))
        grey = picture.mode not in ("RGB", "RGBA") and all(same)
    profile = picture.info.get("icc_profile")
    fits = profile is not None and profile_fits(profile, grey=grey)
    return Decoded(pixels, alpha, grey, profile if fits else None)


def decode(picture: Image.Image, path: Path) -> Decoded:
    """Take the pixels of a picture of 8 bits, or bring them there, and say so."""
    profile = picture.info.get("icc_profile")
    notes = ["read as 8 bits"] if picture.mode in ("I", "F") else []
    picture = without_palette(eight_bits(picture, path))
    alpha = None
    if picture.mode in ("LA", "La", "RGBA", "RGBa"):
        grey_mode = picture.mode in ("LA", "La")
        picture = picture.convert("LA" if grey_mode else "RGBA")
        alpha = np.asarray(picture.getchannel("A"))
        picture = picture.convert("L" if grey_mode else "RGB")
    grey = picture.mode == "L"
    if picture.mode not in ("L", "RGB"):
        notes.append(f"converted from {picture.mode} to sRGB")
        if profile:
            picture = apply_profile(picture, profile)
        profile = None
        picture = picture.convert("RGB")
    if profile and not profile_fits(profile, grey=grey):
        profile = None
    return Decoded(np.asarray(picture.convert("RGB")), alpha, grey, profile, tuple(notes))
