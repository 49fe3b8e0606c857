"""Our own PNG files, read back by OpenCV and Pillow."""

from __future__ import annotations

import io
import itertools

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from mcap.images.png import write_png


@pytest.mark.parametrize(
    ("shape", "kind", "transparent"),
    list(
        itertools.product(
            [(7, 5, 3), (130, 9, 3), (65, 33), (1, 1, 3), (64, 2)],
            [np.uint8, np.uint16],
            [False, True],
        )
    ),
)
def test_every_kind_of_pixel_comes_back(tmp_path, shape, kind, transparent):
    random = np.random.default_rng(0)
    pixels = random.integers(0, np.iinfo(kind).max, shape, dtype=kind, endpoint=True)
    alpha = random.integers(0, 256, shape[:2]).astype(kind) if transparent else None
    path = tmp_path / "a.png"
    with path.open("wb") as file:
        write_png(file, pixels, alpha=alpha)
    read = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert read.dtype == kind
    grey = len(shape) == 2
    colours = read if read.ndim == 2 else read[..., 0] if grey else read[..., 2::-1]
    assert np.array_equal(colours, pixels)
    assert not transparent or np.array_equal(read[..., 3], alpha)


def test_smooth_pictures_are_about_as_small_as_pillow_s(tmp_path):
    y, x = np.mgrid[:200, :300]
    pixels = np.stack([x % 256, y, (x + y) // 2], axis=2).astype(np.uint8)
    pixels += np.random.default_rng(0).integers(0, 4, pixels.shape, dtype=np.uint8)
    with (tmp_path / "ours.png").open("wb") as file:
        write_png(file, pixels)
    Image.fromarray(pixels).save(tmp_path / "theirs.png", optimize=True)
    sizes = [(tmp_path / name).stat().st_size for name in ("ours.png", "theirs.png")]
    assert sizes[0] < 1.1 * sizes[1]


def test_what_goes_along_is_read_by_pillow(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif, texts = Image.Exif(), PngInfo()
    exif[0x013B] = "somebody"
    texts.add_text("Title", "a picture")
    path = tmp_path / "a.png"
    with path.open("wb") as file:
        write_png(
            file,
            np.zeros((4, 6, 3), np.uint8),
            icc=profile,
            exif=exif.tobytes(),
            dpi=(300, 300),
            texts=texts,
        )
    with Image.open(path) as picture:
        picture.load()
        assert picture.info["icc_profile"] == profile
        assert picture.getexif()[0x013B] == "somebody"
        assert picture.info["dpi"] == pytest.approx((300, 300), abs=0.1)
        assert picture.text["Title"] == "a picture"


def test_what_is_no_picture_is_refused():
    for pixels, alpha in (
        (np.zeros((4, 4), np.float32), None),
        (np.zeros((4, 4, 4), np.uint8), None),
        (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5), np.uint8)),
    ):
        with pytest.raises(ValueError, match=r"PNG|channels|alpha"):
            write_png(io.BytesIO(), pixels, alpha=alpha)
