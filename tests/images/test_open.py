"""What is refused before or while it is decoded, and with which reason."""

from __future__ import annotations

import io
import os

import numpy as np
import pytest
from PIL import Image

from mcap.errors import InputRejectedError
from mcap.images.open import PhotoSettings
from mcap.images.photo import read_photo
from tests.support.pictures import gradient, saved


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


def test_reading_changes_nothing(tmp_path):
    path = saved(tmp_path / "a.jpg", Image.fromarray(gradient()))
    before, stamp = path.read_bytes(), path.stat().st_mtime_ns
    read_photo(path)
    assert path.read_bytes() == before and path.stat().st_mtime_ns == stamp
    assert [child.name for child in tmp_path.iterdir()] == ["a.jpg"]
