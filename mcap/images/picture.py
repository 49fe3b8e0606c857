"""A picture with everything that its file carries, read and written whole.

What an enhanced picture must not lose: its depth (16-bit PNG and TIFF), its alpha, its colour
profile, its EXIF, XMP and text. H and W are pixels of the upright picture.

The numbers stay in the file's own colour space, whose profile goes along; only what the networks
cannot take (CMYK, Lab) is converted to sRGB.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin
from PIL.PngImagePlugin import PngInfo

from mcap.errors import InputRejectedError
from mcap.images import provenance
from mcap.images.jpeg import lossy_options
from mcap.images.photo import (
    TRANSPOSE,
    PhotoSettings,
    apply_profile,
    eight_bits,
    opened,
    orientation_of,
)
from mcap.images.png import write_png
from mcap.runtime import files

FORMATS = provenance.FORMATS

_OURS = ("parameters", "mcap", "XML:com.adobe.xmp", "Raw profile type exif")
"""Text chunks of PNG that have a place of their own, or one in EXIF and XMP."""

_TEXT_LIMIT = 1_000_000  # characters of one text chunk that are carried along


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
    """What could not be kept as it was."""

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)"""
        return self.pixels.shape[1], self.pixels.shape[0]

    @property
    def generated(self) -> bool:
        return self.source_type == provenance.TRAINED_ALGORITHMIC_MEDIA


def size_of(path: Path, settings: PhotoSettings | None = None) -> tuple[int, int]:
    """(width, height) of the upright picture, from the file's head alone; `InputRejectedError`."""
    with opened(Path(path), settings or PhotoSettings()) as (_, picture):
        width, height = picture.size
        return (height, width) if orientation_of(picture) >= 5 else (width, height)


def read_picture(path: Path | str, settings: PhotoSettings | None = None) -> PictureFile:
    """One file -> `PictureFile` at its own size and depth; `InputRejectedError` with the reason.

    ``settings.max_side`` is not applied. Of animations and multi-page files the first picture is
    taken. 12 and 10 bits of HEIC and AVIF, and floating point, are read as 8 bits.
    """
    path = Path(path)
    with opened(path, settings or PhotoSettings()) as (data, picture):
        orientation = orientation_of(picture)
        depth_and_kind = picture.format, picture.mode
        kept = _carried(path, picture)
        profile = picture.info.get("icc_profile")
        deep = _deep(data, picture)
        if deep is None:
            pixels, alpha, grey, profile, notes = _shallow(picture, profile, path)
        else:
            pixels, alpha, grey = deep
            notes = ()
            if profile and not _fits(profile, grey):
                profile = None
    if orientation != 1:
        pixels = _upright(pixels, orientation)
        alpha = None if alpha is None else _upright(alpha, orientation)
    if min(pixels.shape[:2]) < 1:
        raise InputRejectedError(f"{path}: the picture of {depth_and_kind} has no pixels")
    return PictureFile(
        path=path,
        sha256=hashlib.sha256(data).hexdigest(),
        pixels=np.ascontiguousarray(pixels),
        alpha=None if alpha is None else np.ascontiguousarray(alpha),
        grey=grey,
        icc=profile,
        notes=notes,
        **kept,
    )


def _carried(path: Path, picture: Image.Image) -> dict[str, Any]:
    """What of the metadata goes into the result."""
    info = dict(picture.info)
    try:
        exif = picture.getexif()
        exif.get_ifd(ExifTags.IFD.Exif), exif.get_ifd(ExifTags.IFD.GPSInfo)  # read them now
    except (OSError, SyntaxError, ValueError, TypeError, KeyError):
        exif = Image.Exif()  # damaged metadata on a good picture
    clean = Image.Exif()
    for tag in (set(exif) - _OF_THE_FILE) if picture.format != "TIFF" else _DESCRIPTIVE & set(exif):
        clean[tag] = exif[tag]
    for ifd in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
        values = dict(exif.get_ifd(ifd))
        if values:
            clean.get_ifd(ifd).update(values)
    found = provenance.found(path, picture)
    packet = info.get("XML:com.adobe.xmp") or info.get("xmp")
    texts = {
        key: str(value)
        for key, value in (getattr(picture, "text", None) or {}).items()
        if key not in _OURS and len(str(value)) <= _TEXT_LIMIT
    }
    return {
        "exif": clean,
        "xmp": packet.encode() if isinstance(packet, str) else packet,
        "texts": texts,
        "parameters": found.parameters,
        "record": found.record,
        "source_type": found.digital_source_type,
        "dpi": found.dpi if found.dpi and min(found.dpi) > 1 else None,
    }


_DESCRIPTIVE = {
    ExifTags.Base.ImageDescription,
    ExifTags.Base.Make,
    ExifTags.Base.Model,
    ExifTags.Base.DateTime,
    ExifTags.Base.Artist,
    ExifTags.Base.Copyright,
}
"""What is kept of a TIFF's own tags, most of which say how its pixels lie in the file."""

