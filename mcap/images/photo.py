"""Files -> upright sRGB pictures in memory, or a refusal that says why.

The files are opened for reading only and never changed. H and W are pixels of the upright picture
(EXIF orientation applied).
"""

from __future__ import annotations

import hashlib
import io
import re
import struct
import sys
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import numpy as np
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, Field

from mcap.errors import InputRejectedError

if TYPE_CHECKING:
    from mcap.contracts import UInt8Image

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "TIFF", "AVIF", "HEIF", "BMP", "GIF")
"""Pillow's names of the formats that are tried: photographs only. EPS, for one, would start a
PostScript interpreter on a stranger's file."""

HUNGRY = {"WEBP": 4, "AVIF": 4, "HEIF": 4}
"""Formats that are decoded whole and several times over: so many times fewer pixels of them are
read. A WebP of 64 megapixels takes 1.0 to 1.2 GiB (16 to 19 bytes a pixel), a PNG, TIFF or JPEG
0.45 to 0.6 (JPEG is reduced as it is decoded)."""

HUNGRY_MODES = {"I": 2, "F": 2, "RGBA": 2, "LA": 2, "PA": 2}
"""The same for Pillow's modes that are there twice as they are scaled (alpha is multiplied in)."""

TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # EXIF orientation -> what brings the picture upright


class PhotoSettings(BaseModel):
    """How photos are read. The settings' slice ``[photos]``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_megapixels: float = Field(default=256.0, gt=0)
    """Larger pictures are refused before their pixels are decoded: 200-megapixel telephones pass,
    a file that claims a million by a million pixels does not. Of WebP, AVIF and HEIC a quarter of
    this is read, because decoding them takes four times the memory."""

    max_side: int = Field(default=4096, ge=256)
    """Longer sides are reduced to this in memory; masks are written at the photo's own size."""

    max_file_megabytes: float = Field(default=1024.0, gt=0)


