"""Made styles: each turns a portrait and its matte into a picture that its caption words describe.

Shapes: image float32[H, W, 3] RGB in [0, 1]; matte float32[H, W], 1 on the person.
Every style is a pure function of (image, matte, rng), so that a seed names a picture.
"""

from __future__ import annotations

import cv2
import numpy as np

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def luma(image: np.ndarray) -> np.ndarray:
    """Rec. 601 brightness, float32[H, W] in [0, 1]."""
    return image @ LUMA


def foreground(image: np.ndarray, matte: np.ndarray) -> np.ndarray:
    """The person's own colour, also where the matte is soft.

    At hair edges a pixel is a mixture with the old background, which would shine through as a halo
    on a new one. There the colour is taken from certain foreground nearby (a blur of it,
    normalised by its weight).
    """
    sure = np.clip((matte - 0.8) / 0.2, 0, 1)
    size = (0, 0)
    sigma = image.shape[0] / 42
    weight = cv2.GaussianBlur(sure, size, sigma)[..., None]
    nearby = cv2.GaussianBlur(image * sure[..., None], size, sigma) / (weight + 1e-3)
    trust = np.clip(sure[..., None] + (weight < 0.02), 0, 1)
    return image * trust + nearby * (1 - trust)


def over(image: np.ndarray, matte: np.ndarray, background: np.ndarray) -> np.ndarray:
    """The person over a new background."""
    alpha = matte[..., None]
    return foreground(image, matte) * alpha + background * (1 - alpha)


def plain(image, matte, rng, low, high, tint=0.01):
    """One flat colour behind the person, brightness drawn from [low, high]."""
    colour = rng.uniform(low, high) + rng.normal(size=3) * tint
    background = np.broadcast_to(np.clip(colour, 0, 1).astype(np.float32), image.shape)
    return over(image, matte, background)


def plain_white(image, matte, rng):
    return plain(image, matte, rng, 0.965, 0.995, 0.003)


def plain_grey(image, matte, rng):
    return plain(image, matte, rng, 0.74, 0.84)


def plain_dark(image, matte, rng):
    return plain(image, matte, rng, 0.06, 0.16)


def black_and_white(image, matte, rng):
    grey = luma(image)
    # A little more contrast, as in prints: an S-curve around the middle.
    amount = rng.uniform(0, 0.5)
    grey = (1 - amount) * grey + amount * grey * grey * (3 - 2 * grey)
    return np.repeat(grey[..., None], 3, axis=2)


def tinted(image, red, blue):
    gain = np.array([red, 1.0, blue], dtype=np.float32)
    return np.clip(image * gain, 0, 1)


def warm(image, matte, rng):
    return tinted(image, rng.uniform(1.1, 1.25), rng.uniform(0.6, 0.75))


def cold(image, matte, rng):
    return tinted(image, rng.uniform(0.7, 0.82), rng.uniform(1.15, 1.35))


def low_key(image, matte, rng):
    """Dark all over but for the lit side of the face."""
    height, width = matte.shape
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    cx, cy = rng.uniform(0.35, 0.65) * width, 0.5 * height
    light = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * (0.3 * width) ** 2))
    dark = image ** rng.uniform(1.5, 1.9)
    return dark * (0.12 + 0.85 * light[..., None])


def high_key(image, matte, rng):
    """Bright all over, the background nearly white, soft shadows."""
    bright = 1 - (1 - image) ** rng.uniform(1.5, 1.9)
    backdrop = 0.25 * bright + 0.75
    alpha = 0.8 * matte[..., None] + 0.2 * (matte[..., None] > 0.95)
    return np.clip(0.08 + 0.95 * (bright * alpha + backdrop * (1 - alpha)), 0, 1)


def blurred_background(image, matte, rng):
    """The picture's own background, so much out of focus that nothing in it can be told.

    Only what is certainly background is blurred, normalised by its weight, so that the person's
    colours do not run into it.
    """
    sure = np.clip(1 - 2 * matte, 0, 1)
    sigma = image.shape[0] * rng.uniform(0.05, 0.09)
    weight = cv2.GaussianBlur(sure, (0, 0), sigma)[..., None]
    spread = cv2.GaussianBlur(image * sure[..., None], (0, 0), sigma)
    mean = (image * sure[..., None]).sum((0, 1)) / max(float(sure.sum()), 1.0)
    backdrop = (spread + 0.02 * mean) / (weight + 0.02)
    return over(image, matte, backdrop.astype(np.float32))


