"""Metadata round trips through Pillow, in each format and at each degree of privacy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from mcap import cli
from mcap.errors import InputRejectedError
from mcap.images import provenance

RECORD = {
    "schema": 1,
    "kind": "generate",
    "mcap": "0.1.0",
    "subject": {"name": "jürgen", "sha256": "00"},
    "profile": "passport",
    "prompt": "a photo of a <mcap-id> person,\nwhite & bright 日本",
    "negative_prompt": "hat, sunglasses",
    "seed": 42,
    "steps": 20,
    "guidance_scale": 7.0,
    "sampler": "DPM++ 2M Karras",
    "backbone": {"id": "demo", "revision": "local", "sha256": "abcdef0123456789"},
    "drawn_size": [256, 256],
    "size": [199, 256],
    "similarity": None,
}
FORMATS = [".png", ".jpg", ".webp"]


@pytest.fixture
def image() -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (24, 16, 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.mark.parametrize("suffix", FORMATS)
def test_everything_comes_back(tmp_path, image, suffix):
    path = tmp_path / f"x{suffix}"
    provenance.save(path, image, RECORD, dpi=(300.0, 300.0))
    found = provenance.read(path)
    assert found.record == RECORD
    assert found.parameters == provenance.parameters_text(RECORD)
    assert found.generated
    assert (found.width, found.height) == (16, 24)
    assert found.dpi == pytest.approx((300, 300), abs=0.01)
    assert [item.name for item in tmp_path.iterdir()] == [path.name]  # no temporary file is left


def test_png_pixels_are_the_pixels(tmp_path, image):
    provenance.save(tmp_path / "x.png", image, RECORD)
    provenance.save(tmp_path / "x.webp", image, RECORD, quality=100)
    for name in ("x.png", "x.webp"):
        with Image.open(tmp_path / name) as again:
            assert np.array_equal(np.asarray(again.convert("RGB")), np.asarray(image))


@pytest.mark.parametrize("suffix", FORMATS)
def test_label_keeps_the_mark_alone(tmp_path, image, suffix):
    path = tmp_path / f"x{suffix}"
    provenance.save(path, image, RECORD, metadata="label")
    found = provenance.read(path)
    assert found.generated and found.record is None and found.parameters is None
    data = path.read_bytes()
    assert b"rgen" not in data and b"mcap-id" not in data and b"0.1.0" not in data


@pytest.mark.parametrize("suffix", FORMATS)
def test_none_keeps_nothing(tmp_path, image, suffix):
    path = tmp_path / f"x{suffix}"
    provenance.save(path, image, RECORD, metadata="none")
    found = provenance.read(path)
    assert not found.generated and found.record is None and found.parameters is None
    assert b"mcap" not in path.read_bytes() and b"iptc" not in path.read_bytes()


def test_the_text_is_automatic1111s():
    assert provenance.parameters_text(RECORD) == (
        "a photo of a <mcap-id> person, white & bright 日本\n"
        "Negative prompt: hat, sunglasses\n"
        "Steps: 20, Sampler: DPM++ 2M Karras, CFG scale: 7, Seed: 42, Size: 256x256, "
        "Model hash: abcdef0123, Model: demo, Version: mcap 0.1.0"
    )
    bare = provenance.parameters_text({**RECORD, "negative_prompt": ""})
    assert "Negative" not in bare
    odd = {**RECORD, "backbone": {**RECORD["backbone"], "id": "a, b: c"}}
    assert 'Model: "a, b: c"' in provenance.parameters_text(odd)


def test_where_other_programs_look(tmp_path, image):
    """Chunk names, the EXIF character code, and XMP as Pillow's own parser reads it."""
    provenance.save(tmp_path / "x.png", image, RECORD)
    with Image.open(tmp_path / "x.png") as png:
        assert png.text["parameters"].startswith("a photo of")
        assert json.loads(png.text["mcap"]) == RECORD
        assert "XML:com.adobe.xmp" in png.text
        description = png.getxmp()["xmpmeta"]["RDF"]["Description"]
    assert description["DigitalSourceType"].endswith("/trainedAlgorithmicMedia")
    provenance.save(tmp_path / "x.jpg", image, RECORD)
    with Image.open(tmp_path / "x.jpg") as jpeg:
        comment = jpeg.getexif().get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment]
        assert comment.startswith(b"UNICODE\0")
        assert comment[8:].decode("utf-16-be") == provenance.parameters_text(RECORD)
        assert jpeg.getxmp()["xmpmeta"]["RDF"]["Description"]["DigitalSourceType"]