@dataclass(frozen=True)
class Photo:
    """One readable photo.

    ``image`` is uint8[H, W, 3], upright sRGB, reduced where the photo is larger than the settings
    allow; ``width`` and ``height`` are those of the upright photo itself. The pixels can be let go
    (`without_pixels`): the next look at ``image`` then decodes the file again.
    """

    path: Path
    name: str
    """What the photo's output files are called: the file's stem, made unique within a set."""
    sha256: str
    """Of the file's bytes, lower-case hexadecimal."""
    width: int
    height: int
    settings: PhotoSettings = field(default_factory=PhotoSettings)
    pixels: UInt8Image | None = field(default=None, repr=False, compare=False)

    @property
    def image(self) -> UInt8Image:
        if self.pixels is not None:
            return self.pixels
        key, stamp = (self.path, self.sha256, self.settings), _stamp(self.path)
        known = _recent.get(key)
        if known is not None and known[0] == stamp:
            return known[1]
        again = read_photo(self.path, self.settings)
        if again.sha256 != self.sha256:
            raise InputRejectedError(
                f"{self.path} changed while mcap was working on it; run the command again."
            )
        _remember(key, stamp, again.pixels)
        return again.pixels

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) of ``image``, without decoding it."""
        width, height = _reduced_size((self.width, self.height), self.settings)
        return height, width

    @property
    def scale(self) -> float:
        """Pixels of ``image`` per pixel of the photo, 1 or less."""
        longest = max(self.width, self.height)
        return min(1.0, self.settings.max_side / longest)

    def without_pixels(self) -> Photo:
        if self.pixels is not None:
            _remember((self.path, self.sha256, self.settings), _stamp(self.path), self.pixels)
        return replace(self, pixels=None)

    def called(self, name: str) -> Photo:
        return replace(self, name=name)


_recent: OrderedDict[tuple, tuple] = OrderedDict()
"""The photos decoded last, for a few photos are looked at several times in a row."""

_recent_bytes = 256_000_000
_recent_lock = threading.Lock()


def _remember(key: tuple, stamp: tuple[int, int] | None, pixels: UInt8Image) -> None:
    with _recent_lock:
        _recent[key] = (stamp, pixels)
        _recent.move_to_end(key)
        while sum(entry[1].nbytes for entry in _recent.values()) > _recent_bytes:
            _recent.popitem(last=False)


def remember_more() -> None:
    """Keep up to an eighth of the free memory, 768 MB at most, in decoded photos.

    For a process that looks at its photos twice and then ends.
    """
    import psutil

    global _recent_bytes
    free = psutil.virtual_memory().available
    _recent_bytes = max(_recent_bytes, min(free // 8, 768_000_000))


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def read_photo(path: Path | str, settings: PhotoSettings | None = None) -> Photo:
    """One file -> `Photo` with its pixels in memory.

    16-bit pictures are scaled to 8 bits, colour profiles (Display P3, Adobe RGB, CMYK) converted to
    sRGB, alpha composited on white, and of animations and multi-page files the first picture taken.
    Raises `InputRejectedError`, its message the file and the reason.
    """
    settings = settings or PhotoSettings()
    path = Path(path)
    with opened(path, settings) as (data, picture):
        orientation = orientation_of(picture)
        width, height = picture.size
        image = _decode(picture, orientation, settings, path)
    if orientation >= 5:
        width, height = height, width
    return Photo(
        path=path,
        name=path.stem,
        sha256=hashlib.sha256(data).hexdigest(),
        width=width,
        height=height,
        settings=settings,
        pixels=image,
    )


@contextmanager
def opened(path: Path, settings: PhotoSettings) -> Iterator[tuple[bytes, Image.Image]]:
    """A file's bytes and Pillow's picture of them, for the caller to decode inside.

    Whatever opening and decoding raise becomes `InputRejectedError`, its message the file and the reason.
    Pictures of more than ``settings.max_megapixels`` are refused before their pixels are decoded.
    """
    data = _read_bytes(path, settings)
    with pixel_limit_lifted(), warnings.catch_warnings():
        # Pillow and tifffile warn about oddities in metadata; what matters raises.
        warnings.simplefilter("ignore")
        try:
            with _open(path, data, settings) as picture:
                yield data, picture
        except InputRejectedError:
            raise
        except MemoryError as error:
            raise InputRejectedError(f"{path}: too large for this machine's memory") from error
        except (
            OSError,
            SyntaxError,
            ValueError,
            TypeError,
            KeyError,
            IndexError,
            AttributeError,
            RuntimeError,
            EOFError,
            struct.error,
        ) as error:
            # Decoders meet damaged files with every kind of exception; each says the same to us.
            raise InputRejectedError(
                f"{path}: the picture is damaged or incomplete ({error})"
            ) from error


def find_photos(sources: Sequence[Path | str], *, stdin: TextIO | None = None) -> list[Path]:
    """Files, folders and ``-`` (paths on standard input, one a line) -> files, each once.

    A folder stands for the files that lie directly in it, in natural order (2 before 10), hidden
    ones left out. Nothing is opened: a path that does not exist or is no picture stays in the list
    and is refused, with its reason, by `read_photo`.
    """
    found: dict[Path, Path] = {}
    for path in _expand(sources, stdin or sys.stdin):
        found.setdefault(path.resolve(), path)
    return list(found.values())


def unique_names(photos: Sequence[Photo], earlier: dict[str, str] | None = None) -> list[Photo]:
    """The same photos with names that differ, also where upper and lower case are the same.

    A photo keeps its file's stem where no other has it; the others get eight digits of their hash
    behind it, so that a name does not depend on the order. ``earlier`` (sha256 -> name) are names
    that an earlier run has given, which stay.
    """
    earlier = earlier or {}
    counts: dict[str, int] = {}
    for photo in photos:
        stem = photo.path.stem.casefold()
        counts[stem] = counts.get(stem, 0) + 1
    taken = {earlier[photo.sha256].casefold() for photo in photos if photo.sha256 in earlier}
    named = []
    for photo in photos:
        name = earlier.get(photo.sha256)
        if name is None:
            name = photo.path.stem
            if counts[name.casefold()] > 1 or name.casefold() in taken:
                name = f"{name}-{photo.sha256[:8]}"
        named.append(photo.called(name))
    return named


def _expand(sources: Sequence[Path | str], stdin: TextIO) -> Iterator[Path]:
    for source in sources:
        if str(source) == "-":
            lines = (line.rstrip("\r\n") for line in stdin)
            yield from _expand([line for line in lines if line and line != "-"], stdin)
            continue
        path = Path(source).expanduser()
        if not path.is_dir():
            yield path
            continue
        try:
            children = [child for child in path.iterdir() if not child.name.startswith(".")]
            yield from sorted((child for child in children if child.is_file()), key=_natural)
        except OSError:
            yield path  # read_photo says why


def _natural(path: Path) -> list[tuple[bool, int, str]]:
    parts = re.split(r"(\d+)", path.name)
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def _read_bytes(path: Path, settings: PhotoSettings) -> bytes:
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


def _open(path: Path, data: bytes, settings: PhotoSettings) -> Image.Image:
    Image.init()  # all of Pillow's own formats; it loads but the commonest by itself
    _register_heif()
    try:
        known = [name for name in FORMATS if name in Image.OPEN]
        picture = Image.open(io.BytesIO(data), formats=known)
    except UnidentifiedImageError as error:
        raise InputRejectedError(
            f"{path}: not a picture that mcap can read (JPEG, PNG, WebP, TIFF, AVIF, HEIC)"
        ) from error
    width, height = picture.size
    mode = "PA" if picture.mode == "P" and "transparency" in picture.info else picture.mode
    appetite = max(HUNGRY.get(picture.format, 1), HUNGRY_MODES.get(mode, 1))
    most = settings.max_megapixels / appetite
    if width * height > most * 1e6:
        of = f" of such a {picture.format}" if appetite > 1 else ""
        picture.close()
        raise InputRejectedError(
            f"{path}: {width} x {height} pixels are more than the {most:g} megapixels that mcap "
            f"reads{of}; save a smaller copy, or raise photos.max_megapixels"
        )
    return picture


def _register_heif() -> None:
    if "HEIF" in Image.OPEN:
        return
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return  # without the library a HEIC is "not a picture that mcap can read"
    register_heif_opener()


_limit_lock = threading.Lock()


@contextmanager
def pixel_limit_lifted() -> Iterator[None]:
    """Pillow's limit is one for the process and lower than large telephones; ours is in `_open`.

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
    try:
        value = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, struct.error):
        return 1  # damaged metadata on a good picture: taken as it lies
    return value if value in TRANSPOSE else 1