def office_backdrop(shape, rng) -> np.ndarray:
    """A blurred office, made of boxes: a wall, windows, ceiling lamps, desks and screens."""
    height, width = shape
    wall = rng.uniform(0.55, 0.78)
    room = np.empty((height, width, 3), np.float32)
    room[:] = wall * np.array([1.0, rng.uniform(0.97, 1.0), rng.uniform(0.92, 1.04)])
    horizon = int(height * rng.uniform(0.55, 0.75))
    room[horizon:] *= rng.uniform(0.5, 0.75)
    left = int(rng.uniform(-0.2, 0.1) * width)
    step = int(rng.uniform(0.24, 0.38) * width)
    top, bottom = int(rng.uniform(0.05, 0.2) * height), int(rng.uniform(0.5, 0.65) * height)
    sky = np.array([rng.uniform(0.82, 0.92), rng.uniform(0.9, 0.97), 1.0], np.float32)
    for x in range(left, width, step):
        room[top:bottom, max(x, 0) : max(x + int(step * 0.72), 0)] = sky
    for _ in range(rng.integers(2, 5)):
        x, y = rng.integers(0, width), rng.integers(0, max(top, 2))
        room[y : y + 3, x : x + int(0.2 * width)] = 1.0
    for _ in range(rng.integers(4, 9)):
        x, y = rng.integers(0, width), horizon + rng.integers(-height // 6, height // 4)
        w, h = rng.integers(width // 16, width // 4), rng.integers(height // 16, height // 5)
        wood = np.array([0.5, 0.38, 0.28]) * rng.uniform(0.6, 1.4)
        steel = np.full(3, rng.uniform(0.1, 0.5))
        room[max(y, 0) : y + h, x : x + w] = wood if rng.random() < 0.4 else steel
    return cv2.GaussianBlur(room, (0, 0), width * rng.uniform(0.022, 0.04)).clip(0, 1)


def office(image, matte, rng):
    return over(image, matte, office_backdrop(matte.shape, rng))


def painted(image, matte, rng):
    """Flat patches of colour with soft borders, a little more saturated."""
    small = (image * 255).astype(np.uint8)
    for _ in range(2):
        small = cv2.bilateralFilter(small, 7, 48, 5)
    small = cv2.medianBlur(small, 3).astype(np.float32) / 255
    grey = luma(small)[..., None]
    small = np.clip(grey + (small - grey) * 1.35, 0, 1)
    patches = np.round(small * 9) / 9
    return 0.65 * patches + 0.35 * small


# Words a caption uses -> the function that makes it true. Product profiles use these very words.
STYLES = {
    "plain white background": plain_white,
    "plain light grey background": plain_grey,
    "plain dark background": plain_dark,
    "black and white": black_and_white,
    "warm light": warm,
    "cold light": cold,
    "low key": low_key,
    "high key": high_key,
    "in front of a blurred office": office,
    "blurred background": blurred_background,
    "painted": painted,
}


def draw_styles(rng) -> list[str]:
    """A random set of style words: one style, or a background with a treatment of the light."""
    backgrounds = [
        "plain white background",
        "plain light grey background",
        "plain dark background",
        "in front of a blurred office",
    ]
    lights = ["black and white", "warm light", "cold light", "painted"]
    kind = rng.random()
    if kind < 0.45:
        return [str(rng.choice(backgrounds, p=[0.45, 0.14, 0.14, 0.27]))]
    if kind < 0.78:
        return [str(rng.choice([*lights, "low key", "high key"], p=[0.5, 0.1, 0.1, 0.1, 0.1, 0.1]))]
    both = [
        str(rng.choice(backgrounds, p=[0.35, 0.1, 0.35, 0.2])),
        str(rng.choice(lights, p=[0.61, 0.13, 0.13, 0.13])),
    ]
    return both


def apply_styles(image: np.ndarray, matte: np.ndarray, names: list[str], rng) -> np.ndarray:
    """Applies styles in order; float32[H, W, 3] in [0, 1]."""
    # Clipped before each one too: a blend may end a little above 1, and a power of less than 0 is
    # no number.
    image = np.clip(image, 0, 1)
    for name in names:
        image = np.clip(STYLES[name](image, matte, rng), 0, 1).astype(np.float32)
    return image
