"""A spread-spectrum watermark that is one fixed pattern: it says "made by a machine", no more.

Cox et al. (Secure spread spectrum watermarking for multimedia, IEEE TIP 1997) put a weak pseudo
random signal into the frequencies that compression keeps; it is found by correlation. Here it is
the same for everybody, as wide as the picture's shorter side and repeated beyond it, so that a
picture that was scaled still has it in the same place. A crop moves it and makes it larger against
the picture's side: the detector tries the scales one after the other, and a Fourier transform
tries all positions of each (phase-only matched filter: Horner and Gianino, Applied Optics 1984).

What there is no place for is a message: nothing about a person, a machine or a time.
"""

from __future__ import annotations

import hashlib
from functools import cache
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from scipy import fft

from mcap_plugins.opencv import SPREAD_SPECTRUM

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mcap.contracts import Float32Array, UInt8Image

SIDE = 256
"""Side of the pattern, and the shorter side of the picture that it is laid over."""
LOWEST, HIGHEST = 10, 80
"""Cycles a side. Lower ones would be seen as clouds; higher ones are gone in a small copy."""
KEY = b"mcap: made by a machine, version 1"
"""The pattern's phases follow from it. It is no secret: anybody shall be able to look."""

PLAIN, BUSY, MOST = 0.5, 0.4, 3.0
"""Amplitude in levels of 255 on a plain wall, what each level of texture adds to it, and its limit:
texture hides more, and drowns more."""
LARGEST_RMS = 1.4
"""Root mean square of what is added, at most: 45 dB."""

LONGEST = 16
"""Times the shorter side that the longer one may be; nothing longer is marked."""

PREPARED = 288  # shorter side at which pictures are made flat, before each scale is tried
SCALES = np.exp(sorted(np.arange(-100, 29) * 0.012, key=abs))
"""Of the picture's shorter side to that of the picture that was marked, 0.3 to 1.4, the likeliest
first: a crop to a third is found, and a picture in a window that is higher than it. A step moves
what lies at the picture's edge by less than half of the finest wave."""
CERTAIN = 12.0
"""Score at which no other scale is tried."""

STRIP = 1 << 22  # pixels that are changed at once