_OF_THE_FILE = {
    ExifTags.Base.Orientation,
    ExifTags.Base.ImageWidth,
    ExifTags.Base.ImageLength,
    ExifTags.Base.BitsPerSample,
    ExifTags.Base.Compression,
    ExifTags.Base.PhotometricInterpretation,
    ExifTags.Base.StripOffsets,
    ExifTags.Base.SamplesPerPixel,
    ExifTags.Base.RowsPerStrip,
    ExifTags.Base.StripByteCounts,
    ExifTags.Base.XResolution,
    ExifTags.Base.YResolution,
    ExifTags.Base.ResolutionUnit,
    ExifTags.Base.JpegIFOffset,
    ExifTags.Base.JpegIFByteCount,
    ExifTags.Base.ExifOffset,
    ExifTags.Base.GPSInfo,
}
"""Tags that are true of the file they were read from alone, or written anew."""


def _deep(data: bytes, picture: Image.Image) -> tuple[np.ndarray, np.ndarray | None, bool] | None:
    """Pixels, alpha and "is grey" of a 16-bit PNG or TIFF, which Pillow would cut to 8 bits."""
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
        return None  # of a kind that OpenCV does not read: 8 bits are better than nothing
    # Transparency by one colour alone, which 16-bit pictures hardly ever have, is left out.
    alpha = values[..., 3] if values.ndim == 3 and values.shape[2] == 4 else None
    if values.ndim == 2:
        return np.repeat(values[..., None], 3, axis=2), None, True
    pixels = values[..., 2::-1]
    grey = bool(np.array_equal(pixels[..., 0], pixels[..., 1])) and bool(
        np.array_equal(pixels[..., 0], pixels[..., 2])
    )
    return pixels, alpha, grey and picture.mode not in ("RGB", "RGBA")


def _shallow(
    picture: Image.Image, profile: bytes | None, path: Path
) -> tuple[np.ndarray, np.ndarray | None, bool, bytes | None, tuple[str, ...]]:
    """Pixels, alpha, "is grey", profile and notes of a picture of 8 bits."""
    notes: tuple[str, ...] = ()
    picture.load()
    if picture.mode in ("I", "F"):
        notes = ("read as 8 bits",)
    picture = eight_bits(picture, path)
    if picture.mode in ("P", "PA"):
        transparent = picture.mode == "PA" or "transparency" in picture.info
        picture = picture.convert("RGBA" if transparent else "RGB")
    elif picture.mode in ("L", "RGB") and "transparency" in picture.info:
        picture = picture.convert("RGBA")
    alpha = None
    if picture.mode in ("LA", "La", "RGBA", "RGBa"):
        grey_mode = picture.mode in ("LA", "La")
        picture = picture.convert("LA" if grey_mode else "RGBA")
        alpha = np.asarray(picture.getchannel("A"))
        picture = picture.convert("L" if grey_mode else "RGB")
    grey = picture.mode == "L"
    if picture.mode not in ("L", "RGB"):
        notes = (*notes, f"converted from {picture.mode} to sRGB")
        if profile:
            picture = apply_profile(picture, profile)
        profile = None
        picture = picture.convert("RGB")
    if profile and not _fits(profile, grey):
        profile = None
    return np.asarray(picture.convert("RGB")), alpha, grey, profile, notes


def _fits(profile: bytes, grey: bool) -> bool:
    """Whether a profile is one of such pixels (ICC.1:2022, section 7.2.6: bytes 16 to 19)."""
    return profile[16:20] == (b"GRAY" if grey else b"RGB ")


def _upright(values: np.ndarray, orientation: int) -> np.ndarray:
    turns = {
        Image.Transpose.FLIP_LEFT_RIGHT: lambda a: a[:, ::-1],
        Image.Transpose.FLIP_TOP_BOTTOM: lambda a: a[::-1],
        Image.Transpose.ROTATE_90: lambda a: np.rot90(a),
        Image.Transpose.ROTATE_180: lambda a: a[::-1, ::-1],
        Image.Transpose.ROTATE_270: lambda a: np.rot90(a, -1),
        Image.Transpose.TRANSPOSE: lambda a: a.swapaxes(0, 1),
        Image.Transpose.TRANSVERSE: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    }
    return turns[TRANSPOSE[orientation]](values)


def write_picture(
    path: Path,
    pixels: np.ndarray,
    alpha: np.ndarray | None,
    source: PictureFile,
    record: Mapping[str, Any],
    *,
    source_type: str,
    metadata: provenance.Metadata = "all",
    quality: int = 95,
    dpi: tuple[float, float] | None = None,
) -> None:
    """Write what became of ``source``, with what it carried; whole or not at all.

    ``pixels`` are uint8 or uint16 [H, W, 3] RGB of any size; PNG takes 16 bits, JPEG and WebP are
    written with 8 (``quality`` as in `mcap.images.provenance.save`), JPEG with alpha laid on white. The
    colour profile is always kept: without it the numbers mean other colours. ``metadata``: "all"
    keeps everything and adds the record, "label" leaves only the mark ``source_type``, "none"
    nothing.
    """
    dpi = dpi or source.dpi
    exif = _exif(source, pixels.shape[:2]) if metadata == "all" else Image.Exif()
    if source.grey:
        pixels = pixels[..., 1]
    if path.suffix.lower() == ".png":
        texts = _png_texts(source, record, source_type, metadata)
        block = exif.tobytes() if _holds(exif) else None
        files.write_with(
            path,
            lambda temporary: write_png(
                temporary,
                pixels,
                alpha=alpha,
                icc=source.icc,
                exif=block,
                dpi=dpi,
                texts=texts,
            ),
        )
        return
    _write_with_pillow(
        path, pixels, alpha, source, record, exif, source_type, metadata, quality, dpi
    )


