"""EXIF that others can read, that is true, and that fits."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from PIL import ExifTags, Image, TiffImagePlugin
from PIL.PngImagePlugin import PngInfo

from mcap.images import exif, provenance
from mcap.images.picture import read_picture
from mcap.images.provenance import Label
from mcap.images.write import left_out, write_generated, write_picture
from tests.support.pictures import GENERATED, rewritten
from tests.support.restoring import noise

BYTE, ASCII, UNDEFINED = 1, 2, 7
EXIF_IFD, GPS_IFD = 0x8769, 0x8825
MAKER_NOTE, USER_COMMENT, SUBJECT_AREA = 37500, 37510, 37396


def types(data: bytes) -> dict[tuple[int, int], int]:
    """(directory, tag) -> TIFF's type code, read from a file's bytes."""
    start = data.find(b"II*\0")
    order = "<"
    if start < 0:
        start, order = data.index(b"MM\0*"), ">"
    found, pending = {}, [(0, *struct.unpack_from(f"{order}L", data, start + 4))]
    while pending:
        ifd, offset = pending.pop()
        (count,) = struct.unpack_from(f"{order}H", data, start + offset)
        for index in range(count):
            entry = start + offset + 2 + 12 * index
            tag, kind, _, value = struct.unpack_from(f"{order}HHLL", data, entry)
            found[ifd, tag] = kind
            if ifd == 0 and tag in (EXIF_IFD, GPS_IFD):
                pending.append((tag, value))
    return found


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_the_comment_is_undefined_bytes_as_other_programs_read_it(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    write_generated(path, noise(16, 16), Label(GENERATED))
    assert types(path.read_bytes())[EXIF_IFD, USER_COMMENT] == UNDEFINED
    enhanced = tmp_path / f"b{suffix}"
    again = rewritten(read_picture(path), enhanced)
    assert types(enhanced.read_bytes())[EXIF_IFD, USER_COMMENT] == UNDEFINED
    assert again.parameters == provenance.read(path).parameters


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".png"])
def test_what_a_camera_wrote_keeps_its_type(tmp_path, suffix):
    tags = Image.Exif()
    tags[ExifTags.Base.Make] = "Camera"
    own = tags.get_ifd(ExifTags.IFD.Exif)
    own[MAKER_NOTE], own[ExifTags.Base.SceneType] = b"\0\1note", b"\1"
    own[ExifTags.Base.ComponentsConfiguration] = b"\1\2\3\0"
    own[ExifTags.Base.ExposureTime] = TiffImagePlugin.IFDRational(1, 125)
    gps = tags.get_ifd(ExifTags.IFD.GPSInfo)
    gps[ExifTags.GPS.GPSProcessingMethod] = b"ASCII\0\0\0GPS"
    Image.fromarray(noise(16, 16)).save(tmp_path / "a.jpg", exif=exif.block(tags)[0])
    rewritten(read_picture(tmp_path / "a.jpg"), tmp_path / f"b{suffix}")
    found = types((tmp_path / f"b{suffix}").read_bytes())
    for tag in (MAKER_NOTE, ExifTags.Base.SceneType, ExifTags.Base.ComponentsConfiguration):
        assert found[EXIF_IFD, tag] == UNDEFINED
    assert found[GPS_IFD, ExifTags.GPS.GPSProcessingMethod] == UNDEFINED
    assert found[0, ExifTags.Base.Make] == ASCII
    with Image.open(tmp_path / f"b{suffix}") as picture:
        read = picture.getexif().get_ifd(ExifTags.IFD.Exif)
    assert read[MAKER_NOTE] == b"\0\1note" and float(read[ExifTags.Base.ExposureTime]) == 1 / 125


def with_long_note(path, length):
    tags = Image.Exif()
    tags[ExifTags.Base.Make] = "Camera"
    tags.get_ifd(ExifTags.IFD.Exif)[MAKER_NOTE] = b"n" * length
    Image.fromarray(noise(16, 16)).save(path, exif=exif.block(tags)[0])
    return read_picture(path)


def test_what_a_jpeg_does_not_hold_is_left_out_with_a_note(tmp_path):
    source = with_long_note(tmp_path / "a.webp", 100_000)
    rewritten(source, tmp_path / "b.jpg")
    with Image.open(tmp_path / "b.jpg") as picture:
        tags = picture.getexif()
    assert tags[ExifTags.Base.Make] == "Camera"
    assert MAKER_NOTE not in tags.get_ifd(ExifTags.IFD.Exif)
    (note,) = left_out(tmp_path / "b.jpg", source, "all")
    assert "MakerNote (too long)" in note
    for name in ("c.webp", "c.png"):
        rewritten(source, tmp_path / name)
        with Image.open(tmp_path / name) as picture:
            assert len(picture.getexif().get_ifd(ExifTags.IFD.Exif)[MAKER_NOTE]) == 100_000
        assert left_out(tmp_path / name, source, "all") == []
    assert left_out(tmp_path / "b.jpg", source, "label") == []


@pytest.mark.parametrize("length", [65_440, 65_470, 65_533, 65_600])
def test_the_limit_is_the_segments_own(tmp_path, length):
    rewritten(with_long_note(tmp_path / "a.png", length), tmp_path / "b.jpg")
    assert read_picture(tmp_path / "b.jpg").exif[ExifTags.Base.Make] == "Camera"


def test_a_very_long_text_of_a_generator_is_left_out_of_a_jpeg(tmp_path):
    text = "a portrait, " * 3_500 + "\nSteps: 30, Seed: 7"

    info = PngInfo()
    info.add_text("parameters", text)

    Image.fromarray(noise(16, 16)).save(tmp_path / "a.png", pnginfo=info)
    source = read_picture(tmp_path / "a.png")
    assert rewritten(source, tmp_path / "b.jpg").parameters is None
    assert "UserComment (too long)" in left_out(tmp_path / "b.jpg", source, "all")[0]
    assert rewritten(source, tmp_path / "b.webp").parameters == text
    assert rewritten(source, tmp_path / "b.png").parameters == text
    long = GENERATED | {"prompt": "white " * 8_000}
    write_generated(tmp_path / "c.jpg", noise(16, 16), Label(long))
    assert provenance.read(tmp_path / "c.jpg").generated


def test_values_that_cannot_be_written_are_left_out():
    tags = Image.Exif()
    tags[ExifTags.Base.Make] = "Camera"
    tags.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ISOSpeedRatings] = 2**40
    data, names = exif.block(tags)
    assert names == ["ISOSpeedRatings (damaged)"]
    again = Image.Exif()
    again.load(data)
    assert dict(again) == {ExifTags.Base.Make: "Camera"}
    assert exif.block(Image.Exif()) == (None, [])


RATIONAL = TiffImagePlugin.IFDRational


@pytest.mark.parametrize(
    ("x", "y", "unit", "expected"),
    [
        (300.0, 300.0, 2, (300, 300)),
        (100.0, 100.0, 3, (254, 254)),  # a centimetre
        (300.0, None, 2, None),
        (None, 300.0, 2, None),
        (4_294_967_295.0, 4_294_967_295.0, 2, None),
        (RATIONAL(0, 0), RATIONAL(300, 1), 2, None),
        (0.0, 0.0, 2, None),
        (1.0, 1.0, 1, None),  # no unit: only the pixels' shape
    ],
)
@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".png"])
def test_a_senseless_resolution_is_ignored(tmp_path, x, y, unit, expected, suffix):
    tags = Image.Exif()
    for tag, value in (
        (ExifTags.Base.XResolution, x),
        (ExifTags.Base.YResolution, y),
        (ExifTags.Base.ResolutionUnit, unit),
    ):
        if value is not None:
            tags[tag] = value
    path = tmp_path / "a.webp"
    Image.fromarray(noise(16, 16)).save(path, exif=tags.tobytes())
    source = read_picture(path)
    for found in (source.dpi, provenance.read(path).dpi):
        assert found is None if expected is None else found == pytest.approx(expected)
    again = rewritten(source, tmp_path / f"b{suffix}")
    if expected is not None:
        assert again.dpi == pytest.approx(expected, abs=0.1)


def test_places_in_the_picture_are_true_of_its_own_size_alone(tmp_path):
    tags = Image.Exif()
    own = tags.get_ifd(ExifTags.IFD.Exif)
    own[SUBJECT_AREA], own[ExifTags.Base.LensModel] = (8, 8, 4, 4), "50 mm"
    Image.fromarray(noise(16, 16)).save(tmp_path / "a.jpg", exif=tags)
    source = read_picture(tmp_path / "a.jpg")
    label = Label({"mcap": "1.0"})

    def carried(name: str, pixels: np.ndarray, source=source) -> dict[int, object]:
        write_picture(tmp_path / name, pixels, None, source, label)
        return dict(read_picture(tmp_path / name).exif.get_ifd(ExifTags.IFD.Exif))

    assert tuple(carried("same.png", source.pixels)[SUBJECT_AREA]) == (8, 8, 4, 4)
    larger = carried("larger.png", source.pixels.repeat(2, 0).repeat(2, 1))
    cut = carried("cut.png", source.pixels, source.reframed())
    assert SUBJECT_AREA not in larger and SUBJECT_AREA not in cut
    assert larger[ExifTags.Base.LensModel] == cut[ExifTags.Base.LensModel] == "50 mm"
