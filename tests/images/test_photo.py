"""Files of every kind -> upright sRGB pixels, or a refusal that says why."""

from __future__ import annotations

import hashlib
import io
import os
import sys

import numpy as np
import pytest
from PIL import Image, ImageCms

from mcap.errors import InputRejectedError
from mcap.images.photo import PhotoSettings, find_photos, read_photo, unique_names


def gradient(height: int = 48, width: int = 64) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 / (width - 1), y * 255 / (height - 1), 0 * x + 90], -1).astype(
        np.uint8
    )


def saved(path, image: Image.Image, **options):
    image.save(path, **options)
    return path


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


def test_one_pixel(tmp_path):
    assert read_photo(saved(tmp_path / "a.png", Image.new("RGB", (1, 1)))).image.shape == (1, 1, 3)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"this is a shopping list\n" * 20, "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "not a picture"),
        (b"\xff\xd8\xff\xe0" + b"\0" * 40, "not a picture|damaged"),
    ],
)
def test_files_that_are_no_pictures(tmp_path, content, reason):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(InputRejectedError, match=reason) as refusal:
        read_photo(path)
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tiff", "a.avif"])
@pytest.mark.parametrize("kept", [0.2, 0.6, 0.95])
def test_truncated_files_are_refused(tmp_path, name, kept):
    noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8)
    path = saved(tmp_path / name, Image.fromarray(noise))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(InputRejectedError, match=r"damaged|not a picture"):
        read_photo(path)


def test_damaged_bytes_never_end_in_another_error(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(gradient()).save(buffer, "PNG")
    rng = np.random.default_rng(0)
    for index in range(60):
        data = bytearray(buffer.getvalue())
        for place in rng.integers(8, len(data), 3):
            data[place] = rng.integers(0, 256)
        path = tmp_path / f"{index}.png"
        path.write_bytes(bytes(data))
        try:
            assert read_photo(path).image.ndim == 3
        except InputRejectedError as refusal:
            assert str(path) in str(refusal)


def test_folders_missing_and_unreadable_files(tmp_path, monkeypatch):
    for path, reason in ((tmp_path, "folder"), (tmp_path / "none.jpg", "no such file")):
        with pytest.raises(InputRejectedError, match=reason):
            read_photo(path)
    path = saved(tmp_path / "a.png", Image.new("RGB", (4, 4)))
    if os.geteuid() != 0:
        path.chmod(0)
    else:  # nothing is unreadable to root

        def denied(self):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(type(path), "read_bytes", denied)
    with pytest.raises(InputRejectedError, match="Permission denied"):
        read_photo(path)


def test_size_limits(tmp_path):
    path = saved(tmp_path / "a.png", Image.new("RGB", (300, 200)))
    with pytest.raises(
        InputRejectedError, match=r"300 x 200 pixels are more than the 0\.05 megapixels"
    ):
        read_photo(path, PhotoSettings(max_megapixels=0.05))
    with pytest.raises(InputRejectedError, match="max_file_megabytes"):
        read_photo(path, PhotoSettings(max_file_megabytes=1e-5))


def test_a_file_that_claims_to_be_enormous_is_refused_undecoded(tmp_path):
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "BMP")
    data = bytearray(buffer.getvalue())
    data[18:26] = (1_000_000).to_bytes(4, "little") * 2
    path = tmp_path / "bomb.bmp"
    path.write_bytes(bytes(data))
    with pytest.raises(InputRejectedError, match="1000000 x 1000000"):
        read_photo(path)
    assert Image.MAX_IMAGE_PIXELS is not None  # the process's own limit is put back


def test_formats_that_need_more_memory_are_read_up_to_a_quarter(tmp_path):
    path = saved(tmp_path / "a.webp", Image.new("RGB", (300, 200)))
    with pytest.raises(
        InputRejectedError, match=r"more than the 0\.05 megapixels .* of such a WEBP"
    ):
        read_photo(path, PhotoSettings(max_megapixels=0.2))
    assert read_photo(path, PhotoSettings(max_megapixels=0.25)).width == 300


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


def test_reading_changes_nothing(tmp_path):
    path = saved(tmp_path / "a.jpg", Image.fromarray(gradient()))
    before, stamp = path.read_bytes(), path.stat().st_mtime_ns
    read_photo(path)
    assert path.read_bytes() == before and path.stat().st_mtime_ns == stamp
    assert [child.name for child in tmp_path.iterdir()] == ["a.jpg"]


def test_find_photos(tmp_path, monkeypatch):
    folder = tmp_path / "selfies"
    (folder / "inner").mkdir(parents=True)
    for name in ("10.jpg", "2.jpg", ".hidden.jpg", "notes.txt", "inner/x.jpg"):
        (folder / name).touch()
    single = tmp_path / "other.png"
    single.touch()
    found = find_photos([folder, single, folder / "2.jpg", tmp_path / "gone.jpg"])
    assert [path.name for path in found] == [
        "2.jpg",
        "10.jpg",
        "notes.txt",
        "other.png",
        "gone.jpg",
    ]
    stdin = io.StringIO(f"{single}\n\n{folder}\r\n-\n")
    assert find_photos(["-"], stdin=stdin)[0] == single
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{single}\n"))
    assert find_photos(["-"]) == [single]


def test_names_differ_even_where_case_does_not_count(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    paths = ["one/me.jpg", "two/me.jpg", "one/ME.png", "one/you.png"]
    photos = []
    for index, name in enumerate(paths):
        photos.append(
            read_photo(saved(tmp_path / name, Image.new("RGB", (8, 8), (index * 60, 0, 0))))
        )
    named = unique_names(photos)
    names = [photo.name for photo in named]
    assert len({name.casefold() for name in names}) == 4
    assert names[3] == "you" and names[0] == f"me-{photos[0].sha256[:8]}"
    # Order does not matter, and what a photo was called once it stays.
    assert {photo.name for photo in unique_names(photos[::-1])} == set(names)
    kept = unique_names(photos, {photos[0].sha256: "me"})
    assert kept[0].name == "me" and kept[1].name != "me"
