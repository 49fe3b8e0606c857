"""A photo that is looked at: its file as an upright picture in sRGB, 8 bits, of bounded size."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from mcap.errors import InputRejectedError
from mcap.images.colour import eight_bits, flattened
from mcap.images.open import PHOTO_MEMORY, PhotoSettings, opened, orientation_of, upright
from mcap.runtime.text import file_stem

if TYPE_CHECKING:
    from mcap.contracts import UInt8Image


@dataclass(frozen=True)
class Photo:
    """One readable photo.

    ``image`` is uint8[H, W, 3], upright sRGB, reduced where the photo is larger than the settings
    allow; ``width`` and ``height`` are those of the upright photo itself. The pixels can be let go
    (`without_pixels`): the next look at ``image`` then decodes the file again.
    """

    path: Path
    name: str
    """What the photo's output files are called: the file's stem, fit to be written
    (`mcap.runtime.text.file_stem`) and made unique within a set."""
    sha256: str
    """Of the file's bytes, lower-case hexadecimal."""
    width: int
    height: int
    settings: PhotoSettings = field(default_factory=PhotoSettings)
    pixels: UInt8Image | None = field(default=None, repr=False, compare=False)

    @property
    def image(self) -> UInt8Image:
        """The pixels uint8[H, W, 3], decoded again where need be; `InputRejectedError` where the
        file has changed since."""
        if self.pixels is not None:
            return self.pixels
        pixels = _recent.get(self)
        if pixels is None:
            again = read_photo(self.path, self.settings)
            if again.sha256 != self.sha256:
                raise InputRejectedError(
                    f"{self.path} changed while mcap was working on it; run the command again."
                )
            assert again.pixels is not None  # read_photo gives them
            pixels = again.pixels
            _recent.put(self, pixels)
        return pixels

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) of ``image``, without decoding it."""
        width, height = reduced_size((self.width, self.height), self.settings)
        return height, width

    @property
    def scale(self) -> float:
        """Pixels of ``image`` per pixel of the photo, 1 or less."""
        longest = max(self.width, self.height)
        return min(1.0, self.settings.max_side / longest)

    def without_pixels(self) -> Photo:
        """Return the photo with its pixels let go."""
        if self.pixels is not None:
            _recent.put(self, self.pixels)
        return replace(self, pixels=None)

    def called(self, name: str) -> Photo:
        """Return the photo under another ``name``."""
        return replace(self, name=name)


TOGETHER = 1400 * 2**20
"""Bytes of the photos that are kept and of the one that is being decoded."""


class RecentPixels:
    """The photos decoded last, up to ``limit`` bytes: a few are looked at several times in a row.

    A photo is known by its file, hash and settings, and by the file's time and size.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._pixels: OrderedDict[tuple[object, ...], UInt8Image] = OrderedDict()
        self._lock = threading.Lock()

    def key(self, photo: Photo) -> tuple[object, ...]:
        """Return what the pixels are found by."""
        try:
            status = photo.path.stat()
            stamp = (status.st_mtime_ns, status.st_size)
        except OSError:
            stamp = None
        return photo.path, photo.sha256, photo.settings, stamp

    def get(self, photo: Photo) -> UInt8Image | None:
        """Return the photo's pixels, if they are here and its file is as it was."""
        return self._pixels.get(self.key(photo))

    def put(self, photo: Photo, pixels: UInt8Image) -> None:
        """Keep a photo's pixels, and let those go that were put first."""
        key = self.key(photo)
        with self._lock:
            self._pixels[key] = pixels
            self._pixels.move_to_end(key)
            self._keep(self.limit)

    def make_room(self, needed: int) -> None:
        """Let go of photos where ``needed`` bytes beside them would be more than `TOGETHER`."""
        with self._lock:
            self._keep(min(self.limit, TOGETHER - needed))

    def _keep(self, most: int) -> None:
        while self._pixels and sum(kept.nbytes for kept in self._pixels.values()) > most:
            self._pixels.popitem(last=False)


_recent = RecentPixels(256_000_000)


def remember_more() -> None:
    """Keep up to an eighth of the free memory, 768 MB at most, in decoded photos.

    For a process that looks at its photos twice and then ends.
    """
    import psutil

    free = psutil.virtual_memory().available
    _recent.limit = max(_recent.limit, min(free // 8, 768_000_000))


def reduced_size(size: tuple[int, int], settings: PhotoSettings) -> tuple[int, int]:
    """Return ``size`` with its longer side brought down to ``settings.max_side``."""
    scale = min(1.0, settings.max_side / max(size))
    width, height = (max(1, round(side * scale)) for side in size)
    return width, height


def read_photo(path: Path | str, settings: PhotoSettings | None = None) -> Photo:
    """Read one file as a `Photo` with its pixels in memory.

    16-bit pictures are scaled to 8 bits, colour profiles (Display P3, Adobe RGB, CMYK) converted to
    sRGB, alpha composited on white, and of animations and multi-page files the first picture taken.
    Raises `InputRejectedError`, its message the file and the reason.
    """
    settings = settings or PhotoSettings()
    path = Path(path)
    with opened(path, settings) as (data, picture):
        orientation = orientation_of(picture)
        width, height = picture.size
        profile = picture.info.get("icc_profile")
        target = reduced_size(picture.size, settings)
        if target != picture.size:
            # JPEG can be decoded at a half, a quarter or an eighth at once; others ignore this.
            picture.draft(None, target)
        _recent.make_room(PHOTO_MEMORY.require(path, picture, len(data), (width, height)))
        picture.load()
        shown: Image.Image = eight_bits(picture, path)
        if shown.size != target:
            # Resizing premultiplies alpha by itself; a palette has no meaningful average.
            if shown.mode == "P":
                shown = shown.convert("RGBA" if "transparency" in shown.info else "RGB")
            # A gap of 1.1 halves or thirds by plain averages first: a quarter of Lanczos' time.
            shown = shown.resize(target, Image.Resampling.LANCZOS, reducing_gap=1.1)
        stored = np.asarray(flattened(shown, profile))
    if orientation >= 5:
        width, height = height, width
    return Photo(
        path=path,
        name=file_stem(path.stem),
        sha256=hashlib.sha256(data).hexdigest(),
        width=width,
        height=height,
        settings=settings,
        pixels=upright(stored, orientation).copy(order="C"),
    )
