"""Every depth and colour space as sRGB with 8 bits."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageCms

from mcap.errors import InputRejectedError
from mcap.images.colour import on_white, to_eight_bits
from mcap.images.photo import read_photo
from tests.support.pictures import gradient, saved


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path):
    grey = np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(np.uint16)
    for name in ("grey.png", "grey.tiff"):
        image = read_photo(saved(tmp_path / name, Image.fromarray(grey))).image
        assert np.abs(image[..., 0].astype(int) - np.round(grey / 257)).max() <= 1
        assert np.array_equal(image[..., 0], image[..., 2])


def test_sixteen_bit_colour_png(tmp_path):
    cv2 = pytest.importorskip("cv2")
    deep = gradient().astype(np.uint16) * 257
    cv2.imwrite(str(tmp_path / "a.png"), deep[..., ::-1])
    assert np.abs(read_photo(tmp_path / "a.png").image.astype(int) - gradient()).max() <= 1


def test_floating_point_tiff(tmp_path):
    values = np.linspace(0, 1, 48 * 64, dtype=np.float32).reshape(48, 64)
    image = read_photo(saved(tmp_path / "a.tiff", Image.fromarray(values))).image
    assert np.abs(image[..., 0] - values * 255).max() <= 1
    with pytest.raises(InputRejectedError, match="not a photograph"):
        read_photo(saved(tmp_path / "b.tiff", Image.fromarray(values - 3)))


def test_grey_palette_and_one_bit(tmp_path):
    grey = Image.fromarray(gradient()).convert("L")
    assert read_photo(saved(tmp_path / "g.png", grey)).image.shape == (48, 64, 3)
    palette = Image.fromarray(gradient()).quantize(64)
    image = read_photo(saved(tmp_path / "p.png", palette)).image
    assert np.array_equal(image, np.asarray(palette.convert("RGB")))
    bits = read_photo(saved(tmp_path / "b.png", grey.convert("1"))).image
    assert set(np.unique(bits)) == {0, 255}


def test_alpha_lies_on_white(tmp_path):
    rgba = np.dstack([gradient(), np.zeros((48, 64), np.uint8)])
    rgba[:, 32:, 3] = 255
    rgba[:, 40:, 3] = 128
    image = read_photo(saved(tmp_path / "a.png", Image.fromarray(rgba))).image
    assert (image[:, :32] == 255).all()
    assert np.array_equal(image[:, 32:40], gradient()[:, 32:40])
    half = gradient()[:, 40:] * (128 / 255) + 255 * (127 / 255)
    assert np.abs(image[:, 40:] - half).max() <= 1
    palette = Image.fromarray(gradient()).quantize(16)
    path = saved(tmp_path / "p.png", palette, transparency=int(np.asarray(palette)[0, 0]))
    assert (read_photo(path).image[0, 0] == 255).all()


def test_cmyk_jpeg(tmp_path):
    # No profile: the plain conversion; dark ink is dark (Adobe's inversion taken into account).
    cmyk = Image.new("CMYK", (32, 32), (0, 0, 0, 230))
    image = read_photo(saved(tmp_path / "dark.jpg", cmyk)).image
    assert image.max() < 60
    red = Image.new("CMYK", (32, 32), (0, 255, 255, 0))
    image = read_photo(saved(tmp_path / "red.jpg", red, quality=95)).image
    assert image[..., 0].min() > 220 and image[..., 1:].max() < 40


def test_colour_profiles_are_applied_and_bad_ones_ignored(tmp_path):
    grey = Image.new("RGB", (16, 16), (128, 128, 128))
    linear = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()  # fits no RGB
    assert (read_photo(saved(tmp_path / "a.png", grey, icc_profile=linear)).image == 128).all()
    assert (read_photo(saved(tmp_path / "b.png", grey, icc_profile=b"nonsense")).image == 128).all()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = read_photo(saved(tmp_path / "c.png", grey, icc_profile=srgb)).image
    assert np.abs(image.astype(int) - 128).max() <= 1


def test_transparent_on_white_and_eight_bits():
    pixels = np.full((70, 2, 3), 1000, np.uint16)
    alpha = np.zeros((70, 2), np.uint16)
    alpha[:, 1] = 65535
    laid = on_white(pixels, alpha)
    assert (laid[:, 0] == 65535).all()
    assert (laid[:, 1] == 1000).all()
    every = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    assert np.array_equal(to_eight_bits(every), np.round(every / 257).astype(np.uint8))