def _exif(source: PictureFile, shape: tuple[int, int]) -> Image.Exif:
    exif = Image.Exif()
    exif.update(dict(source.exif))
    for ifd in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
        values = dict(source.exif.get_ifd(ifd))
        if values:
            exif.get_ifd(ifd).update(values)
    own = exif.get_ifd(ExifTags.IFD.Exif)
    for tag, length in (
        (ExifTags.Base.ExifImageWidth, shape[1]),
        (ExifTags.Base.ExifImageHeight, shape[0]),
    ):
        if tag in own:
            own[tag] = length
    return exif


def _holds(exif: Image.Exif) -> bool:
    return bool(len(exif) or exif.get_ifd(ExifTags.IFD.Exif) or exif.get_ifd(ExifTags.IFD.GPSInfo))


def _png_texts(
    source: PictureFile,
    record: Mapping[str, Any],
    source_type: str,
    metadata: provenance.Metadata,
) -> PngInfo:
    texts = PngInfo()
    if metadata == "all":
        for key, value in source.texts.items():
            texts.add_text(key, value)
        if source.parameters:
            texts.add_text("parameters", source.parameters)
        texts.add_text("mcap", provenance.as_json(record))
    if metadata != "none":
        keep = source.xmp if metadata == "all" else None
        packet = provenance.xmp_packet(source_type=source_type, keep=keep)
        texts.add_itxt("XML:com.adobe.xmp", packet.decode())
    return texts


def _write_with_pillow(
    path: Path,
    pixels: np.ndarray,
    alpha: np.ndarray | None,
    source: PictureFile,
    record: Mapping[str, Any],
    exif: Image.Exif,
    source_type: str,
    metadata: provenance.Metadata,
    quality: int,
    dpi: tuple[float, float] | None,
) -> None:
    jpeg = path.suffix.lower() == ".jpg"
    if pixels.dtype == np.uint16:
        pixels = to_eight_bits(pixels)
        alpha = None if alpha is None else to_eight_bits(alpha)
    if alpha is not None and jpeg:
        pixels = on_white(pixels, alpha)
        alpha = None
    picture = Image.fromarray(pixels)
    if alpha is not None:
        picture.putalpha(Image.fromarray(alpha))
    options = lossy_options(".jpg" if jpeg else ".webp", quality)
    if source.icc:
        options["icc_profile"] = source.icc
    if dpi is not None and jpeg:
        options["dpi"] = dpi
    elif dpi is not None and metadata != "none":
        exif[ExifTags.Base.XResolution], exif[ExifTags.Base.YResolution] = dpi
        exif[ExifTags.Base.ResolutionUnit] = 2  # inches
    if metadata == "all" and source.parameters:
        provenance.put_user_comment(exif, source.parameters)
    if _holds(exif):
        options["exif"] = exif
    if metadata != "none":
        options["xmp"] = provenance.fitting_packet(
            record if metadata == "all" else None,
            source_type=source_type,
            keep=source.xmp if metadata == "all" else None,
            jpeg=jpeg,
        )
    files.write_with(path, lambda temporary: picture.save(temporary, **options))


def to_eight_bits(values: np.ndarray) -> np.ndarray:
    """uint16 -> uint8 of the same places, rounded; uint8 as it is."""
    if values.dtype == np.uint8:
        return values
    small = np.empty(values.shape, dtype=np.uint8)
    for start in range(0, len(values), 64):  # enormous pictures are there only once
        strip = values[start : start + 64].astype(np.uint32)
        small[start : start + 64] = (strip + 128) // 257
    return small


def on_white(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """A transparent picture uint8 or uint16 [H, W(, 3)] on white paper, of the same type."""
    white = float(np.iinfo(pixels.dtype).max)
    laid = np.empty_like(pixels)
    for start in range(0, len(pixels), 64):
        rows = slice(start, start + 64)
        share = alpha[rows].astype(np.float32) / white
        share = share[..., None] if pixels.ndim == 3 else share
        laid[rows] = np.round(white + (pixels[rows] - white) * share).astype(pixels.dtype)
    return laid


def to_srgb(image: np.ndarray, icc: bytes | None) -> np.ndarray:
    """uint8[H, W, 3] in the profile's colours -> the same in sRGB, for networks that look at it."""
    if not icc or not _fits(icc, grey=False):
        return image
    return np.asarray(apply_profile(Image.fromarray(image), icc).convert("RGB"))
