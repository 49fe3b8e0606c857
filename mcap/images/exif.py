"""EXIF that goes along with a picture: read, kept true, written so that others can read it.

Sources: CIPA DC-008-2019 (EXIF 2.32); TIFF 6.0 for the block's form.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from PIL import ExifTags, Image

Tag = tuple[int, int]  # of the directory (0: the first one) and in it

DESCRIPTIVE = {
    ExifTags.Base.ImageDescription,
    ExifTags.Base.Make,
    ExifTags.Base.Model,
    ExifTags.Base.DateTime,
    ExifTags.Base.Artist,
    ExifTags.Base.Copyright,
}
"""What is kept of a TIFF's own tags, most of which say how its pixels lie in the file."""

OF_THE_FILE = {
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

POSITIONS = {0x9214, 0xA214}  # SubjectArea, SubjectLocation
"""Places in pixels of the picture, which lie elsewhere in one that was scaled or cut."""

PRIVATE: Mapping[int, Mapping[int, str]] = MappingProxyType(
    {
        0: {
            ExifTags.Base.HostComputer: "device",
            ExifTags.Base.CameraSerialNumber: "serial numbers",
            0xC65D: "serial numbers",  # RawDataUniqueID
            ExifTags.Base.DNGPrivateData: "maker notes",
            0x02BC: "location",  # a second XMP packet
            0x83BB: "location",  # IPTC-NAA, which has city and country
            0x8649: "thumbnails",  # Photoshop's image resources, which hold one and IPTC's again
        },
        ExifTags.IFD.Exif: {
            ExifTags.Base.MakerNote: "maker notes",
            ExifTags.Base.ImageUniqueID: "serial numbers",
            ExifTags.Base.CameraOwnerName: "owner's name",
            ExifTags.Base.BodySerialNumber: "serial numbers",
            ExifTags.Base.LensSerialNumber: "serial numbers",
        },
    }
)
"""Directory -> tag -> what of a photo's maker it gives away. All of GPSInfo is the location; the
directory of the thumbnail (IFD1) is never carried along."""

UNDEFINED = {
    (0, 50341),  # PrintImageMatching
    *(
        (ExifTags.IFD.Exif, tag)
        for tag in (
            ExifTags.Base.OECF,
            ExifTags.Base.ExifVersion,
            ExifTags.Base.ComponentsConfiguration,
            ExifTags.Base.MakerNote,
            ExifTags.Base.UserComment,
            ExifTags.Base.FlashPixVersion,
            ExifTags.Base.SpatialFrequencyResponse,
            ExifTags.Base.FileSource,
            ExifTags.Base.SceneType,
            ExifTags.Base.CFAPattern,
            ExifTags.Base.DeviceSettingDescription,
        )
    ),
    (ExifTags.IFD.GPSInfo, ExifTags.GPS.GPSProcessingMethod),
    (ExifTags.IFD.GPSInfo, ExifTags.GPS.GPSAreaInformation),
}
"""Tags whose values are bytes of TIFF's type UNDEFINED. Pillow writes bytes as BYTE, which piexif,
and with it AUTOMATIC1111's web UI, takes for numbers."""

UNWRITABLE = (
    struct.error,
    ArithmeticError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
)
"""All that Pillow raises over a value that its tag's type does not hold."""

_BYTE, _UNDEFINED = 1, 7
_MAX_DPI = 65_535.0  # what JPEG's own header holds


def described(picture: Image.Image) -> Image.Exif:
    """Return what of a picture's EXIF is still true of its upright pixels in another file."""
    try:
        exif = picture.getexif()
        exif.get_ifd(ExifTags.IFD.Exif), exif.get_ifd(ExifTags.IFD.GPSInfo)  # read them now
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, struct.error):
        return Image.Exif()  # damaged metadata on a good picture
    kept = DESCRIPTIVE & set(exif) if picture.format == "TIFF" else set(exif) - OF_THE_FILE
    clean = Image.Exif()
    for tag in kept:
        clean[tag] = exif[tag]
    return _with_directories(clean, exif)


def resolution(picture: Image.Image, exif: Image.Exif) -> tuple[float, float] | None:
    """Return (horizontal, vertical) pixels an inch; None where none are given, or senseless ones.

    From the file's own header, otherwise from EXIF, where both must be there, with a unit.
    """
    dpi = picture.info.get("dpi")
    try:
        if dpi is None:
            scale = {2: 1.0, 3: 2.54}[exif.get(ExifTags.Base.ResolutionUnit, 2)]  # inch, cm
            dpi = [
                scale * float(exif[tag])
                for tag in (ExifTags.Base.XResolution, ExifTags.Base.YResolution)
            ]
        across, down = float(dpi[0]), float(dpi[1])
    except (KeyError, IndexError, TypeError, ValueError, ZeroDivisionError):
        return None
    sensible = all(math.isfinite(value) and 0 < value <= _MAX_DPI for value in (across, down))
    return (across, down) if sensible else None


