"""Captions: what is always true, what can be read off a picture, and the words of made styles."""

from __future__ import annotations

from styles import REPLACES_BACKGROUND
from words import NOISE_WORDS

TEMPLATES = [
    "a photo of a person",
    "a photo of a person",
    "a photo of a person",
    "a portrait of a person",
    "a portrait photo of a person",
    "a close-up photo of a person",
    "a close-up portrait of a person",
    "a picture of a person",
    "a head shot of a person",
    "a photograph of a person",
    "a good photo of a person",
    "a photo of the face of a person",
    "a photo of one person",
    "the photo of a person",
    "a rendering of a person",
    "a cropped photo of a person",
    "a bright photo of the person",
    "portrait photo, a person",
]
ATTRIBUTES = {
    ("background", "light"): ["light background", "a light background", "bright background"],
    ("background", "dark"): ["dark background", "a dark background"],
    ("background", "green"): ["green background", "outdoors, green background"],
    ("hair", "dark"): ["dark hair"],
    ("hair", "light"): ["light hair", "blond hair"],
    ("looking", "left"): ["looking to the left", "looking left"],
    ("looking", "right"): ["looking to the right", "looking right"],
}
FLIPPED = {"left": "right", "right": "left"}


def caption(attributes: dict, styles: list[str], flipped: bool, rng) -> str:
    """One caption of one picture; attributes and order are drawn at random.

    attributes: of prepare.py, as in the picture before a flip; styles: words of styles.py.
    """
    text = str(rng.choice(TEMPLATES))
    parts = []
    for key, value in attributes.items():
        if key == "background" and any(s in REPLACES_BACKGROUND for s in styles):
            continue
        if flipped and key == "looking":
            value = FLIPPED[value]
        if rng.random() < 0.6:
            parts.append(str(rng.choice(ATTRIBUTES[key, value])))
    if len(styles) == 1 and rng.random() < 0.15 and not styles[0].startswith("in "):
        text += f" in the {styles[0]} style"
    else:
        parts.extend(styles)
    rng.shuffle(parts)
    # A word that says nothing about the picture, so that words the model has no idea of (any
    # that a user types) are learned to be harmless.
    if rng.random() < 0.12:
        parts.insert(int(rng.integers(0, len(parts) + 1)), str(rng.choice(NOISE_WORDS)))
    return ", ".join([text, *parts])
