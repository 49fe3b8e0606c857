"""The watermark: what it survives, what it leaves alone, and that it looks like nothing."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from mcap.registry import registry
from mcap_plugins.opencv import spread_spectrum
from tests.support import ROOT

SELFIES = sorted((ROOT / "examples" / "selfies").glob("*.jpg"))[:3]
SIDE = 512


@pytest.fixture(scope="module")
def watermark():
    return registry().create("watermark", "spread")


@pytest.fixture(scope="module")
def photos() -> list[np.ndarray]:
    return [np.array(Image.open(path).convert("RGB").resize((SIDE, SIDE))) for path in SELFIES]


@pytest.fixture(scope="module")
def marked(watermark, photos) -> list[np.ndarray]:
    copies = [photo.copy() for photo in photos]
    for copy in copies:
        watermark.embed(copy)
    return copies


def encoded(image: np.ndarray, form: str, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, form, quality=quality)
    return np.asarray(Image.open(file).convert("RGB"))


def resized(image: np.ndarray, zoom: float) -> np.ndarray:
    size = [round(side * zoom) for side in image.shape[1::-1]]
    return np.asarray(Image.fromarray(image).resize(size))


CHANGES = {
    "nothing": lambda image: image,
    "JPEG 75": lambda image: encoded(image, "JPEG", 75),
    "JPEG 50": lambda image: encoded(image, "JPEG", 50),
    "WebP 80": lambda image: encoded(image, "WEBP", 80),
    "AVIF 60": lambda image: encoded(image, "AVIF", 60),
    "half": lambda image: resized(image, 0.5),
    "quarter": lambda image: resized(image, 0.25),
    "twice": lambda image: resized(image, 2.0),
    "crop of 10 %": lambda image: image[20:481, 41:502],
    "crop of 25 %": lambda image: image[100:484, 17:401],
    "mirrored": lambda image: np.ascontiguousarray(image[:, ::-1]),
    "grey": lambda image: np.asarray(Image.fromarray(image).convert("L").convert("RGB")),
}


@pytest.mark.parametrize("change", CHANGES)
def test_it_survives(watermark, marked, change):
    scores = [watermark.score(CHANGES[change](image)) for image in marked]
    assert min(scores) >= watermark.info.threshold + 2


def test_it_is_more_than_40_decibels_below_the_picture(photos, marked):
    for before, after in zip(photos, marked, strict=True):
        error = np.mean((before.astype(float) - after) ** 2)
        assert 10 * np.log10(255**2 / error) > 44
        assert np.abs(before.astype(int) - after).max() <= 12


def test_unmarked_pictures_are_not_taken_for_marked(watermark, photos):
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (300, 400, 3), dtype=np.uint8)
    others = [photos[0], noise, np.full((300, 300, 3), 200, np.uint8)]
    assert max(watermark.score(image) for image in others) < watermark.info.threshold


def test_a_marked_picture_is_not_marked_again(watermark, marked):
    again = marked[0].copy()
    watermark.embed(again)
    assert np.array_equal(again, marked[0])


def test_strips_and_depths_agree(watermark, photos, monkeypatch, tmp_path):
    """A large picture is changed a strip at a time, on disk if need be; one of 16 bits alike."""
    whole, deep = photos[1].copy(), photos[1].astype(np.uint16) * 257
    mapped = np.memmap(tmp_path / "pixels", np.uint8, "w+", shape=whole.shape)
    mapped[...] = whole
    watermark.embed(whole)
    monkeypatch.setattr(spread_spectrum, "STRIP", 50 * SIDE)
    watermark.embed(mapped)
    watermark.embed(deep)
    assert np.abs(whole.astype(int) - mapped).max() <= 1
    assert np.abs(whole.astype(float) - deep / 257).max() <= 1


@pytest.mark.parametrize("shape", [(40, 40), (64, 2000), (1, 1), (63, 500)])
def test_a_picture_without_room_is_left_alone(watermark, shape):
    image = np.full((*shape, 3), 100, np.uint8)
    watermark.embed(image)
    assert (image == 100).all() and watermark.score(image) == 0


def test_the_pattern_is_the_same_for_ever():
    """Else nobody finds what an earlier version marked."""
    pattern = spread_spectrum.pattern()
    assert pattern.shape == (256, 256) and abs(float(pattern.mean())) < 1e-6
    shown = [round(float(value), 3) for value in pattern[0, :6]]
    assert shown == PATTERN


PATTERN = [1.634, -0.274, -0.942, -0.995, -0.576, 0.184]
"""Its first values."""