class SpreadSpectrum:
    """`mcap.contracts.Watermark`."""

    info = SPREAD_SPECTRUM

    def embed(self, pixels: NDArray[Any]) -> None:
        """Add the pattern to uint8 or uint16 [H, W, 3], in place, unless it is there already.

        The same is added to the three channels, a strip at a time: ``pixels`` may lie on disk.
        """
        height, width = pixels.shape[:2]
        if not self.fits(width, height):
            return
        size = scaled(width, height, SIDE)
        small = luminance(resized(np.asarray(pixels), size))
        flat = flattened(small, SIDE)
        here = peaks(phase(flat) * matched_filter(False, HIGHEST))[0, 0]
        if here >= self.info.threshold * self.info.kept:
            return
        detail = small - cv2.GaussianBlur(small, (0, 0), 2.0)
        texture = np.sqrt(cv2.GaussianBlur(detail * detail, (0, 0), 3.0))
        tiles = [-(-side // SIDE) for side in small.shape]
        added = np.tile(pattern(), tiles)[: size[1], : size[0]]
        added *= np.minimum(PLAIN + BUSY * texture, MOST)
        shrinks = min(width, height) < SIDE
        if shrinks:
            added = resized(added, (width, height))
        levels = 257 if pixels.dtype == np.uint16 else 1
        added *= levels * min(1.0, LARGEST_RMS / float(np.sqrt(np.mean(added * added))))
        rows = max(1, STRIP // width)
        for top in range(0, height, rows):
            strip = pixels[top : top + rows]
            grown = added[top : top + rows]
            if not shrinks:
                grown = magnified(added, pixels.shape, top, len(strip))
            depth = cv2.CV_16U if pixels.dtype == np.uint16 else cv2.CV_8U
            strip[...] = cv2.add(np.ascontiguousarray(strip), cv2.merge([grown] * 3), dtype=depth)

    def score(self, image: UInt8Image) -> float:
        """Return the highest peak of the correlation over all scales, positions and mirrorings.

        In standard deviations of the correlation's other values. The search ends where there can be
        no doubt (`CERTAIN`).
        """
        height, width = image.shape[:2]
        if not self.fits(width, height):
            return 0.0
        base = flattened(luminance(resized(image, scaled(width, height, PREPARED))), PREPARED)
        best = 0.0
        for scale in SCALES:
            flat = resized(base, scaled(width, height, round(float(SIDE * scale))))
            # What the file's pixels are too few to hold is noise.
            finest = step(min(0.48 * min(width, height) / float(scale), HIGHEST))
            spectrum = phase(flat)
            for mirrored in (False, True):
                found = peaks(spectrum * matched_filter(mirrored, finest))
                best = max(best, float(found.max()))
            if best >= CERTAIN:
                break
        return best

    def fits(self, width: int, height: int) -> bool:
        """Say if a picture has room for the pattern."""
        shorter, longer = sorted((width, height))
        return shorter >= self.info.smallest_side and longer <= LONGEST * shorter


@cache
def pattern() -> Float32Array:
    """Return the pattern, float32[SIDE, SIDE] of mean 0 and standard deviation 1."""
    spectrum = np.exp(1j * phases()) * in_band()
    made = np.fft.irfft2(spectrum, (SIDE, SIDE))
    return np.asarray(made / made.std(), np.float32)


def phases() -> NDArray[np.float64]:
    """Return float64[SIDE, SIDE / 2 + 1], in radians, from `KEY` and no generator: for ever."""
    count = SIDE * (SIDE // 2 + 1)
    drawn = np.frombuffer(hashlib.shake_256(KEY).digest(2 * count), "<u2")
    return drawn.reshape(SIDE, -1) * (2 * np.pi / 65536)


def in_band(highest: int = HIGHEST) -> NDArray[np.bool_]:
    """Return bool[SIDE, SIDE / 2 + 1]: the frequencies that carry the pattern.

    ``highest``: cycles a side, across and down, that the picture's pixels can hold.
    """
    down, across = np.abs(np.fft.fftfreq(SIDE, 1 / SIDE))[:, None], np.arange(SIDE // 2 + 1)[None]
    cycles = np.hypot(down, across)
    held = np.maximum(down, across) <= highest
    return (cycles >= LOWEST) & (cycles <= HIGHEST) & held


@cache
def matched_filter(mirrored: bool, highest: int) -> NDArray[np.complex64]:
    """Return complex64[SIDE, SIDE / 2 + 1]: the conjugate of the pattern's phases, 0 elsewhere."""
    spectrum = np.fft.rfft2(pattern()[:, ::-1] if mirrored else pattern())
    conjugate = np.conj(spectrum) / np.maximum(np.abs(spectrum), 1e-9)
    return np.asarray(np.where(in_band(highest), conjugate, 0), np.complex64)


def step(cycles: float) -> int:
    """Return a limit rounded down, so that few filters are enough."""
    return max(2 * LOWEST, int(cycles) // 4 * 4)


def phase(flat: Float32Array) -> NDArray[np.complex64]:
    """Return complex64[SIDE, SIDE / 2 + 1] of magnitude 1: the spectrum of `flattened` pixels."""
    height, width = flat.shape
    down, across = -(-height // SIDE), -(-width // SIDE)
    padded = np.zeros((down * SIDE, across * SIDE), np.float32)
    padded[:height, :width] = flat
    spectrum = fft.rfft2(padded.reshape(down, SIDE, across, SIDE).sum(axis=(0, 2)))
    spectrum /= np.abs(spectrum) + 1e-6
    return spectrum


def peaks(product: NDArray[np.complex64]) -> Float32Array:
    """Return float32[SIDE, SIDE] of standard deviation 1: the correlation for each shift."""
    found = fft.irfft2(product, (SIDE, SIDE), overwrite_x=True)
    return found / max(float(found.std()), 1e-12)


def flattened(grey: Float32Array, side: int) -> Float32Array:
    """Return a picture, float32[H, W], without what is large or strong in it.

    ``side`` is its shorter side, by which the widths are counted that tell fine from coarse.
    """
    unit = side / SIDE
    detail = grey - cv2.GaussianBlur(grey, (0, 0), 3 * unit)
    strength = np.sqrt(cv2.GaussianBlur(detail * detail, (0, 0), 6 * unit)) + 0.7
    return np.asarray(np.clip(detail / strength, -2.5, 2.5), np.float32)


def luminance(small: NDArray[Any]) -> Float32Array:
    """Return uint8 or uint16 [H, W, 3] as float32[H, W] in levels of 255."""
    levels = 257 if small.dtype == np.uint16 else 1
    grey = cv2.cvtColor(small.astype(np.float32) / levels, cv2.COLOR_RGB2GRAY)
    return np.asarray(grey, np.float32)


def scaled(width: int, height: int, shorter: int) -> tuple[int, int]:
    """Return (width, height) of the same aspect with that shorter side."""
    zoom = shorter / min(width, height)
    return max(1, round(width * zoom)), max(1, round(height * zoom))


def resized(pixels: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Return [H, W(, C)] at (width, height): averaged where it becomes smaller, cubic otherwise."""
    smaller = size[0] < pixels.shape[1]
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)


def magnified(small: Float32Array, shape: tuple[int, ...], top: int, rows: int) -> Float32Array:
    """Return rows ``top`` to ``top + rows`` of ``small`` as it is at the size ``shape``."""
    height, width = shape[:2]
    across, down = small.shape[1] / width, small.shape[0] / height
    # The centre of pixel i lies at (i + 0.5) * scale - 0.5 in the small picture.
    place = np.array(
        [[across, 0, 0.5 * across - 0.5], [0, down, (top + 0.5) * down - 0.5]], np.float64
    )
    grown = cv2.warpAffine(
        small,
        place,
        (width, rows),
        flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    return np.asarray(grown, np.float32)
