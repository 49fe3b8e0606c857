"""Draw what covers a face onto a portrait: masks, hands, scarves, bars, phones, sunglasses.

`COVERS` has a function for each kind: (picture uint8[H, W, 3] RGB, landmarks float[5, 2], a random
generator) -> the covered picture. Shapes, colours and places vary with the generator. They are
drawn, with folds, shades and noise, and are no photographs of covers: docs/faces.md says what that
does not prove.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

TEMPLATE = np.array(
    [[0.342, 0.462], [0.657, 0.460], [0.500, 0.640], [0.371, 0.825], [0.632, 0.823]]
)
"""The landmarks of a frontal face in the frame that covers are drawn in, as in
`mcap.faces.oval`."""

SIDE = 256
"""Pixels of that frame for one unit."""
ROOM = 0.5
"""Units around it on each side."""

Cover = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]


def to_frame(landmarks: np.ndarray) -> np.ndarray:
    """float64[2, 3], from a picture's pixels to those of the frame."""
    target = (TEMPLATE + ROOM) * SIDE
    matrix, _ = cv2.estimateAffinePartial2D(
        landmarks.astype(np.float64), target, method=cv2.LMEDS, refineIters=10
    )
    return matrix


def laid_over(
    image: np.ndarray, landmarks: np.ndarray, colour: np.ndarray, alpha: np.ndarray
) -> np.ndarray:
    """The picture with ``colour`` float[S, S, 3] over it where ``alpha`` float[S, S] is 1.

    Lit as the picture is: the cover takes on the face's own shades from left to right.
    """
    matrix = to_frame(landmarks)
    height, width = image.shape[:2]
    face = cv2.warpAffine(image, matrix, alpha.shape[::-1], borderMode=cv2.BORDER_REPLICATE)
    light = cv2.GaussianBlur(cv2.cvtColor(face, cv2.COLOR_RGB2GRAY).astype(np.float32), (0, 0), 30)
    light = light / max(float(light[100:400, 100:400].mean()), 1.0)
    colour = colour * np.clip(light, 0.55, 1.45)[..., None]
    # A shadow below and beside what lies on a face.
    shadow = cv2.GaussianBlur(np.roll(alpha, 5, axis=0), (0, 0), 6) * 0.35
    back = cv2.invertAffineTransform(matrix)
    size = (width, height)
    colour = cv2.warpAffine(colour.astype(np.float32), back, size, flags=cv2.INTER_AREA)
    alpha = cv2.warpAffine(alpha.astype(np.float32), back, size, flags=cv2.INTER_AREA)[..., None]
    shadow = cv2.warpAffine(shadow.astype(np.float32), back, size)[..., None]
    under = image.astype(np.float32) * (1 - shadow)
    return (under * (1 - alpha) + colour * alpha).round().clip(0, 255).astype(np.uint8)


def canvas() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(alpha of zeros, x, y) of the frame, x and y in units."""
    side = round((1 + 2 * ROOM) * SIDE)
    y, x = np.mgrid[0:side, 0:side].astype(np.float32)
    return np.zeros((side, side), np.float32), x / SIDE - ROOM, y / SIDE - ROOM


def polygon(points: list[tuple[float, float]], soft: float = 0.8) -> np.ndarray:
    """float[S, S], 1 inside a polygon of units whose corners are rounded."""
    alpha, _, _ = canvas()
    corners = np.round((np.array(points) + ROOM) * SIDE).astype(np.int32)
    cv2.fillPoly(alpha, [corners], 1.0)
    alpha = cv2.GaussianBlur(alpha, (0, 0), 4.5)
    return cv2.GaussianBlur((alpha > 0.5).astype(np.float32), (0, 0), soft)


def cloth(rng: np.random.Generator, colour: np.ndarray, weave: float = 3.0) -> np.ndarray:
    """float[S, S, 3], cloth of a colour: a weave, folds, and light from one side."""
    alpha, x, y = canvas()
    folds = sum(
        rng.uniform(2, 6)
        * np.sin(rng.uniform(4, 18) * (x * np.cos(t) + y * np.sin(t)) * 6.3 + rng.uniform(0, 6.3))
        for t in rng.uniform(0, 3.14, 3)
    )
    noise = cv2.GaussianBlur(rng.normal(0, 1, alpha.shape).astype(np.float32), (0, 0), 1.2)
    side = rng.uniform(-25, 25) * (x - 0.5)
    return colour + (folds + side + weave * 3 * noise)[..., None]


MASKS = np.array(
    [
        (150, 200, 222),
        (235, 238, 240),
        (28, 28, 30),
        (236, 180, 196),
        (120, 180, 150),
        (60, 70, 110),
    ]
)


def surgical(image: np.ndarray, landmarks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A pleated mask from the bridge of the nose to below the chin, with loops to the ears."""
    nose = TEMPLATE[2] + (landmarks_shift(landmarks))
    top = rng.uniform(0.53, 0.60)
    x0 = nose[0]
    points = [
        (x0 - 0.34, top + 0.06), (x0 - 0.15, top), (x0, top - 0.02), (x0 + 0.15, top),
        (x0 + 0.34, top + 0.06), (x0 + 0.33, 0.86), (x0 + 0.22, 1.03), (x0, 1.10),
        (x0 - 0.22, 1.03), (x0 - 0.33, 0.86),
    ]  # fmt: skip
    alpha = polygon(points)
    colour = cloth(rng, MASKS[rng.integers(len(MASKS))] + rng.normal(0, 8, 3), 1.5)
    _, x, y = canvas()
    for place in np.linspace(0.66, 0.9, int(rng.integers(2, 5))):  # pleats
        line = np.exp(-(((y - place - 0.06 * (x - x0) ** 2) / 0.008) ** 2))
        colour -= 28 * line[..., None]
    loops = np.exp(-(((y - top - 0.1 + 0.25 * (np.abs(x - x0) - 0.34)) / 0.008) ** 2))
    loops *= (np.abs(x - x0) > 0.33) & (np.abs(x - x0) < 0.47)
    return laid_over(image, landmarks, colour, np.maximum(alpha, loops))


