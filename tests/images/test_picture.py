"""Pictures with everything their files carry: in, and out again."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from mcap.errors import InputRejectedError
from mcap.images import provenance
from mcap.images.photo import PhotoSettings
from mcap.images.picture import on_white, read_picture, size_of, to_eight_bits, write_picture
from tests.support.restoring import noise

RECORD = {"schema": 1, "kind": "enhance", "mcap": "1.0"}
ENHANCED = provenance.ALGORITHMICALLY_ENHANCED


def profile(name: str = "sRGB") -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile(name)).tobytes()


def again(source, path, **options):
    """Written as it was read."""
    options = {"source_type": ENHANCED, **options}
    write_picture(path, source.pixels, source.alpha, source, RECORD, **options)
    return read_picture(path)


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
    result = again(source, tmp_path / "out.png")
    assert np.array_equal(result.pixels, source.pixels)
    assert result.grey is source.grey
    assert channels < 4 or np.array_equal(result.alpha, alpha)
    # JPEG and WebP hold 8 bits: rounded, not cut.
    write_picture(
        tmp_path / "out.webp", pixels, None, source, RECORD, source_type=ENHANCED, quality=100
    )
    eight = np.asarray(Image.open(tmp_path / "out.webp").convert("RGB"))
    if channels > 1:
        assert np.array_equal(eight, np.round(pixels / 257).astype(np.uint8))


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
    result = again(source, tmp_path / "out.png")
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
    stored = Image.fromarray(upright)
    if orientation > 1:
        from mcap.images.photo import TRANSPOSE

        stored = stored.transpose(TRANSPOSE[back[orientation]])
    stored.save(path, exif=exif)
    assert size_of(path) == (30, 20)
    source = read_picture(path)
    assert np.array_equal(source.pixels, upright)
    result = again(source, tmp_path / "out.png")
    assert np.array_equal(result.pixels, upright)
    with Image.open(tmp_path / "out.png") as written:
        assert ExifTags.Base.Orientation not in written.getexif()


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
    write_picture(out, larger, None, source, RECORD, source_type=ENHANCED)
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
    for metadata, mark in (("label", ENHANCED), ("none", None)):
        out = tmp_path / f"{metadata}.png"
        again(source, out, metadata=metadata)
        read = provenance.read(out)
        assert (read.record, read.digital_source_type) == (None, mark)
        with Image.open(out) as written:
            assert not written.getexif()
            assert written.info["icc_profile"] == profile()


def test_generated_pictures_keep_how_they_were_generated(tmp_path):
    texts = PngInfo()
    texts.add_text("parameters", "a portrait\nSteps: 30, Seed: 7")
    texts.add_text("mcap", '{"kind": "generate", "seed": 7}')
    texts.add_text("Author", "me")
    texts.add_itxt("XML:com.adobe.xmp", provenance.xmp_packet().decode())
    path = tmp_path / "a.png"
    Image.fromarray(noise(8, 8)).save(path, pnginfo=texts)
    source = read_picture(path)
    assert source.generated
    assert source.record == {"kind": "generate", "seed": 7}
    for suffix in (".png", ".jpg", ".webp"):
        out = tmp_path / f"out{suffix}"
        again(source, out, source_type=provenance.TRAINED_ALGORITHMIC_MEDIA)
        read = provenance.read(out)
        assert read.parameters == "a portrait\nSteps: 30, Seed: 7"
        assert read.record == RECORD
        assert read.generated
    with Image.open(tmp_path / "out.png") as written:
        assert written.text["Author"] == "me"


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


def test_transparent_on_white_and_eight_bits():
    pixels = np.full((70, 2, 3), 1000, np.uint16)
    alpha = np.zeros((70, 2), np.uint16)
    alpha[:, 1] = 65535
    laid = on_white(pixels, alpha)
    assert (laid[:, 0] == 65535).all()
    assert (laid[:, 1] == 1000).all()
    every = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    assert np.array_equal(to_eight_bits(every), np.round(every / 257).astype(np.uint8))
