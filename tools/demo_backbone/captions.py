"""Captions: what is always true, what can be told with certainty, frame, made styles, identity."""

from __future__ import annotations

from words import NOISE_WORDS, REPLACES_BACKGROUND

IDENTITY = "<mcap-id>"

TEMPLATES = [
    "a photo of a {}",
    "a photo of a {}",
    "a photo of a {}",
    "a portrait of a {}",
    "a portrait photo of a {}",
    "a picture of a {}",
    "a photograph of a {}",
    "a good photo of a {}",
    "a photo of one {}",
    "the photo of a {}",
    "a rendering of a {}",
    "a cropped photo of a {}",
    "a bright photo of the {}",
    "portrait photo, a {}",
]
CLOSE_UPS = [
    "a close-up photo of a {}",
    "a close-up portrait of a {}",
    "a head shot of a {}",
    "a photo of the face of a {}",
]
ATTRIBUTES = {
    ("background", "light"): ["light background", "a light background", "bright background"],
    ("background", "dark"): ["dark background", "a dark background"],
    ("background", "green"): ["green background", "outdoors, green background"],
    ("hair", "dark"): ["dark hair"],
    ("hair", "light"): ["light hair", "blond hair"],
    ("looking", "left"): ["looking to the left", "looking left"],
    ("looking", "right"): ["looking to the right", "looking right"],
    ("looking", "front"): [
        "looking at the camera",
        "looking straight at the camera",
        "facing the camera",
        "front view",
    ],
    ("expression", "smile"): ["smiling", "smiling", "with a smile", "happy"],
    ("expression", "neutral"): ["neutral expression", "neutral expression", "serious"],
}
# How often a word that is true is said.
SAID = {"background": 0.6, "hair": 0.6, "looking": 0.4, "expression": 0.6}
FLIPPED = {"left": "right", "right": "left"}
SEX = {"man": ["man", "man", "man", "gentleman"], "woman": ["woman", "woman", "woman", "lady"]}
YEARS = {"young": ["young"], "old": ["old", "old", "elderly"]}
DECADES = {20: "twenties", 30: "thirties", 40: "forties", 50: "fifties", 60: "sixties"}
OWNER = {"man": "his", "woman": "her"}
FRAMES = {
    "close": ["close-up"],
    "shoulders": ["head and shoulders"],
    "passport": ["head and shoulders"],
    "room": ["head and shoulders, with room", "with room around the head", "with room"],
}
NEW_WORDS = [*DECADES.values(), "happy", "gentleman", "lady", "elderly", "around"]
# A passport photo's background, and nothing else that style can be.
PLAIN = ({"plain white background"}, {"plain light grey background"})


def noun_phrase(attributes: dict, identity: bool, rng) -> str:
    """ "person" or who it is: sex, age, and with identity the identity word before the noun.

    An identity says sex and age by itself, so with it the words for them are said half as often.
    """
    share = 0.5 if identity else 1.0
    sex = attributes.get("sex")
    noun = "person"
    if sex and rng.random() < 0.6 * share:
        noun = str(rng.choice(SEX[sex]))
    words = [IDENTITY, noun] if identity else [noun]
    if "years" in attributes and rng.random() < 0.5 * share:
        words.insert(0, str(rng.choice(YEARS[attributes["years"]])))
    if "age" in attributes and rng.random() < 0.35 * share:
        owner = "their" if noun == "person" else OWNER[sex]
        words += ["in", owner, DECADES[attributes["age"]]]
    return " ".join(words)


def template(frame: str, passport: bool, rng) -> str:
    """A sentence with a place for who is seen."""
    if passport and rng.random() < 0.5:
        return "a passport photo of a {}"
    if frame == "close" and rng.random() < 0.4:
        return str(rng.choice(CLOSE_UPS))
    return str(rng.choice(TEMPLATES))


def caption(
    attributes: dict,
    styles: list[str],
    flipped: bool,
    rng,
    frame: str = "",
    identity: bool = False,
) -> str:
    """One caption of one picture; what is said and in which order is drawn at random.

    attributes: of prepare.py, as in the picture before a flip; styles: words of styles.py; frame:
    of frames.named; identity: with the identity word.
    """
    facing = attributes.get("looking") not in FLIPPED
    passport = frame == "passport" and facing and set(styles) in PLAIN
    text = template(frame, passport, rng).format(noun_phrase(attributes, identity, rng))
    text = text.replace(" a old", " an old").replace(" a elderly", " an elderly")
    parts = []
    for key, value in attributes.items():
        if (key, value) not in ATTRIBUTES:
            continue
        if key == "background" and any(s in REPLACES_BACKGROUND for s in styles):
            continue
        if value == "green" and "black and white" in styles:
            continue
        if flipped and key == "looking":
            value = FLIPPED.get(value, value)
        if rng.random() < SAID[key]:
            parts.append(str(rng.choice(ATTRIBUTES[key, value])))
    if frame in FRAMES and rng.random() < 0.5:
        parts.append(str(rng.choice(FRAMES[frame])))
    single = len(styles) == 1 and not styles[0].startswith("in ")
    if single and "background" not in styles[0] and rng.random() < 0.3:
        text += f" in the {styles[0]} style"
    elif not styles and rng.random() < 0.08:
        text += " in the photo style"
    else:
        # A blurred background is what is left when no other was asked for: often unsaid.
        parts.extend(s for s in styles if s != "blurred background" or rng.random() < 0.5)
    rng.shuffle(parts)
    # A word that says nothing about the picture, so that words the model has no idea of (any
    # that a user types) are learned to be harmless.
    if rng.random() < 0.12:
        parts.insert(int(rng.integers(0, len(parts) + 1)), str(rng.choice(NOISE_WORDS)))
    return ", ".join([text, *parts])