def _decode(
    picture: Image.Image, orientation: int, settings: PhotoSettings, path: Path
) -> UInt8Image:
    profile = picture.info.get("icc_profile")
    target = _reduced_size(picture.size, settings)
    if target != picture.size:
        # JPEG can be decoded at a half, a quarter or an eighth at once; others ignore this.
        picture.draft(None, target)
    picture.load()
    picture = eight_bits(picture, path)
    if picture.size != target:
        # Resizing premultiplies alpha by itself; a palette has no meaningful average.
        if picture.mode == "P":
            transparent = "transparency" in picture.info
            picture = picture.convert("RGBA" if transparent else "RGB")
        # A gap of 1.1 halves or thirds by plain averages first: a quarter of Lanczos' time.
        picture = picture.resize(target, Image.Resampling.LANCZOS, reducing_gap=1.1)
    if orientation != 1:
        picture = picture.transpose(TRANSPOSE[orientation])
    return np.array(_to_srgb(picture, profile))


def _reduced_size(size: tuple[int, int], settings: PhotoSettings) -> tuple[int, int]:
    scale = min(1.0, settings.max_side / max(size))
    width, height = (max(1, round(side * scale)) for side in size)
    return width, height


def eight_bits(picture: Image.Image, path: Path) -> Image.Image:
    """Deep grey pictures, which Pillow's own conversion would clip, scaled to 8 bits.

    (Pillow scales deep colour pictures itself as it decodes them.)
    """
    if picture.mode.startswith("I;16"):
        return Image.fromarray(
            _by_strips(np.asarray(picture), lambda strip: (strip.astype(np.uint32) + 128) // 257)
        )
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
    return Image.fromarray(_by_strips(values, lambda strip: np.round(strip * (255.0 / white))))


def _by_strips(values: np.ndarray, scaled: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """``scaled(values)`` as uint8, a few rows at a time: enormous pictures are there only once."""
    small = np.empty(values.shape, dtype=np.uint8)
    for start in range(0, len(values), 64):
        small[start : start + 64] = scaled(values[start : start + 64])
    return small


def _to_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    if picture.mode == "P":
        picture = picture.convert("RGBA" if "transparency" in picture.info else "RGB")
    elif picture.mode in ("L", "RGB") and "transparency" in picture.info:
        picture = picture.convert("RGBA")  # one colour or grey that stands for transparent
    alpha = None
    if picture.mode in ("LA", "RGBA", "La", "RGBa", "PA"):
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
    """Colours through the embedded profile; a profile that does not fit the picture is ignored."""
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
