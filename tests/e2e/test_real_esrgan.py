"""The real Real-ESRGAN x4plus through `mcap enhance`, where ``TEST_REALESRGAN_X4PLUS`` names its
weights (.safetensors or .pth, 33 or 67 MB); skipped without."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from mcap import cli
from mcap.images import provenance
from tests.support import ROOT

WEIGHTS = os.environ.get("TEST_REALESRGAN_X4PLUS", "")
SIDE, SCALE = 384, 4

pytestmark = pytest.mark.skipif(
    not Path(WEIGHTS).is_file(), reason="TEST_REALESRGAN_X4PLUS names no file of its weights"
)


def decibels(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((one.astype(np.float64) - other) ** 2)))


def sharpness(image: np.ndarray) -> float:
    grey = image.astype(np.float64).mean(axis=2)
    return float(np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean())


@pytest.fixture(scope="module")
def truth() -> Image.Image:
    """A face of the examples, 384 pixels wide."""
    path = ROOT / "examples" / "selfies" / "03-turned-head.jpg"
    photo = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    half = photo.resize((photo.width // 2, photo.height // 2), Image.Resampling.BICUBIC)
    return half.crop((60, 20, 60 + SIDE, 20 + SIDE))


@pytest.fixture
def enhance(capsys):
    """Run `mcap enhance` with the real weights; returns pixels and what it says as JSON."""

    def run(source: Path, out: Path, *options: str) -> tuple[np.ndarray, dict]:
        args = ["--json", "enhance", str(source), "--restorer", WEIGHTS, "--out", str(out)]
        code = cli.run([*args, "--device", "cpu", *options])
        told = json.loads(capsys.readouterr().out)
        assert code == 0, told
        (picture,) = told["pictures"]
        return np.asarray(Image.open(picture["file"]).convert("RGB")), picture

    return run


def test_from_a_worn_picture_to_one_four_times_as_large(enhance, truth, tmp_path):
    """Made smaller, noisy and compressed, as the pictures are that it was trained on: nearer to
    the original than bicubic interpolation, and sharper. (Of a clean picture bicubic's is nearer,
    by two decibels: what this network draws is likely, and not what was there.)"""
    small = np.asarray(truth.resize((SIDE // SCALE,) * 2, Image.Resampling.BICUBIC))
    noisy = np.clip(small + np.random.default_rng(0).normal(0, 16, small.shape), 0, 255)
    file = io.BytesIO()
    Image.fromarray(noisy.astype(np.uint8)).save(file, "JPEG", quality=30)
    (tmp_path / "worn.jpg").write_bytes(file.getvalue())

    found, told = enhance(tmp_path / "worn.jpg", tmp_path / "out")
    assert found.shape == (SIDE, SIDE, 3) and told["size"] == [SIDE, SIDE]
    (face,) = told["faces"]
    assert face["similarity_after"] > 0.6  # the guard has nothing to hold back
    record = provenance.read(told["file"]).record
    assert record["restorers"][0]["name"] == Path(WEIGHTS).stem

    original, worn = np.asarray(truth), Image.open(tmp_path / "worn.jpg")
    bicubic = np.asarray(worn.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    assert decibels(found, original) > decibels(bicubic, original)
    assert 0.5 * sharpness(original) < sharpness(found) < 1.5 * sharpness(original)


def test_tiles_leave_no_seams_and_bfloat16_keeps_45_decibels(enhance, truth, tmp_path):
    small = truth.resize((SIDE // SCALE,) * 2, Image.Resampling.BICUBIC)
    small.save(tmp_path / "clean.png")
    whole, _ = enhance(tmp_path / "clean.png", tmp_path / "whole", "--precision", "fp32")
    tiled, _ = enhance(
        tmp_path / "clean.png", tmp_path / "tiled", "--precision", "fp32", "--tile", "96"
    )
    assert decibels(tiled, whole) > 40
    # A seam would be a step of the difference from one column or row to the next.
    steps = tiled.astype(np.float64) - whole
    for axis in (0, 1):
        step = np.abs(np.diff(steps, axis=axis)).mean(axis=(1 - axis, 2))
        assert step.max() < 1.5
    half, _ = enhance(tmp_path / "clean.png", tmp_path / "half", "--precision", "bf16")
    assert 45 < decibels(half, whole) < 90

    original = np.asarray(truth)
    bicubic = np.asarray(small.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    assert decibels(whole, original) > decibels(bicubic, original) - 3
    assert sharpness(whole) > 1.3 * sharpness(bicubic)