def put_resolution(exif: Image.Exif, dpi: tuple[float, float]) -> None:
    """Put pixels an inch, (horizontal, vertical), into EXIF."""
    exif[ExifTags.Base.XResolution], exif[ExifTags.Base.YResolution] = dpi
    exif[ExifTags.Base.ResolutionUnit] = 2  # inches


def for_size(exif: Image.Exif, before: tuple[int, int], after: tuple[int, int]) -> Image.Exif:
    """Return a copy that is true of the picture after its (width, height) has changed."""
    result = _with_directories(Image.Exif(), exif)
    result.update(dict(exif))
    own = result.get_ifd(ExifTags.IFD.Exif)
    for tag, length in zip(
        (ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight), after, strict=True
    ):
        if tag in own:
            own[tag] = length
    return without_positions(result) if before != after else result


def without_private(exif: Image.Exif) -> tuple[Image.Exif, set[str]]:
    """Return a copy without `PRIVATE` and GPSInfo, and what was left out, in words."""
    result = _with_directories(Image.Exif(), exif)
    result.update(dict(exif))
    found = {"location"} if result.get_ifd(ExifTags.IFD.GPSInfo) else set()
    result.get_ifd(ExifTags.IFD.GPSInfo).clear()
    for ifd, tags in PRIVATE.items():
        values = result.get_ifd(ifd) if ifd else result
        for tag, what in tags.items():
            if tag in values:
                del values[tag]
                found.add(what)
    return result, found


def without_positions(exif: Image.Exif) -> Image.Exif:
    """Return a copy without `POSITIONS`."""
    result = _with_directories(Image.Exif(), exif)
    result.update(dict(exif))
    for tag in POSITIONS:
        result.get_ifd(ExifTags.IFD.Exif).pop(tag, None)
    return result


def _with_directories(exif: Image.Exif, source: Image.Exif) -> Image.Exif:
    for ifd in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
        values = dict(source.get_ifd(ifd))
        if values:
            exif.get_ifd(ifd).update(values)
    return exif


def block(exif: Image.Exif, limit: int | None = None) -> tuple[bytes | None, list[str]]:
    """Return the block "Exif\\0\\0", TIFF ..., None for an empty one, and what had to be left out.

    Left out are tags whose values cannot be written (a number that its type does not hold) and,
    where ``limit`` bytes are too few, the longest ones: their names, and why.
    """
    values = {(0, tag): value for tag, value in exif.items()} | {
        (int(ifd), tag): value
        for ifd in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)
        for tag, value in exif.get_ifd(ifd).items()
    }
    left_out = []
    try:
        data = serialised(values)
    except UNWRITABLE:
        for tag in [tag for tag in values if _length({tag: values[tag]}) is None]:
            del values[tag]
            left_out.append(f"{name_of(tag)} (damaged)")
        data = serialised(values)
    while limit is not None and len(data) > limit:
        longest = max(values, key=lambda tag: _length({tag: values[tag]}) or 0)
        del values[longest]
        left_out.append(f"{name_of(longest)} (too long)")
        data = serialised(values)
    return (data if values else None), left_out


def _length(values: dict[Tag, Any]) -> int | None:
    try:
        return len(serialised(values))
    except UNWRITABLE:
        return None


def name_of(tag: Tag) -> str:
    """Return a tag's name in EXIF, its number where it has none."""
    names = ExifTags.GPSTAGS if tag[0] == ExifTags.IFD.GPSInfo else ExifTags.TAGS
    return names.get(tag[1], f"0x{tag[1]:04x}")


def serialised(values: dict[Tag, Any]) -> bytes:
    """Return the tags as a block, each value of the type that EXIF gives it."""
    exif = Image.Exif()
    for (ifd, tag), value in values.items():
        (exif.get_ifd(ifd) if ifd else exif)[tag] = value
    data = bytearray(exif.tobytes())
    start = len(b"Exif\0\0")
    order = "<" if data[start : start + 2] == b"II" else ">"
    pending = [(0, *struct.unpack_from(f"{order}L", data, start + 4))]
    while pending:
        ifd, offset = pending.pop()
        (count,) = struct.unpack_from(f"{order}H", data, start + offset)
        for entry in range(start + offset + 2, start + offset + 2 + 12 * count, 12):
            tag, kind, _, value = struct.unpack_from(f"{order}HHLL", data, entry)
            if (ifd, tag) in UNDEFINED and kind == _BYTE:
                struct.pack_into(f"{order}H", data, entry + 2, _UNDEFINED)
            if ifd == 0 and tag in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
                pending.append((tag, value))
    return bytes(data)
