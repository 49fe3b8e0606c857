"""Pictures written with their labels, and with what their sources carried."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from mcap.images import a1111, provenance, xmp
from mcap.images.picture import read_picture
from mcap.images.provenance import Label
from mcap.images.write import write_generated, write_picture
from tests.support.pictures import GENERATED, profile, rewritten
from tests.support.restoring import noise

RECORD = {"schema": 1, "kind": "enhance", "mcap": "1.0"}
ENHANCED = provenance.ALGORITHMICALLY_ENHANCED

FORMATS = [".png", ".jpg", ".webp"]


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (24, 16, 3), dtype=np.uint8)


@pytest.mark.parametrize("quality", [90, 100])
def test_noise_is_written_as_jpeg_too(tmp_path, quality, monkeypatch):
    """It takes more bytes a pixel than Pillow's buffer has for a picture's own Huffman tables."""
    pixels = noise(300, 400)
    for limit in (provenance.IN_MEMORY, 0):
        monkeypatch.setattr(provenance, "IN_MEMORY", limit)
        write_generated(tmp_path / "a.jpg", pixels, Label({}, metadata="label"), quality=quality)
        with Image.open(tmp_path / "a.jpg") as written:
            assert written.size == (400, 300)
            error = np.abs(np.asarray(written).astype(int) - pixels).mean()
        assert error < 12 if quality == 90 else error < 2


# Pictures made from files


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_stay_sixteen_bits(tmp_path, suffix, channels):
    pixels = noise(20, 30, deep=True)
    alpha = noise(20, 30, deep=True, seed=1)[..., 0]
    shown = {1: pixels[..., 0], 3: pixels, 4: np.dstack([pixels, alpha])}[channels]
    stored = shown if channels == 1 else shown[..., [2, 1, 0, 3][:channels]]
    path = tmp_path / f"deep{suffix}"
    cv2.imwrite(str(path), stored)
    source = read_picture(path)
    assert source.pixels.dtype == np.uint16
    assert source.grey is (channels == 1)
    expected = np.repeat(shown[..., None], 3, axis=2) if channels == 1 else shown[..., :3]
    assert np.array_equal(source.pixels, expected)
    assert (source.alpha is None) is (channels < 4)
    result = rewritten(source, tmp_path / "out.png")
    assert np.array_equal(result.pixels, source.pixels)
    assert result.grey is source.grey
    assert channels < 4 or np.array_equal(result.alpha, alpha)
    # JPEG and WebP hold 8 bits: rounded, not cut.
    write_picture(tmp_path / "out.webp", pixels, None, source, Label(RECORD, ENHANCED), quality=100)
    eight = np.asarray(Image.open(tmp_path / "out.webp").convert("RGB"))
    if channels > 1:
        assert np.array_equal(eight, np.round(pixels / 257).astype(np.uint8))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_what_a_camera_and_a_photographer_wrote_is_kept(tmp_path, suffix):
    exif = Image.Exif()
    exif[ExifTags.Base.Artist] = "A. Photographer"
    exif[ExifTags.Base.XResolution] = exif[ExifTags.Base.YResolution] = 240.0
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExifImageWidth] = 30
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.LensModel] = "50 mm"
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = "N"
    packet = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
        b'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
        b'xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title><rdf:Alt><rdf:li xml:lang="en">'
        b"Spring</rdf:li></rdf:Alt></dc:title></rdf:Description></rdf:RDF></x:xmpmeta>"
    )
    path = tmp_path / "a.jpg"
    Image.fromarray(noise(20, 30)).save(
        path, exif=exif, icc_profile=profile(), xmp=packet, dpi=(240, 240)
    )
    source = read_picture(path)
    out = tmp_path / f"out{suffix}"
    larger = source.pixels.repeat(2, 0).repeat(2, 1)
    write_picture(out, larger, None, source, Label(RECORD, ENHANCED))
    with Image.open(out) as written:
        found = written.getexif()
        assert found[ExifTags.Base.Artist] == "A. Photographer"
        own = found.get_ifd(ExifTags.IFD.Exif)
        assert (own[ExifTags.Base.LensModel], own[ExifTags.Base.ExifImageWidth]) == ("50 mm", 60)
        assert found.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] == "N"
        assert written.info["icc_profile"] == profile()
        kept = written.info.get("xmp") or written.info["XML:com.adobe.xmp"]
        assert "Spring" in (kept.decode() if isinstance(kept, bytes) else kept)
    read = provenance.read(out)
    assert read.record == RECORD
    assert read.digital_source_type == ENHANCED
    assert read.dpi == pytest.approx((240, 240), abs=0.1)


def test_metadata_can_be_left_out_but_colours_cannot(tmp_path):
    path = tmp_path / "a.png"
    exif = Image.Exif()
    exif[ExifTags.Base.Artist] = "A. Photographer"
    Image.fromarray(noise(8, 8)).save(path, exif=exif, icc_profile=profile())
    source = read_picture(path)
    for metadata in ("label", "none"):
        out = tmp_path / f"{metadata}.png"
        rewritten(source, out, metadata=metadata)
        read = provenance.read(out)
        assert (read.record, read.digital_source_type) == (None, ENHANCED)
        with Image.open(out) as written:
            assert not written.getexif()
            assert written.info["icc_profile"] == profile()


def test_generated_pictures_keep_how_they_were_generated(tmp_path):
    texts = PngInfo()
    texts.add_text("parameters", "a portrait\nSteps: 30, Seed: 7")
    texts.add_text("mcap", '{"kind": "generate", "seed": 7}')
    texts.add_text("Author", "me")
    texts.add_itxt(
        "XML:com.adobe.xmp",
        xmp.packet({xmp.DIGITAL_SOURCE_TYPE: provenance.TRAINED_ALGORITHMIC_MEDIA}).decode(),
    )
    path = tmp_path / "a.png"
    Image.fromarray(noise(8, 8)).save(path, pnginfo=texts)
    source = read_picture(path)
    assert source.generated
    assert source.record == {"kind": "generate", "seed": 7}
    for suffix in (".png", ".jpg", ".webp"):
        out = tmp_path / f"out{suffix}"
        rewritten(source, out, source_type=provenance.TRAINED_ALGORITHMIC_MEDIA)
        read = provenance.read(out)
        assert read.parameters == "a portrait\nSteps: 30, Seed: 7"
        assert read.record == RECORD
        assert read.generated
    with Image.open(tmp_path / "out.png") as written:
        assert written.text["Author"] == "me"


# Pictures that were generated


@pytest.mark.parametrize("suffix", FORMATS)
def test_everything_comes_back(tmp_path, image, suffix):
    path = tmp_path / f"x{suffix}"
    write_generated(path, image, Label(GENERATED), dpi=(300.0, 300.0))
    found = provenance.read(path)
    assert found.record == GENERATED
    assert found.parameters == a1111.parameters_text(GENERATED)
    assert found.generated
    assert (found.width, found.height) == (16, 24)
    assert found.dpi == pytest.approx((300, 300), abs=0.01)
    assert [item.name for item in tmp_path.iterdir()] == [path.name]  # no temporary file is left


def test_png_pixels_are_the_pixels(tmp_path, image):
    write_generated(tmp_path / "x.png", image, Label(GENERATED))
    write_generated(tmp_path / "x.webp", image, Label(GENERATED), quality=100)
    for name in ("x.png", "x.webp"):
        with Image.open(tmp_path / name) as again:
            assert np.array_equal(np.asarray(again.convert("RGB")), image)


@pytest.mark.parametrize("suffix", FORMATS)
def test_label_keeps_the_mark_alone(tmp_path, image, suffix):
    path = tmp_path / f"x{suffix}"
    write_generated(path, image, Label(GENERATED, metadata="label"))
    found = provenance.read(path)
    assert found.generated and found.record is None and found.parameters is None
    data = path.read_bytes()
    assert b"rgen" not in data and b"mcap-id" not in data and b"0.1.0" not in data


@pytest.mark.parametrize("suffix", FORMATS)
def test_none_keeps_the_mark_alone(tmp_path, image, suffix):
    path = tmp_path / f"x{suffix}"
    write_generated(path, image, Label(GENERATED, metadata="none"))
    found = provenance.read(path)
    assert found.generated and found.record is None and found.parameters is None
    data = path.read_bytes()
    assert b"rgen" not in data and b"mcap-id" not in data and b"0.1.0" not in data


def test_where_other_programs_look(tmp_path, image):
    """Chunk names, the EXIF character code, and XMP as Pillow's own parser reads it."""
    write_generated(tmp_path / "x.png", image, Label(GENERATED))
    with Image.open(tmp_path / "x.png") as png:
        assert png.text["parameters"].startswith("a photo of")
        assert json.loads(png.text["mcap"]) == GENERATED
        assert "XML:com.adobe.xmp" in png.text
        description = png.getxmp()["xmpmeta"]["RDF"]["Description"]
    assert description["DigitalSourceType"].endswith("/trainedAlgorithmicMedia")
    write_generated(tmp_path / "x.jpg", image, Label(GENERATED))
    with Image.open(tmp_path / "x.jpg") as jpeg:
        comment = jpeg.getexif().get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment]
        assert comment.startswith(b"UNICODE\0")
        assert comment[8:].decode("utf-16-be") == a1111.parameters_text(GENERATED)
        assert jpeg.getxmp()["xmpmeta"]["RDF"]["Description"]["DigitalSourceType"]


def test_a_record_too_large_for_jpeg_leaves_the_mark(tmp_path, image):
    large = {**GENERATED, "note": "x" * 70_000}
    write_generated(tmp_path / "x.jpg", image, Label(large))
    found = provenance.read(tmp_path / "x.jpg")
    assert found.generated and found.record is None and found.parameters
    write_generated(tmp_path / "x.png", image, Label(large))
    assert provenance.read(tmp_path / "x.png").record == large


def test_a_record_must_be_json(tmp_path, image):
    with pytest.raises(ValueError):
        write_generated(tmp_path / "x.png", image, Label({**GENERATED, "similarity": float("nan")}))
    with pytest.raises(ValueError, match=r"'\.gif'"):
        write_generated(tmp_path / "x.gif", image, Label(GENERATED))
    assert list(tmp_path.iterdir()) == []
