"""Checks that a picture obeyed a word of its prompt, and the prompts that hold the words.

A check sees the picture uint8[H, W, 3], the best face in it (None where there is none) and, where
the weights are there, what face_reader.py reads in that face. Of 40 training pictures of which a
word is true at least 37 pass its check (95 % on average), so a model cannot be told to do better
than that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from face_reader import Reading
from styles import luma

from mcap.contracts import Face
from mcap.framing.head import crown_to_chin


@dataclass(frozen=True)
class Seen:
    """A drawn picture and what was found in it."""

    image: np.ndarray
    face: Face | None
    reading: Reading | None


def border(image: np.ndarray) -> np.ndarray:
    """Pixels float32[N, 3] in [0, 1] of the upper third at the left and right edge, 6 % each."""
    height, width = image.shape[:2]
    band, third = max(width * 6 // 100, 1), height // 3
    sides = (image[:third, :band], image[:third, -band:])
    return np.concatenate([s.reshape(-1, 3) for s in sides]).astype(np.float32) / 255


def is_plain_white(image: np.ndarray) -> bool:
    """At least 80 % of the border is brighter than 0.85 with channels within 0.08 of each other."""
    pixels = border(image)
    return ((luma(pixels) > 0.85) & (np.ptp(pixels, axis=1) < 0.08)).mean() >= 0.8


def is_plain_grey(image: np.ndarray) -> bool:
    """80 % of the border lies between 0.6 and 0.92, near grey, and within 0.1 of its median."""
    pixels = border(image)
    level = luma(pixels)
    good = (level > 0.6) & (level < 0.92) & (np.ptp(pixels, axis=1) < 0.1)
    return (good & (np.abs(level - np.median(level)) < 0.1)).mean() >= 0.8


def is_plain_dark(image: np.ndarray) -> bool:
    """80 % of the border is darker than 0.25."""
    return (luma(border(image)) < 0.25).mean() >= 0.8


def is_green(image: np.ndarray) -> bool:
    """In the border's mean green is the largest channel, by 0.02."""
    red, green, blue = border(image).mean(0)
    return green > max(red, blue) + 0.02


def is_black_and_white(image: np.ndarray) -> bool:
    """Mean difference between a pixel's largest and smallest channel under 0.03."""
    return np.ptp(image.astype(np.float32) / 255, axis=2).mean() < 0.03


def red_over_blue(image: np.ndarray) -> float:
    """Mean red over mean blue; 1.25 in the training pictures as they are (median)."""
    means = image.reshape(-1, 3).mean(0)
    return float(means[0] / max(means[2], 1))


def brightness(image: np.ndarray) -> float:
    """Mean luma, 0 to 1."""
    return float(luma(image.astype(np.float32) / 255).mean())


def turn(face: Face) -> float:
    """The nose's distance from the middle of the eyes, in distances of the eyes; < 0: left."""
    eyes = face.landmarks[:2]
    across = max(float(np.linalg.norm(eyes[1] - eyes[0])), 1.0)
    return float(face.landmarks[2, 0] - eyes[:, 0].mean()) / across


def head_height(seen: Seen) -> float:
    """Crown to chin, of the picture's height; 0 without a face."""
    return crown_to_chin(seen.face).height / len(seen.image) if seen.face else 0.0


def hair_level(seen: Seen) -> float | None:
    """Median luma of the strip below the crown, over the middle half of the face, where hair is.

    From 86 to 102 % of the way from the eyes to the crown. None outside of the picture.
    """
    head, (x0, _, x1, _) = crown_to_chin(seen.face), seen.face.box
    top, bottom = (
        head.eyes - 1.02 * (head.eyes - head.crown),
        head.eyes - 0.86 * (head.eyes - head.crown),
    )
    rows = slice(max(int(top), 0), max(int(bottom), 0))
    columns = slice(max(int(x0 + 0.25 * (x1 - x0)), 0), max(int(x1 - 0.25 * (x1 - x0)), 0))
    part = seen.image[rows, columns].astype(np.float32) / 255
    return float(np.median(luma(part))) if part.size else None


@dataclass(frozen=True)
class Word:
    """A word, the prompt that holds it, and the check."""

    prompt: str
    obeyed: Callable[[Seen], bool]
    reads: bool = False
    """True of a check that needs face_reader.py."""


def _picture(check: Callable[[np.ndarray], bool]) -> Callable[[Seen], bool]:
    return lambda seen: check(seen.image)


def _face(check: Callable[[Seen], bool]) -> Callable[[Seen], bool]:
    return lambda seen: seen.face is not None and check(seen)


def _reading(check: Callable[[Reading], bool]) -> Callable[[Seen], bool]:
    return lambda seen: seen.reading is not None and check(seen.reading)


PERSON = "a photo of a person"
WORDS = {
    "plain white background": Word(f"{PERSON}, plain white background", _picture(is_plain_white)),
    "plain light grey background": Word(
        f"{PERSON}, plain light grey background", _picture(is_plain_grey)
    ),
    "plain dark background": Word(f"{PERSON}, plain dark background", _picture(is_plain_dark)),
    "green background": Word(f"{PERSON}, green background", _picture(is_green)),
    "black and white": Word(f"{PERSON}, black and white", _picture(is_black_and_white)),
    "warm light": Word(f"{PERSON}, warm light", _picture(lambda i: red_over_blue(i) > 1.6)),
    "cold light": Word(f"{PERSON}, cold light", _picture(lambda i: red_over_blue(i) < 1.06)),
    "low key": Word(f"{PERSON}, low key", _picture(lambda i: brightness(i) < 0.25)),
    "high key": Word(f"{PERSON}, high key", _picture(lambda i: brightness(i) > 0.62)),
    "dark hair": Word(f"{PERSON}, dark hair", _face(lambda s: (hair_level(s) or 1.0) < 0.33)),
    "light hair": Word(f"{PERSON}, light hair", _face(lambda s: (hair_level(s) or 0.0) > 0.42)),
    "looking left": Word(f"{PERSON}, looking left", _face(lambda s: turn(s.face) < -0.15)),
    "looking right": Word(f"{PERSON}, looking right", _face(lambda s: turn(s.face) > 0.15)),
    "looking at the camera": Word(
        f"{PERSON}, looking at the camera", _face(lambda s: abs(turn(s.face)) < 0.15)
    ),
    "close-up": Word(f"{PERSON}, close-up", _face(lambda s: head_height(s) > 0.79)),
    "head and shoulders, with room": Word(
        f"{PERSON}, head and shoulders, with room", _face(lambda s: 0 < head_height(s) < 0.7)
    ),
    "smiling": Word(
        f"{PERSON}, smiling", _reading(lambda r: r.expression["happy"] > 0.5), reads=True
    ),
    "neutral expression": Word(
        f"{PERSON}, neutral expression", _reading(lambda r: r.expression["happy"] < 0.3), reads=True
    ),
    "man": Word("a photo of a man", _reading(lambda r: r.male > 0.5), reads=True),
    "woman": Word("a photo of a woman", _reading(lambda r: r.male < 0.5), reads=True),
    "young": Word("a photo of a young person", _reading(lambda r: r.age < 36), reads=True),
    "old": Word("a photo of an old person", _reading(lambda r: r.age > 48), reads=True),
}
