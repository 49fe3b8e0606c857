"""What a camera does to a scene: light, framing, noise, the file.

Shapes: pictures float32[H, W, 3] in [0, 1], RGB.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Light:
    """How a scene is lit and taken."""

    exposure: float = 0.0  # stops
    warmth: float = 0.0  # -1 (blue) to 1 (orange)
    green: float = 0.0  # -1 (magenta) to 1 (green), as old strip lights are
    side: float = 0.0  # stops brighter at the viewer's right than in the middle
    contrast: float = 1.0
    colour: float = 1.0  # saturation
    noise: float = 0.0  # standard deviation in display values
    blur: float = 0.0  # pixels


@dataclass(frozen=True)
class Frame:
    """Which part of the scene is in the picture."""

    centre: tuple[float, float] = (0.5, 0.5)  # x, y as fractions of the scene
    width: float = 1.0  # as a fraction of the scene
    aspect: float = 1.0  # width : height
    roll: float = 0.0  # degrees


def light(image: np.ndarray, how: Light, rng: np.random.Generator) -> np.ndarray:
    """Relight in linear light, then the camera's contrast, blur and noise."""
    if how == Light():
        return image
    linear = image.astype(np.float32) ** 2.2
    gains = 2.0 ** np.float32([0.45 * how.warmth, 0.3 * how.green, -0.6 * how.warmth])
    across = np.linspace(-1, 1, image.shape[1], dtype=np.float32)[None, :, None]
    linear = linear * gains * 2.0 ** (how.exposure + how.side * across)
    # Roll highlights off instead of clipping them.
    linear = np.where(linear > 0.8, 0.8 + 0.2 * np.tanh((linear - 0.8) / 0.3), linear)
    display = np.clip(linear, 0, 1) ** (1 / 2.2)
    grey = display.mean(-1, keepdims=True)
    display = grey + how.colour * (display - grey)
    display = 0.45 + how.contrast * (display - 0.45)
    if how.blur:
        display = cv2.GaussianBlur(display, (0, 0), how.blur)
    if how.noise:
        fine = rng.normal(size=image.shape[:2]).astype(np.float32)[..., None]
        blotches = rng.normal(size=image.shape).astype(np.float32)
        blotches = cv2.GaussianBlur(blotches, (0, 0), 1.6) * 4
        # Noise is strongest in the shadows once the picture has been brightened.
        strength = how.noise * (1.3 - display.mean(-1, keepdims=True))
        display = display + strength * (0.8 * fine + 0.5 * blotches)
    return np.clip(display, 0, 1)


def frame(image: np.ndarray, how: Frame, side: int) -> np.ndarray:
    """Cut and rotate; the picture's longer side becomes `side` pixels.

    What the frame shows beyond the scene is mirrored, so keep it inside: at 6 degrees of roll
    a width of 0.9.
    """
    size = image.shape[1]
    wide = side if how.aspect >= 1 else round(side * how.aspect)
    high = round(side / how.aspect) if how.aspect >= 1 else side
    scale = wide / (how.width * size)
    matrix = cv2.getRotationMatrix2D((how.centre[0] * size, how.centre[1] * size), how.roll, scale)
    matrix[:, 2] += wide / 2 - how.centre[0] * size, high / 2 - how.centre[1] * size
    flags = cv2.INTER_AREA if scale < 0.7 else cv2.INTER_CUBIC
    if scale < 0.7:  # warpAffine does not average; shrink to twice the wanted size first
        image = cv2.GaussianBlur(image, (0, 0), 0.45 / scale)
        flags = cv2.INTER_CUBIC
    taken = cv2.warpAffine(image, matrix, (wide, high), flags=flags, borderMode=cv2.BORDER_REFLECT)
    return np.clip(taken, 0, 1)


def black_and_white(image: np.ndarray, contrast: float, vignette: float) -> np.ndarray:
    """A studio print: greys weighted for skin, an S-shaped curve, darker corners."""
    grey = (image @ np.float32([0.38, 0.5, 0.12])).clip(0, 1)
    curve = grey**1.5 / (grey**1.5 + (0.92 * (1 - grey)) ** 1.5)
    grey = (1 - contrast) * grey + contrast * curve
    y, x = np.mgrid[0 : grey.shape[0], 0 : grey.shape[1]].astype(np.float32)
    distance = np.hypot(x / grey.shape[1] - 0.5, y / grey.shape[0] - 0.48)
    grey = grey * (1 - vignette * np.clip((distance - 0.3) / 0.42, 0, 1) ** 2)
    return np.repeat(grey[..., None], 3, axis=2).clip(0, 1)


_TURN = {1: 0, 6: 1, 8: 3}  # quarter turns, counter-clockwise, that undo the viewer's turn


def save(image: np.ndarray, path: Path, quality: int, orientation: int = 1) -> None:
    """Write a JPEG; with `orientation` 6 or 8 the pixels lie on their side and the EXIF tag says
    how to turn them back, as phones do it."""
    pixels = np.rot90((image * 255).round().astype(np.uint8), _TURN[orientation])
    exif = Image.Exif()
    if orientation != 1:
        exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    picture.save(path, quality=quality, subsampling=0 if quality >= 90 else 2, exif=exif)
