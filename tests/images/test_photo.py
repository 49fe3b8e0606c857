"""Files of every kind -> upright sRGB pixels in memory."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from PIL import Image

from mcap.errors import InputRejectedError
from mcap.images.open import PhotoSettings
from mcap.images.photo import read_photo
from tests.support.pictures import gradient, saved


@pytest.mark.parametrize(
    ("name", "options", "tolerance"),
    [
        ("a.png", {}, 0),
        ("a.webp", {"lossless": True}, 0),
        ("a.tiff", {}, 0),
        ("a.bmp", {}, 0),
        ("a.jpg", {"quality": 95, "subsampling": 0}, 6),
        ("a.avif", {"quality": 95}, 10),
        ("a.heic", {"quality": 95}, 10),
    ],
)
def test_formats(tmp_path, name, options, tolerance):
    if name.endswith("heic"):
        pytest.importorskip("pillow_heif").register_heif_opener()
    path = saved(tmp_path / name, Image.fromarray(gradient()), **options)
    photo = read_photo(path)
    assert photo.image.dtype == np.uint8 and photo.image.shape == (48, 64, 3)
    assert np.abs(photo.image.astype(int) - gradient()).max() <= tolerance
    assert photo.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (photo.name, photo.width, photo.height, photo.scale) == ("a", 64, 48, 1.0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    upright = gradient()
    undo = {
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    stored = np.ascontiguousarray(undo.get(orientation, lambda a: a)(upright))
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo = read_photo(saved(tmp_path / "a.png", Image.fromarray(stored), exif=exif))
    assert np.array_equal(photo.image, upright)
    assert (photo.width, photo.height) == (64, 48)


def test_one_pixel(tmp_path):
    assert read_photo(saved(tmp_path / "a.png", Image.new("RGB", (1, 1)))).image.shape == (1, 1, 3)


def test_large_photos_are_reduced_in_memory(tmp_path):
    wide = np.tile(gradient(100, 600), (1, 1, 1))
    photo = read_photo(
        saved(tmp_path / "a.png", Image.fromarray(wide)), PhotoSettings(max_side=300)
    )
    assert photo.image.shape == (50, 300, 3)
    assert (photo.width, photo.height, photo.scale) == (600, 100, 0.5)
    mean = wide.astype(int).reshape(50, 2, 300, 2, 3).mean((1, 3))
    assert np.abs(photo.image - mean)[:, 4:-4].max() < 6


def test_pixels_can_be_let_go_and_come_back_unless_the_file_changed(tmp_path):
    path = saved(tmp_path / "a.png", Image.fromarray(gradient()))
    photo = read_photo(path).without_pixels()
    assert photo.pixels is None and np.array_equal(photo.image, gradient())
    saved(path, Image.new("RGB", (9, 9)))
    with pytest.raises(InputRejectedError, match="changed"):
        photo.image  # noqa: B018
