"""A stranger's file, opened: known formats only, within limits, refused with a reason.

The files are opened for reading only and never changed. Sizes are (width, height) in pixels.
"""

from __future__ import annotations

import io
import math
import struct
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, Field

from mcap.errors import InputRejectedError

READABLE = ("JPEG", "MPO", "PNG", "WEBP", "TIFF", "AVIF", "HEIF", "BMP", "GIF")
"""Pillow's names of the formats that are tried: photographs only. EPS, for one, would start a
PostScript interpreter on a stranger's file."""

HUNGRY = {"WEBP": 4, "AVIF": 4, "HEIF": 4}
"""Formats that are decoded whole and several times over: so many times fewer pixels of them are
read (`ReadingMemory`)."""

HUNGRY_MODES = {"I": 2, "F": 2, "RGBA": 2, "LA": 2, "PA": 2}
"""The same for Pillow's modes that are there twice as they are scaled (alpha is multiplied in)."""


@dataclass(frozen=True)
class ReadingMemory:
    """The memory that reading a picture may take, and takes at its peak beside the file's bytes."""

    limit: int
    """Bytes."""
    by_mode: Mapping[str, float]
    """Pillow's mode -> bytes a pixel."""
    other_modes: float
    by_format: Mapping[str, float]
    """Of formats that are decoded whole and several times over."""
    deep: float = 0.0
    """Bytes a pixel and channel of what has 16 bits a channel, where they are kept."""

    def of(self, picture: Image.Image, length: int, whole: tuple[int, int] | None = None) -> int:
        """Return the bytes that a picture takes whose file has ``length``.

        ``whole`` is the size in the file where a JPEG is reduced as it is decoded: a progressive
        one lies in memory as it is in the file, with two bytes a value, all the same.
        """
        mode = "PA" if picture.mode == "P" and "transparency" in picture.info else picture.mode
        each = self.by_mode.get(mode, self.other_modes)
        each = max(each, self.by_format.get(picture.format or "", 0))
        if is_deep(picture):  # grey is worked on as colour
            each = max(each, self.deep * max(3, len(picture.getbands())))
        needed = length + each * math.prod(picture.size)
        if whole is not None and picture.info.get("progressive"):
            needed += 2 * len(picture.getbands()) * math.prod(whole)
        if picture.format == "TIFF":
            needed += 8 * _tile_pixels(picture)
        return int(needed)

    def require(
        self, path: Path, picture: Image.Image, length: int, whole: tuple[int, int] | None = None
    ) -> int:
        """Return the bytes that it takes; raise `InputRejectedError` for more than the limit."""
        needed = self.of(picture, length, whole)
        if needed > self.limit:
            width, height = whole or picture.size
            kind = f"{picture.format} {picture.mode}"
            raise InputRejectedError(
                f"{path}: {width} x {height} pixels ({kind}) take {needed / 2**30:.1f} GiB to "
                f"read, more than the {self.limit / 2**30:.2f} GiB that mcap gives to one picture; "
                "save a smaller copy"
            )
        return needed


def is_deep(picture: Image.Image) -> bool:
    """Return whether a picture, opened and not loaded, has 16 bits a channel in its file.

    Pillow decodes colours to 8 bits; how they are stored stands in what it gives its decoder.
    """
    bits = getattr(picture, "tag_v2", {}).get(258, ())  # a TIFF's
    return set(bits) == {16} or any(";16" in str(tile[3]) for tile in getattr(picture, "tile", ()))


def _tile_pixels(picture: Image.Image) -> int:
    """Pixels of a TIFF's tile, of which one is decoded at a time, whatever the picture's size."""
    tags = getattr(picture, "tag_v2", {})
    tile = [tags.get(tag, 0) for tag in (322, 323)]
    return math.prod(tile) if all(isinstance(side, int) for side in tile) else 0


PHOTO_MEMORY = ReadingMemory(
    limit=1472 * 2**20,
    by_mode={
        **dict.fromkeys(("1", "L", "I;16", "I;16B"), 7.0),
        **dict.fromkeys(("RGB", "P", "YCbCr", "LAB"), 10.5),
    },
    other_modes=14.0,
    by_format={"WEBP": 24.0, "AVIF": 19.0, "HEIF": 15.0},
)
"""Of `mcap.images.photo.read_photo`. Measured on 40 megapixels (8 of WebP, AVIF and HEIC) in 25
kinds of files: the largest of each group, and up to a tenth more. With all that ``mcap mask`` holds
besides it stays below 2 GiB."""

PICTURE_MEMORY = ReadingMemory(
    limit=2 * 2**30,
    by_mode={
        **dict.fromkeys(("1", "L", "I;16", "I;16B"), 18.5),
        **dict.fromkeys(("RGB", "P", "YCbCr"), 16.5),
    },
    other_modes=20.5,
    by_format={"WEBP": 29.0, "AVIF": 24.0, "HEIF": 20.5},
    deep=10.0,
)
"""Of `mcap.images.picture.read_picture`, which keeps depth and alpha, measured alike; grey and 16
bits take more afterwards, in ``mcap enhance``, which stays below 3 GiB."""


