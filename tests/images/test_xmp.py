"""XMP packets, read and written."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mcap.images import provenance, xmp
from mcap.images.picture import read_picture
from tests.support.pictures import png_with, rewritten

FORMATS = [".png", ".jpg", ".webp"]


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (24, 16, 3), dtype=np.uint8)


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


RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
MOTION = f'''<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{RDF}"><rdf:Description
 rdf:about="" xmlns:GCamera="http://ns.google.com/photos/1.0/camera/"
 xmlns:Container="http://ns.google.com/photos/1.0/container/"
 xmlns:Item="http://ns.google.com/photos/1.0/container/item/"
 xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" xmlns:tiff="http://ns.adobe.com/tiff/1.0/"
 xmlns:xmpNote="http://ns.adobe.com/xmp/note/" xmlns:dc="http://purl.org/dc/elements/1.1/"
 xmlns:mwg-rs="http://www.metadataworkinggroup.com/schemas/regions/"
 GCamera:MotionPhoto="1" GCamera:MotionPhotoVersion="1" GCamera:MicroVideoOffset="4000000"
 hdrgm:Version="1.0" xmpNote:HasExtendedXMP="0123" tiff:Orientation="6" tiff:Make="Google"
 dc:format="image/jpeg">
 <Container:Directory><rdf:Seq><rdf:li rdf:parseType="Resource"><Container:Item
  Item:Mime="video/mp4" Item:Semantic="MotionPhoto" Item:Length="4000000"/></rdf:li>
  <rdf:li rdf:parseType="Resource"><Container:Item Item:Semantic="GainMap" Item:Length="33423"/>
  </rdf:li></rdf:Seq></Container:Directory>
 <mwg-rs:Regions rdf:parseType="Resource"><mwg-rs:RegionList>left eye</mwg-rs:RegionList>
 </mwg-rs:Regions>
 <dc:creator><rdf:Seq><rdf:li>A. Photographer</rdf:li></rdf:Seq></dc:creator>
 </rdf:Description></rdf:RDF></x:xmpmeta>'''.encode()


@pytest.mark.parametrize("suffix", FORMATS)
def test_what_lay_behind_the_pixels_is_not_claimed_any_more(tmp_path, image, suffix):
    """A motion photo and a gain map are not in the file that mcap writes."""
    path = tmp_path / "a.jpg"
    Image.fromarray(image).save(path, xmp=MOTION)
    source = read_picture(path)
    rewritten(source, tmp_path / f"b{suffix}")
    kept = read_picture(tmp_path / f"b{suffix}").xmp.decode()
    for word in ("MotionPhoto", "MicroVideo", "GainMap", "hdr-gain-map", "4000000", "Extended"):
        assert word not in kept, word
    assert "Orientation" not in kept
    assert "A. Photographer" in kept and "Google" in kept and "left eye" in kept
    rewritten(source.reframed(), tmp_path / f"c{suffix}")
    cut = read_picture(tmp_path / f"c{suffix}").xmp.decode()
    assert "left eye" not in cut and "A. Photographer" in cut


def test_properties_as_elements_and_attributes():
    found = xmp.properties(MOTION)
    assert found["{http://ns.adobe.com/tiff/1.0/}Make"] == "Google"
    assert xmp.properties(None) == xmp.properties(b"<a") == {}
    one = {xmp.CREATOR_TOOL: "a < b & c"}
    assert xmp.properties(xmp.packet(one)) | one == xmp.properties(xmp.packet(one))


def test_entities_are_not_expanded():
    bomb = b'<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;">]>' + MOTION.replace(
        b"Google", b"&c;"
    )
    assert xmp.parsed(bomb) is None and xmp.properties(bomb) == {}
    assert xmp.packet({xmp.CREATOR_TOOL: "a"}, bomb) == xmp.packet({xmp.CREATOR_TOOL: "a"})