def cup(image: np.ndarray, landmarks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A rounded mask that follows the nose: of cloth with a pattern, or a white respirator."""
    x0 = TEMPLATE[2, 0] + landmarks_shift(landmarks)[0]
    top = rng.uniform(0.50, 0.58)
    angle = np.linspace(0, 2 * np.pi, 40)
    wide, high = rng.uniform(0.27, 0.36), (1.08 - top) / 2
    points = [(x0 + wide * np.cos(a), top + high + high * np.sin(a)) for a in angle]
    points += [(x0, top - 0.05)]
    colour = cloth(
        rng, rng.uniform(30, 240, 3) if rng.random() < 0.7 else np.array([238, 238, 232])
    )
    _, x, y = canvas()
    if rng.random() < 0.5:  # dots or stripes
        pitch = rng.uniform(0.05, 0.12)
        dots = np.sin(x / pitch * 6.3) * np.sin(y / pitch * 6.3) > 0.4
        colour = np.where(dots[..., None], rng.uniform(30, 240, 3), colour)
    colour -= 40 * np.exp(-(((x - x0) / 0.01) ** 2))[..., None]
    return laid_over(image, landmarks, colour, polygon(points))


def scarf(image: np.ndarray, landmarks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Wool round the lower face, up to the nose or over it, across the whole picture's width."""
    top = rng.uniform(0.56, 0.70)
    wave = rng.uniform(0.01, 0.05)
    xs = np.linspace(-0.5, 1.5, 24)
    line = [(x, top + wave * np.sin(9 * x + rng.uniform(0, 6)) + 0.25 * (x - 0.5) ** 2) for x in xs]
    colour = cloth(rng, rng.uniform(20, 230, 3), 6.0)
    _, x, y = canvas()
    ribs = np.sin((x * np.cos(0.5) + y * np.sin(0.5)) * rng.uniform(120, 260))
    colour += 14 * ribs[..., None]
    return laid_over(image, landmarks, colour, polygon([*line, (1.5, 1.5), (-0.5, 1.5)], 1.2))


def hand(image: np.ndarray, landmarks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Three to five fingers over mouth and nose, of the face's own skin colour or near it."""
    matrix = to_frame(landmarks)
    alpha, x, y = canvas()
    face = cv2.warpAffine(image, matrix, alpha.shape[::-1], borderMode=cv2.BORDER_REPLICATE)
    cheeks = (np.abs(np.abs(x - 0.5) - 0.13) < 0.03) & (np.abs(y - 0.66) < 0.04)
    skin = np.median(face[cheeks], axis=0) * rng.uniform(0.85, 1.15) + rng.normal(0, 4, 3)
    fingers = int(rng.integers(3, 6))
    lean = rng.uniform(-0.5, 0.5)
    wide = rng.uniform(0.075, 0.095)
    shade = np.zeros_like(alpha)
    flip = rng.random() < 0.5
    for number in range(fingers):
        cy = 0.66 + 0.34 * (number + 0.5) / fingers
        cx = 0.5 + rng.uniform(0.1, 0.24)
        along = (x - cx) * np.cos(lean) + (y - cy) * np.sin(lean)
        across = -(x - cx) * np.sin(lean) + (y - cy) * np.cos(lean)
        # From the tip on, to beyond the face on the other side.
        inside = (np.abs(across) < wide / 2) & (along < 0)
        inside |= np.hypot(along, across) < wide / 2
        alpha[inside] = 1
        round_ = 1 - (across / (wide / 2)) ** 2
        shade[inside] = (0.72 + 0.3 * np.clip(round_, 0, 1))[inside]
        nail = np.hypot((along + 0.005) / 0.028, across / 0.022) < 1
        shade[nail & inside] = 1.12
    shade[shade == 0] = 0.8
    alpha = cv2.morphologyEx(alpha, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    if flip:
        alpha, shade = alpha[:, ::-1].copy(), shade[:, ::-1].copy()
    noise = cv2.GaussianBlur(rng.normal(0, 1, alpha.shape).astype(np.float32), (0, 0), 1.2)
    colour = skin * cv2.GaussianBlur(shade, (0, 0), 1.5)[..., None] + 4 * noise[..., None]
    return laid_over(image, landmarks, colour, cv2.GaussianBlur(alpha, (0, 0), 0.8))


def phone(image: np.ndarray, landmarks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The back of a phone before mouth and chin, as in a mirror's selfie."""
    cx, cy = 0.5 + rng.uniform(-0.08, 0.08), rng.uniform(0.84, 0.95)
    wide, high = rng.uniform(0.16, 0.2), rng.uniform(0.26, 0.36)
    turn = rng.uniform(-0.5, 0.5)
    corners = np.array([(-wide, -high), (wide, -high), (wide, high), (-wide, high)])
    if rng.random() < 0.4:
        corners = corners[:, ::-1]
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    points = [tuple(point) for point in corners @ rotation.T + (cx, cy)]
    _, x, y = canvas()
    base = np.array([(25, 25, 28), (215, 215, 218), (40, 60, 110), (150, 40, 50)][rng.integers(4)])
    colour = np.ones((*x.shape, 3)) * base + 30 * (x - cx + y - cy)[..., None]
    lens = np.hypot(x - cx + 0.07, y - cy + 0.12) < 0.04
    colour[lens] = (8, 8, 12)
    return laid_over(image, landmarks, colour, polygon(points))


def bar(image: np.ndarray, landmarks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A plain bar over the mouth or the eyes, as people are made unknown."""
    middle = rng.choice([0.83, 0.46]) + rng.uniform(-0.03, 0.03)
    half = rng.uniform(0.07, 0.12)
    alpha = polygon(
        [(0.1, middle - half), (0.9, middle - half), (0.9, middle + half), (0.1, middle + half)]
    )
    grey = rng.choice([0, 255, 30, 128])
    return laid_over(image, landmarks, np.ones((*alpha.shape, 3)) * grey, alpha)


def sunglasses(image: np.ndarray, landmarks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Large dark lenses, a frame and a bridge."""
    alpha, x, y = canvas()
    tint = rng.uniform(10, 60, 3)
    wide, high = rng.uniform(0.13, 0.165), rng.uniform(0.09, 0.14)
    colour = np.ones((*x.shape, 3)) * tint
    for eye in TEMPLATE[:2]:
        d = (np.abs(x - eye[0]) / wide) ** 3 + (np.abs(y - eye[1] - 0.02) / high) ** 3
        alpha = np.maximum(alpha, np.where(d < 1.15, rng.uniform(0.93, 1.0), 0))
        colour += 40 * (np.exp(-(((x - eye[0] + 0.06) ** 2 + (y - 0.42) ** 2) / 0.002)))[..., None]
    bridge = (np.abs(y - 0.44) < 0.012) & (x > 0.35) & (x < 0.65)
    arms = (np.abs(y - 0.44) < 0.014) & ((x < 0.3) & (x > 0.08) | (x > 0.7) & (x < 0.92))
    alpha = np.maximum(alpha, (bridge | arms).astype(np.float32))
    return laid_over(
        image, landmarks, colour, cv2.GaussianBlur(alpha.astype(np.float32), (0, 0), 0.6)
    )


def landmarks_shift(landmarks: np.ndarray) -> np.ndarray:
    """How far the nose lies beside its place in the frame, in units: turned heads."""
    matrix = to_frame(landmarks)
    nose = matrix[:, :2] @ landmarks[2] + matrix[:, 2]
    return nose / SIDE - ROOM - TEMPLATE[2]


COVERS: dict[str, Cover] = {
    "surgical mask": surgical,
    "cup-shaped mask": cup,
    "scarf": scarf,
    "hand": hand,
    "phone": phone,
    "bar": bar,
    "sunglasses": sunglasses,
}


def photographed_mask(texture: np.ndarray) -> Cover:
    """The cover of a mask that was photographed flat, uint8[H, W, 3], bent round the lower face."""

    def drawn(image: np.ndarray, landmarks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        alpha, x, y = canvas()
        x0 = TEMPLATE[2, 0] + landmarks_shift(landmarks)[0]
        top, wide = rng.uniform(0.53, 0.60), rng.uniform(0.29, 0.34)
        across = np.arcsin(np.clip((x - x0) / (wide * 1.15), -1, 1)) / np.pi + 0.5
        down = (y - top - 0.10 * ((x - x0) / wide) ** 2) / (1.08 - top - 0.35 * (x - x0) ** 2)
        height, width = texture.shape[:2]
        places = (across * width).astype(np.float32), (down * height).astype(np.float32)
        colour = cv2.remap(texture, *places, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        alpha[(np.abs(x - x0) < wide) & (down > 0) & (down < 1)] = 1
        alpha = cv2.GaussianBlur(alpha, (0, 0), 1.0)
        return laid_over(image, landmarks, colour.astype(np.float32), alpha)

    return drawn
