"""Backgrounds made of shapes: rooms, windows, leaves, offices, a street at night.

Each is drawn in linear light, where a lamp may be far brighter than white, and then put out of
focus with a disc, as a lens does it: that gives the round lights that a blur in display values
does not. All return float32[H, W, 3] in [0, 1], RGB, and are the same for the same seed.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

WORK = 512  # pixels; what is this blurred needs no more


def _canvas(colour: tuple[float, float, float]) -> np.ndarray:
    return np.full((WORK, WORK, 3), colour, np.float32)


def _light(canvas: np.ndarray, centre: tuple[float, float], reach: float, gain: float) -> None:
    """Brighten around a point (x, y as fractions): light falling on a wall."""
    y, x = np.mgrid[0:WORK, 0:WORK].astype(np.float32) / WORK
    distance = (x - centre[0]) ** 2 + (y - centre[1]) ** 2
    canvas *= (1 + gain * np.exp(-distance / reach**2))[..., None]


def _box(canvas: np.ndarray, box: tuple[float, float, float, float], colour) -> None:
    """A filled rectangle x0, y0, x1, y1 in fractions."""
    x0, y0, x1, y1 = (round(v * WORK) for v in box)
    cv2.rectangle(canvas, (x0, y0), (x1, y1), tuple(float(v) for v in colour), -1)


def _lamp(canvas: np.ndarray, x: float, y: float, radius: float, colour) -> None:
    centre = round(x * WORK), round(y * WORK)
    radius = max(1, round(radius * WORK))
    cv2.circle(canvas, centre, radius, tuple(float(v) for v in colour), -1, cv2.LINE_AA)


def _defocus(canvas: np.ndarray, radius: float) -> np.ndarray:
    """Blur with a disc (radius as a fraction of the side) with soft edges."""
    r = max(1, round(radius * WORK))
    disc = np.zeros((2 * r + 3, 2 * r + 3), np.float32)
    cv2.circle(disc, (r + 1, r + 1), r, 1.0, -1, cv2.LINE_AA)
    disc = cv2.GaussianBlur(disc, (0, 0), max(0.8, r / 10))
    return cv2.filter2D(canvas, -1, disc / disc.sum(), borderType=cv2.BORDER_REFLECT)


def _finish(canvas: np.ndarray, side: int) -> np.ndarray:
    """Linear light to display values, highlights rolled off, at the wanted size."""
    bright = np.where(canvas > 0.8, 0.8 + 0.2 * np.tanh((canvas - 0.8) / 0.4), canvas)
    display = np.clip(bright, 0, 1) ** (1 / 2.2)
    display = cv2.GaussianBlur(display, (0, 0), 1.2)
    return cv2.resize(display, (side, side), interpolation=cv2.INTER_CUBIC).clip(0, 1)


def _books(canvas, rng, x0: float, x1: float, y: float, tall: float) -> None:
    """A row of book spines standing on height y."""
    x = x0
    while x < x1 - 0.02:
        width = rng.uniform(0.012, 0.03)
        hue = rng.uniform(0.02, 0.3) * (0.6 + 0.8 * rng.random(3))
        if rng.random() < 0.85:
            _box(canvas, (x, y - tall * rng.uniform(0.65, 1), x + width, y), hue)
        x += width


def _leaves(canvas, rng, count: int, size: float, region, tone: float = 1.0) -> None:
    """Tilted ellipses of greens within region x0, y0, x1, y1."""
    for _ in range(count):
        x, y = rng.uniform(region[0], region[2]), rng.uniform(region[1], region[3])
        green = rng.uniform(0.02, 0.35) ** 1.3 * tone
        colour = green * rng.uniform(0.3, 0.9), green, green * rng.uniform(0.1, 0.35)
        axes = size * WORK * rng.uniform(0.4, 1), size * WORK * rng.uniform(0.15, 0.5)
        centre = round(x * WORK), round(y * WORK)
        axes = max(1, round(axes[0])), max(1, round(axes[1]))
        cv2.ellipse(canvas, centre, axes, rng.uniform(0, 180), 0, 360, colour, -1, cv2.LINE_AA)


def living_room(seed: int, side: int) -> np.ndarray:
    """A wall with a bright window at one side, a shelf with books, a picture, a plant."""
    rng = np.random.default_rng(seed)
    paint = np.array([0.42, 0.38, 0.33]) * rng.uniform(0.8, 1.1)
    canvas = _canvas(paint * rng.uniform(0.96, 1.04, 3))
    left = rng.random() < 0.5
    x0 = 0.03 if left else 0.72
    _box(canvas, (x0 - 0.02, 0.05, x0 + 0.27, 0.62), (0.7, 0.69, 0.66))
    _box(canvas, (x0, 0.07, x0 + 0.25, 0.6), (1.5, 1.6, 1.75))
    _leaves(canvas, rng, 60, 0.04, (x0, 0.36, x0 + 0.25, 0.6), 3.0)
    _box(canvas, (x0 + 0.118, 0.07, x0 + 0.13, 0.6), (0.6, 0.59, 0.57))
    _box(canvas, (x0 - 0.05, 0.0, x0 - 0.01, 1.0), (0.5, 0.45, 0.38))
    shelf = 0.66 if left else 0.02
    for y in (0.28, 0.48):
        _books(canvas, rng, shelf, shelf + 0.3, y, 0.13)
        _box(canvas, (shelf - 0.01, y, shelf + 0.31, y + 0.014), (0.16, 0.1, 0.06))
    _box(canvas, (0.42, 0.12, 0.58, 0.34), (0.08, 0.07, 0.06))
    _box(canvas, (0.435, 0.135, 0.565, 0.325), (0.5, 0.42, 0.3))
    _box(canvas, (0.0, 0.8, 1.0, 1.0), (0.22, 0.19, 0.18))
    _leaves(canvas, rng, 50, 0.05, (shelf + 0.02, 0.55, shelf + 0.25, 0.8), 0.7)
    _light(canvas, (x0 + 0.12, 0.3), 0.5, 0.9)
    return _finish(_defocus(canvas, 0.022), side)


def garden(seed: int, side: int) -> np.ndarray:
    """Leaves far and near, sky shining through in round lights."""
    rng = np.random.default_rng(seed)
    canvas = _canvas((0.05, 0.09, 0.03))
    canvas += np.linspace(0.16, 0.0, WORK, dtype=np.float32)[:, None, None]
    _leaves(canvas, rng, 500, 0.09, (0, 0, 1, 1))
    for _ in range(70):
        shine = rng.uniform(0.8, 5)
        tint = shine * np.array([0.9, 1.0, 0.72 + 0.3 * rng.random()])
        _lamp(canvas, rng.random(), rng.random() ** 1.8 * 0.7, rng.uniform(0.002, 0.008), tint)
    _leaves(canvas, rng, 160, 0.05, (0, 0, 1, 1), 1.3)
    _light(canvas, (rng.uniform(0.2, 0.8), 0.0), 0.6, 1.4)
    return _finish(_defocus(canvas, 0.03), side)


def kitchen(seed: int, side: int) -> np.ndarray:
    """Cupboards, tiles and two warm lamps in the evening."""
    rng = np.random.default_rng(seed)
    canvas = _canvas((0.2, 0.15, 0.1))
    for i in range(5):
        x = 0.02 + 0.2 * i
        _box(canvas, (x, 0.02, x + 0.18, 0.34), (0.3, 0.25, 0.19))
        _lamp(canvas, x + 0.16, 0.3, 0.006, (0.6, 0.55, 0.5))
    for x in np.arange(0, 1, 0.06):
        for y in np.arange(0.36, 0.62, 0.06):
            _box(canvas, (x, y, x + 0.055, y + 0.055), rng.uniform(0.25, 0.4) * np.ones(3))
    _box(canvas, (0, 0.62, 1, 0.66), (0.1, 0.08, 0.06))
    _box(canvas, (0, 0.66, 1, 1), (0.24, 0.2, 0.15))
    for _ in range(9):
        x, tall = rng.uniform(0.02, 0.95), rng.uniform(0.05, 0.14)
        _box(canvas, (x, 0.62 - tall, x + 0.04, 0.62), rng.uniform(0.05, 0.5, 3))
    for x in (0.14, 0.83):
        _lamp(canvas, x, 0.16, 0.035, (6.0, 4.2, 2.2))
        _light(canvas, (x, 0.18), 0.3, 1.6)
    return _finish(_defocus(canvas, 0.024), side)


def street_at_night(seed: int, side: int) -> np.ndarray:
    """Dark house fronts, lit windows, lamps and signs of many colours."""
    rng = np.random.default_rng(seed)
    canvas = _canvas((0.012, 0.013, 0.02))
    for _ in range(14):
        x, top = rng.uniform(-0.1, 0.95), rng.uniform(0.0, 0.4)
        _box(canvas, (x, top, x + rng.uniform(0.1, 0.25), 0.85), rng.uniform(0.008, 0.03, 3))
    for _ in range(60):
        x, y = rng.random(), rng.uniform(0.02, 0.8)
        warm = rng.uniform(0.05, 0.6)
        _box(canvas, (x, y, x + 0.022, y + 0.03), (warm, warm * 0.65, warm * 0.3))
    tints = np.array(
        [[1, 0.55, 0.2], [1, 0.8, 0.5], [0.9, 0.15, 0.1], [0.2, 0.5, 1], [0.3, 1, 0.6]]
    )
    for _ in range(46):
        tint = tints[rng.choice(5, p=[0.4, 0.3, 0.12, 0.1, 0.08])] * rng.uniform(3, 22)
        _lamp(canvas, rng.random(), rng.uniform(0.25, 0.85), 0.004, tint)
    _box(canvas, (0, 0.86, 1, 1), (0.02, 0.018, 0.02))
    return _finish(_defocus(canvas, 0.028), side)


def plain_wall(seed: int, side: int) -> np.ndarray:
    """A painted wall with light falling from one side and the line of a door frame."""
    rng = np.random.default_rng(seed)
    canvas = _canvas(rng.uniform(0.3, 0.55) * np.array([1, 0.96, 0.9]) * rng.uniform(0.96, 1.04, 3))
    x = rng.choice([0.06, 0.86])
    _box(canvas, (x, 0, x + 0.08, 1), np.array([0.62, 0.6, 0.57]))
    _box(canvas, (x + 0.008, 0, x + 0.016, 1), np.array([0.3, 0.29, 0.28]))
    _light(canvas, (0.9 - x, 0.25), 0.7, 0.6)
    canvas *= (
        1
        + 0.04
        * cv2.GaussianBlur(rng.normal(size=(WORK, WORK, 1)).astype(np.float32), (0, 0), 6)[
            ..., None
        ]
        * 8
    )
    return _finish(_defocus(canvas, 0.008), side)


def beach(seed: int, side: int) -> np.ndarray:
    """Sky, sea and sand under soft clouds, spots of colour where people are."""
    rng = np.random.default_rng(seed)
    canvas = _canvas((0.3, 0.5, 0.85))
    ramp = np.linspace(0, 1, WORK, dtype=np.float32)[:, None, None]
    canvas = canvas * (1 - 0.5 * ramp) + np.float32([0.85, 0.9, 0.95]) * 0.6 * ramp
    noise = sum(  # clouds: noise of several sizes, wider than high
        weight
        * cv2.resize(
            rng.normal(size=(2 * n, n)).astype(np.float32),
            (WORK, WORK),
            interpolation=cv2.INTER_CUBIC,
        )
        for n, weight in ((3, 1.0), (6, 0.6), (14, 0.35))
    )
    cloud = np.clip(noise * 0.5, 0, 0.8)[..., None]
    canvas = (canvas * (1 - cloud) + 0.85 * cloud).astype(np.float32)
    _box(canvas, (0, 0.46, 1, 0.66), (0.06, 0.2, 0.3))
    for _ in range(120):
        x, y = rng.random(), rng.uniform(0.47, 0.65)
        _box(canvas, (x, y, x + 0.04, y + 0.004), rng.uniform(0.2, 0.8) * np.array([0.7, 0.9, 1]))
    _box(canvas, (0, 0.66, 1, 1), (0.62, 0.5, 0.34))
    for _ in range(10):
        x, y = rng.random(), rng.uniform(0.6, 0.72)
        _box(canvas, (x, y - 0.07, x + 0.02, y), rng.uniform(0.1, 0.4) * rng.uniform(0.6, 1.4, 3))
    return _finish(_defocus(canvas, 0.024), side)


def office(seed: int, side: int) -> np.ndarray:
    """An open-plan office: a wall of windows with daylight, strip lights, desks, shelves."""
    rng = np.random.default_rng(seed)
    tone = rng.uniform(0.75, 1.15) * np.array(
        [1.0, rng.uniform(0.96, 1.0), rng.uniform(0.88, 1.05)]
    )
    canvas = _canvas(0.34 * tone)
    _box(canvas, (0, 0, 1, 0.2), 0.42 * tone)  # ceiling
    vanish = rng.uniform(0.3, 0.7)
    for x in np.linspace(-0.5, 1.5, 7):  # strip lights run towards the vanishing point
        a = (
            np.array(
                [
                    [x, 0.0],
                    [x + 0.09, 0.0],
                    [vanish + (x - vanish) * 0.35 + 0.03, 0.2],
                    [vanish + (x - vanish) * 0.35, 0.2],
                ]
            )
            * WORK
        )
        cv2.fillPoly(canvas, [a.round().astype(np.int32)], (2.6, 2.6, 2.5), cv2.LINE_AA)
    left = rng.random() < 0.5
    x0, x1 = (0.0, 0.56) if left else (0.44, 1.0)
    _box(canvas, (x0, 0.22, x1, 0.66), (1.0, 1.12, 1.28))
    for _ in range(12):  # houses across the street
        x, top = rng.uniform(x0, x1 - 0.05), rng.uniform(0.3, 0.56)
        grey = rng.uniform(0.35, 0.8)
        right = min(x1, x + rng.uniform(0.05, 0.12))
        _box(canvas, (x, top, right, 0.66), (grey, grey * 1.04, grey * 1.12))
    panes = rng.integers(4, 7)
    for x in np.linspace(x0, x1, panes):
        _box(canvas, (x - 0.008, 0.2, x + 0.008, 0.68), (0.16, 0.16, 0.17))
    _box(canvas, (x0, 0.4, x1, 0.408), (0.16, 0.16, 0.17))
    shelf = 0.62 if left else 0.04
    for y in (0.34, 0.48, 0.62):
        _books(canvas, rng, shelf, shelf + 0.32, y, 0.1)
        _box(canvas, (shelf - 0.01, y, shelf + 0.33, y + 0.012), (0.2, 0.14, 0.09))
    _box(canvas, (0, 0.7, 1, 1), 0.17 * tone)  # floor and desks
    for _ in range(5):
        x = rng.uniform(-0.05, 0.85)
        _box(canvas, (x, 0.72, x + 0.26, 0.75), rng.uniform(0.3, 0.55) * np.array([1, 0.85, 0.68]))
        _box(canvas, (x + 0.06, 0.6, x + 0.17, 0.7), (0.03, 0.03, 0.035))
        _box(
            canvas,
            (x + 0.066, 0.606, x + 0.164, 0.69),
            rng.uniform(0.1, 0.9) * np.array([0.6, 0.8, 1]),
        )
    plant = rng.uniform(0.05, 0.9)
    _leaves(canvas, rng, 45, 0.035, (plant, 0.46, plant + 0.1, 0.68), 1.1)
    for _ in range(9):
        shine = rng.uniform(2, 7)
        _lamp(
            canvas, rng.random(), rng.uniform(0.04, 0.4), 0.006, (shine, shine * 0.9, shine * 0.7)
        )
    _light(canvas, (0.2 if left else 0.8, 0.4), 0.6, 0.35)
    return _finish(_defocus(canvas, rng.uniform(0.022, 0.032)), side)


def white(seed: int, side: int) -> np.ndarray:
    """#f5f5f5 with the faintest falling off to the corners, as a lit paper background has."""
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side - 0.5
    light = 0.965 - 0.012 * (x**2 + y**2)
    return np.repeat(light[..., None], 3, axis=2)


def dark(seed: int, side: int) -> np.ndarray:
    """A dark studio wall with a soft pool of light behind the shoulders."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side
    centre = rng.uniform(0.3, 0.7), rng.uniform(0.45, 0.7)
    pool = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / 0.18)
    return np.repeat((0.045 + 0.085 * pool)[..., None], 3, axis=2)


BY_NAME: dict[str, Callable[[int, int], np.ndarray]] = {
    f.__name__: f
    for f in (living_room, garden, kitchen, street_at_night, plain_wall, beach, office, white, dark)
}
