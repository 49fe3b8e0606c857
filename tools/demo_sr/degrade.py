"""Degradations: what cameras, programs and networks do to a picture before it is enlarged.

Twice blurred, resized, made noisy and compressed, in the manner of Real-ESRGAN (Wang et al. 2021,
"Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic Data", sections 3.1
to 3.4): with the published ranges, and with milder ones, since portraits are seldom ruined.
Pictures are float32[H, W, 3] RGB in [0, 1]; every random choice comes from the numpy Generator
given, so a seed fixes the outcome.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

SCALE = 4
INTERPOLATIONS = (cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC)


def gaussian_kernel(side: int, sigmas: tuple[float, float], angle: float, power: float):
    """float32[side, side] summing to 1: exp(-r^(2 * power) / 2), r in the turned, scaled axes.

    power 1 is Gaussian, below it has longer tails, above it is nearer to a disc.
    """
    axis = np.arange(side, dtype=np.float32) - (side - 1) / 2
    x, y = np.meshgrid(axis, axis)
    u = (np.cos(angle) * x + np.sin(angle) * y) / sigmas[0]
    v = (np.cos(angle) * y - np.sin(angle) * x) / sigmas[1]
    kernel = np.exp(-0.5 * (u * u + v * v) ** power)
    return (kernel / kernel.sum()).astype(np.float32)


def sinc_kernel(side: int, cutoff: float):
    """float32[side, side] summing to 1: ideal low pass in both directions, cutoff in radians.

    Cut off at the kernel's border, hence ringing, as sharpening and scaling programs leave it.
    """
    axis = np.arange(side, dtype=np.float32) - (side - 1) / 2
    row = np.sinc(axis * cutoff / np.pi)
    kernel = np.outer(row, row)
    return (kernel / kernel.sum()).astype(np.float32)


def blur(image, rng, largest: float):
    """A random kernel: even or stretched Gaussian, generalised, or a sinc."""
    side = int(rng.integers(3, 11)) * 2 + 1
    if rng.random() < 0.1:
        kernel = sinc_kernel(side, rng.uniform(np.pi / 2, np.pi))
    else:
        first = rng.uniform(0.2, largest)
        second = first if rng.random() < 0.5 else rng.uniform(0.2, largest)
        power = 1.0 if rng.random() < 0.7 else rng.uniform(0.5, 2.5)
        kernel = gaussian_kernel(side, (first, second), rng.uniform(0, np.pi), power)
    return cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT_101)


def resize(image, side: tuple[int, int], rng):
    """To side = (height, width), by a random interpolation."""
    way = INTERPOLATIONS[rng.integers(len(INTERPOLATIONS))]
    return cv2.resize(image, (side[1], side[0]), interpolation=way)


def noise(image, rng, largest: float):
    """Sensor noise (variance grows with the light) or even noise; in colour or in grey.

    largest: of the even noise's standard deviation, in 1 / 255.
    """
    channels = 1 if rng.random() < 0.4 else 3
    shape = (*image.shape[:2], channels)
    grains = rng.standard_normal(shape, dtype=np.float32)
    if rng.random() < 0.5:
        return image + grains * np.float32(rng.uniform(0, largest) / 255)
    light = image.mean(2, keepdims=True) if channels == 1 else image
    # A sensor that counts 255 / share photons at white.
    share = rng.uniform(0, largest / 12)
    return image + grains * np.sqrt(np.maximum(light, 0) * np.float32(share / 255))


def compress(image, quality: int):
    """Through JPEG and back."""
    levels = (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)[..., ::-1]
    _, data = cv2.imencode(".jpg", levels, [cv2.IMWRITE_JPEG_QUALITY, int(quality)])
    return cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1].astype(np.float32) / 255


@dataclass(frozen=True)
class Ranges:
    """Of both stages: largest blur in pixels, largest noise in 1 / 255, lowest JPEG quality, least
    and largest change of size, and how often each of blur, noise and JPEG happens.
    """

    blur: tuple[float, float]
    noise: tuple[float, float]
    quality: tuple[int, int]
    sizes: tuple[tuple[float, float], tuple[float, float]]
    often: tuple[tuple[float, float, float], tuple[float, float, float]]


PUBLISHED = Ranges(
    blur=(3.0, 1.5),
    noise=(30, 25),
    quality=(30, 30),
    sizes=((0.15, 1.5), (0.3, 1.2)),
    often=((1.0, 1.0, 1.0), (0.8, 1.0, 1.0)),
)
MILD = Ranges(
    blur=(2.5, 1.2),
    noise=(15, 8),
    quality=(45, 60),
    sizes=((0.35, 1.3), (0.3, 1.2)),
    often=((0.9, 0.8, 0.7), (0.6, 0.6, 0.8)),
)


def scaled(image, rng, limits: tuple[float, float], chances=(0.2, 0.7)):
    """Larger, smaller or as it is: to a random multiple of its side within limits."""
    chance = rng.random()
    if chance < chances[0]:
        factor = rng.uniform(1, limits[1])
    elif chance < sum(chances):
        factor = rng.uniform(limits[0], 1)
    else:
        return image
    return resize(image, tuple(max(round(side * factor), 8) for side in image.shape[:2]), rng)


def photo(image, rng, ranges: Ranges = MILD):
    """Both stages: [H, W, 3] -> [H / 4, W / 4, 3]."""
    small = (image.shape[0] // SCALE, image.shape[1] // SCALE)
    first, second = ranges.often
    if rng.random() < first[0]:
        image = blur(image, rng, ranges.blur[0])
    image = scaled(image, rng, ranges.sizes[0])
    if rng.random() < first[1]:
        image = noise(image, rng, ranges.noise[0])
    if rng.random() < first[2]:
        image = compress(image, rng.integers(ranges.quality[0], 96))
    if rng.random() < second[0]:
        image = blur(image, rng, ranges.blur[1])
    # The second change of size is of the side that is wanted in the end, times four.
    least, largest = ranges.sizes[1]
    factor = SCALE * rng.uniform(least, 1 if rng.random() < 0.7 else largest)
    image = resize(image, (round(small[0] * factor), round(small[1] * factor)), rng)
    if rng.random() < second[1]:
        image = noise(image, rng, ranges.noise[1])
    is_compressed = rng.random() < second[2]
    quality = rng.integers(ranges.quality[1], 96)
    if is_compressed and rng.random() < 0.5:
        return np.clip(resize(compress(image, quality), small, rng), 0, 1)
    image = resize(image, small, rng)
    return compress(image, quality) if is_compressed else np.clip(image, 0, 1)


def clean(image, rng):
    """Made small once, perhaps soft or lightly compressed: what a careful program hands on."""
    small = (image.shape[0] // SCALE, image.shape[1] // SCALE)
    if rng.random() < 0.4:
        image = blur(image, rng, 1.6)
    image = np.clip(resize(image, small, rng), 0, 1)
    return compress(image, rng.integers(80, 101)) if rng.random() < 0.5 else image


def degrade(image, rng, clean_share: float, published_share: float = 0.5):
    """One of the three kinds, at random: clean, and of the rest a share as published."""
    if rng.random() < clean_share:
        return clean(image, rng)
    return photo(image, rng, PUBLISHED if rng.random() < published_share else MILD)