def test_a_record_too_large_for_jpeg_leaves_the_mark(tmp_path, image):
    large = {**RECORD, "note": "x" * 70_000}
    provenance.save(tmp_path / "x.jpg", image, large)
    found = provenance.read(tmp_path / "x.jpg")
    assert found.generated and found.record is None and found.parameters
    provenance.save(tmp_path / "x.png", image, large)
    assert provenance.read(tmp_path / "x.png").record == large


def test_a_record_must_be_json(tmp_path, image):
    with pytest.raises(ValueError):
        provenance.save(tmp_path / "x.png", image, {**RECORD, "similarity": float("nan")})
    with pytest.raises(ValueError, match=r"'\.gif'"):
        provenance.save(tmp_path / "x.gif", image, RECORD)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("source", "public"),
    [
        ("demo", "demo"),
        ("some-owner/some-model", "some-owner/some-model"),
        ("/home/jane/models/mine", "mine"),
        ("~/models/mine", "mine"),
        ("./mine", "mine"),
        ("../models/mine", "mine"),
        (r"C:\Users\jane\mine", "mine"),
        ("models/jane/mine", "mine"),
    ],
)  # fmt: skip
def test_names_without_folders(source, public):
    assert provenance.public_name(source) == public


# Files of others


def png_with(path: Path, image: Image.Image, **chunks: str) -> Path:
    info = PngInfo()
    for key, value in chunks.items():
        info.add_itxt(key.replace("_", ":"), value)
    image.save(path, pnginfo=info)
    return path


def test_a_plain_picture_says_nothing(tmp_path, image):
    image.save(tmp_path / "x.png")
    found = provenance.read(tmp_path / "x.png")
    assert (found.parameters, found.record, found.digital_source_type) == (None, None, None)


@pytest.mark.parametrize("text", ["{", "[1]", "null", '"x"'])
def test_a_damaged_record_is_none(tmp_path, image, text):
    assert provenance.read(png_with(tmp_path / "x.png", image, mcap=text)).record is None


@pytest.mark.parametrize(
    "packet",
    [
        "<broken",
        "",
        '<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>',
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"/>',
    ],
)
def test_a_damaged_packet_is_no_mark(tmp_path, image, packet):
    path = png_with(tmp_path / "x.png", image, XML_com="", **{"XML:com.adobe.xmp": packet})
    assert provenance.read(path).digital_source_type is None


def test_the_mark_as_an_attribute_is_read_too(tmp_path, image):
    packet = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
        'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
        'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
        f'Iptc4xmpExt:DigitalSourceType="{provenance.TRAINED_ALGORITHMIC_MEDIA}"/></rdf:RDF>'
        "</x:xmpmeta>"
    )
    path = png_with(tmp_path / "x.png", image, **{"XML:com.adobe.xmp": packet})
    assert provenance.read(path).generated


def test_no_picture_is_refused(tmp_path, image):
    (tmp_path / "x.png").write_text("text")
    with pytest.raises(InputRejectedError, match="not a PNG"):
        provenance.read(tmp_path / "x.png")
    with pytest.raises(InputRejectedError, match="no such file"):
        provenance.read(tmp_path / "y.png")
    with pytest.raises(InputRejectedError):
        provenance.read(tmp_path)


# The command


def test_inspect_prints_text_and_json(tmp_path, image, capsys):
    provenance.save(tmp_path / "x.jpg", image, RECORD)
    (tmp_path / "y.png").write_text("text")
    assert cli.run(["inspect", str(tmp_path / "x.jpg")]) == 0
    text = capsys.readouterr().out
    assert "generated by a trained model" in text and "Steps: 20" in text and "jürgen" in text
    assert cli.run(["inspect", "--json", str(tmp_path / "x.jpg"), str(tmp_path / "y.png")]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["pictures"][0]["record"] == RECORD and result["pictures"][0]["generated"]
    assert len(result["refused"]) == 1
    assert cli.run(["inspect", "--json", str(tmp_path / "y.png")]) == 3
    assert json.loads(capsys.readouterr().out)["refused"]