class PhotoSettings(BaseModel):
    """The settings' slice ``[photos]``: limits on the pictures that are read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_megapixels: float = Field(default=256.0, gt=0)
    """Larger pictures are refused before their pixels are decoded: 200-megapixel telephones pass,
    a file that claims a million by a million pixels does not. Of WebP, AVIF and HEIC a quarter of
    this is read, because decoding them takes four times the memory."""

    max_side: int = Field(default=4096, ge=256)
    """Longer sides are reduced to this in memory; masks are written at the photo's own size."""

    max_file_megabytes: float = Field(default=640.0, gt=0)
    """Larger files are refused unread: their bytes and a copy, as decoders make one, lie in
    memory."""


@contextmanager
def opened(path: Path, settings: PhotoSettings) -> Iterator[tuple[bytes, Image.Image]]:
    """Yield a file's bytes and Pillow's picture of them, for the caller to decode inside.

    Whatever opening and decoding raise becomes `InputRejectedError`, its message the file and the
    reason. Pictures of more than ``settings.max_megapixels`` are refused undecoded.
    """
    data = read_bytes(path, settings)
    with pixel_limit_lifted(), warnings.catch_warnings():
        # Pillow and tifffile warn about oddities in metadata; what matters raises.
        warnings.simplefilter("ignore")
        try:
            with identify(path, data, settings) as picture:
                yield data, picture
        except InputRejectedError:
            raise
        except MemoryError as error:
            raise InputRejectedError(f"{path}: too large for this machine's memory") from error
        except Exception as error:
            # Decoders meet damaged files with every kind of exception, AssertionError and
            # zlib.error among them; each says the same to us.
            raise InputRejectedError(
                f"{path}: the picture is damaged or incomplete ({error})"
            ) from error


def read_bytes(path: Path, settings: PhotoSettings) -> bytes:
    """Return a regular file's bytes; `InputRejectedError` for any other and for too large ones."""
    try:
        if path.is_dir():
            next(path.iterdir(), None)
            raise InputRejectedError(f"{path}: a folder, not a picture")
        if not path.exists():
            raise InputRejectedError(f"{path}: no such file")
        if not path.is_file():
            raise InputRejectedError(f"{path}: not a regular file")
        size = path.stat().st_size
        if size == 0:
            raise InputRejectedError(f"{path}: the file is empty")
        if size > settings.max_file_megabytes * 1e6:
            raise InputRejectedError(
                f"{path}: {size / 1e6:.0f} MB is more than the {settings.max_file_megabytes:.0f} "
                "MB that mcap reads (photos.max_file_megabytes)"
            )
        return path.read_bytes()
    except OSError as error:
        raise InputRejectedError(f"{path}: cannot be read ({error.strerror or error})") from error


def identify(path: Path, data: bytes, settings: PhotoSettings) -> Image.Image:
    """Return Pillow's picture of the bytes, not yet decoded, of one of `READABLE`.

    `InputRejectedError` for other formats and for more pixels than the settings allow.
    """
    Image.init()  # all of Pillow's own formats; it loads but the commonest by itself
    if "HEIF" not in Image.OPEN:
        try:
            from pillow_heif import register_heif_opener
        except ImportError:
            pass  # without the library a HEIC is "not a picture that mcap can read"
        else:
            register_heif_opener()
    try:
        known = [name for name in READABLE if name in Image.OPEN]
        picture = Image.open(io.BytesIO(data), formats=known)
    except UnidentifiedImageError as error:
        raise InputRejectedError(
            f"{path}: not a picture that mcap can read (JPEG, PNG, WebP, TIFF, AVIF, HEIC)"
        ) from error
    width, height = picture.size
    mode = "PA" if picture.mode == "P" and "transparency" in picture.info else picture.mode
    appetite = max(HUNGRY.get(picture.format or "", 1), HUNGRY_MODES.get(mode, 1))
    most = settings.max_megapixels / appetite
    if width * height > most * 1e6:
        of = f" of such a {picture.format}" if appetite > 1 else ""
        picture.close()
        raise InputRejectedError(
            f"{path}: {width} x {height} pixels are more than the {most:g} megapixels that mcap "
            f"reads{of}; save a smaller copy, or raise photos.max_megapixels"
        )
    return picture


_limit_lock = threading.Lock()


@contextmanager
def pixel_limit_lifted() -> Iterator[None]:
    """Lift Pillow's limit, one for the process and lower than large telephones' pictures.

    Ours is in `identify`.

    The lock is held while a picture is decoded, so that several threads never hold several
    enormous pictures before they are reduced.
    """
    with _limit_lock:
        before = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def orientation_of(picture: Image.Image) -> int:
    """Return EXIF's orientation, 1 to 8; 1, as it lies, where there is none or a damaged one."""
    try:
        value = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, struct.error):
        return 1
    return value if value in range(1, 9) else 1


def upright(values: np.ndarray, orientation: int) -> np.ndarray:
    """Turn stored pixels [H, W(, C)] upright by EXIF's ``orientation``, 1 to 8: a view of them.

    EXIF 2.32, section 4.6.4, tag 274. Not Pillow's ``exif_transpose``: it knows no 16-bit colour,
    wants the pixels at full size, and writes the EXIF anew, which fails on damaged blocks.
    """
    if orientation >= 5:
        values = values.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    return values
