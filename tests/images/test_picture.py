"""Pictures read with everything that their files carry."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from mcap.errors import InputRejectedError
from mcap.images import provenance
from mcap.images.open import PhotoSettings
from mcap.images.open import upright as turned
from mcap.images.picture import read_picture, size_of
from mcap.images.png import write_png
from tests.support.pictures import SECRETS, profile, rewritten, telling
from tests.support.restoring import noise

RECORD = {"schema": 1, "kind": "enhance", "mcap": "1.0"}
ENHANCED = provenance.ALGORITHMICALLY_ENHANCED


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1"])
def test_every_kind_of_eight_bits_keeps_its_colours(tmp_path, mode):
    picture = Image.fromarray(noise(20, 30)).convert(mode)
    if mode in ("RGBA", "LA"):
        picture.putalpha(Image.fromarray(noise(20, 30, seed=1)[..., 0]))
    path = tmp_path / "a.png"
    picture.save(path)
    source = read_picture(path)
    assert np.array_equal(source.pixels, np.asarray(picture.convert("RGB")))
    assert source.grey is (mode in ("L", "LA", "1"))
    result = rewritten(source, tmp_path / "out.png")
    assert np.array_equal(result.pixels, source.pixels)
    if mode in ("RGBA", "LA"):
        assert np.array_equal(result.alpha, np.asarray(picture.getchannel("A")))
    else:
        assert result.alpha is None


def test_cmyk_becomes_srgb_and_says_so(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(np.full((16, 16, 3), (200, 40, 30), np.uint8)).convert("CMYK").save(path)
    source = read_picture(path)
    assert source.notes == ("converted from CMYK to sRGB",)
    assert source.icc is None
    assert np.abs(source.pixels.astype(int) - (200, 40, 30)).max() < 8


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_are_upright_and_the_orientation_is_gone(tmp_path, orientation):
    upright = noise(20, 30)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = tmp_path / "a.png"
    # What has to be stored so that the orientation brings it upright.
    back = {2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}
    stored = turned(upright, back.get(orientation, 1))
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
    assert size_of(path) == (30, 20)
    source = read_picture(path)
    assert np.array_equal(source.pixels, upright)
    result = rewritten(source, tmp_path / "out.png")
    assert np.array_equal(result.pixels, upright)
    with Image.open(tmp_path / "out.png") as written:
        assert ExifTags.Base.Orientation not in written.getexif()


def test_a_profile_of_other_pixels_is_left_out(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(noise(8, 8)[..., 0]).save(path, icc_profile=profile())  # RGB on grey
    assert read_picture(path).icc is None


def test_broken_and_enormous_files_are_refused(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"no picture")
    with pytest.raises(InputRejectedError, match="not a picture"):
        read_picture(path)
    buffer = io.BytesIO()
    Image.fromarray(noise(200, 200)).save(buffer, "PNG")
    path.write_bytes(buffer.getvalue()[:5000])
    with pytest.raises(InputRejectedError, match="damaged"):
        read_picture(path)
    path.write_bytes(buffer.getvalue())
    with pytest.raises(InputRejectedError, match="megapixels"):
        size_of(path, PhotoSettings(max_megapixels=0.03))


def png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """(name, the whole chunk) of a PNG, in order."""
    found, place = [], 8
    while place < len(data):
        (length,) = struct.unpack_from(">I", data, place)
        found.append((data[place + 4 : place + 8], data[place : place + 12 + length]))
        place += 12 + length
    return found


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("cut", [2, 6, 9, 40])
def test_a_png_that_ends_in_the_middle_of_a_chunk_behind_its_pixels(tmp_path, cut, deep):
    """All of the picture is there: it is read, with the text that comes before the cut."""
    texts = PngInfo()
    texts.add_text("Author", "me")
    pixels = noise(40, 40, deep=deep)
    path = tmp_path / "a.png"
    if deep:
        with path.open("wb") as file:
            write_png(file, pixels, texts=texts)
    else:
        Image.fromarray(pixels).save(path, pnginfo=texts)
    chunks = png_chunks(path.read_bytes())
    late = zlib_chunk(b"tEXt", b"Comment\0" + b"c" * 200)
    whole = b"".join(chunk for name, chunk in chunks if name != b"IEND")
    path.write_bytes(path.read_bytes()[:8] + whole + late[:cut])
    source = read_picture(path)
    assert source.texts["Author"] == "me"
    if deep:
        assert source.notes == ("read as 8 bits",)
        assert np.abs(source.pixels - pixels / 257).max() < 1
    else:
        assert np.array_equal(source.pixels, pixels)


def zlib_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


@pytest.mark.parametrize("kind", [AssertionError, ZeroDivisionError, zlib.error])
def test_whatever_a_decoder_raises_refuses_the_one_file(tmp_path, monkeypatch, kind):
    path = tmp_path / "a.png"
    Image.fromarray(noise(8, 8)).save(path)

    def fails(*_):
        raise kind("some")

    monkeypatch.setattr("mcap.images.picture.decode", fails)
    with pytest.raises(InputRejectedError, match=r"a\.png: the picture is damaged"):
        read_picture(path)


# What a photo gives away


@pytest.mark.parametrize("target", [".png", ".jpg", ".webp"])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_where_and_with_which_device_it_was_taken_can_be_left_out(tmp_path, suffix, target):
    source = read_picture(telling(tmp_path / f"a{suffix}", noise(16, 16)))
    bare, left_out = source.without_private()
    assert "location" in left_out and "serial numbers" in left_out
    out = tmp_path / f"out{target}"
    rewritten(bare, out)
    data = out.read_bytes()
    with Image.open(out) as written:
        written.load()
        tags = written.getexif()
        known = repr([dict(tags), dict(tags.get_ifd(ExifTags.IFD.Exif)), written.info])
        assert not tags.get_ifd(ExifTags.IFD.GPSInfo)
    for secret in SECRETS:
        assert secret.encode() not in data and secret not in known, secret
    # What says who made the picture, and how, is kept.
    assert tags[ExifTags.Base.Artist] == "A. Photographer"
    assert tags.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.LensModel] == "50 mm"
    assert b"A. Photographer" in data and b"50 mm" in data
    again, nothing = read_picture(out).without_private()
    assert nothing == () and again.exif == read_picture(out).exif


def test_without_secrets_nothing_is_said_to_be_left_out(tmp_path):
    path = tmp_path / "plain.jpg"
    tags = Image.Exif()
    tags[ExifTags.Base.Artist] = "A. Photographer"
    Image.fromarray(noise(8, 8)).save(path, exif=tags)
    source, left_out = read_picture(path).without_private()
    assert left_out == () and source.exif[ExifTags.Base.Artist] == "A. Photographer"
