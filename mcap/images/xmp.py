"""XMP packets: simple properties read from them, and written into a new one beside what was there.

Source: XMP Specification Part 1 (ISO 16684-1). XML of strangers is parsed by defusedxml, which
expands no entities.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from xml.etree.ElementTree import Element
from xml.sax.saxutils import escape

from defusedxml import DefusedXmlException, ElementTree  # type: ignore[import-untyped]  # no stubs

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
NAMESPACES = {
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "mcap": "urn:mcap:xmp:1#",
}
DIGITAL_SOURCE_TYPE = f"{{{NAMESPACES['Iptc4xmpExt']}}}DigitalSourceType"
CREATOR_TOOL = f"{{{NAMESPACES['xmp']}}}CreatorTool"
RECORD = f"{{{NAMESPACES['mcap']}}}record"

_EXIF, _TIFF = "http://ns.adobe.com/exif/1.0/", "http://ns.adobe.com/tiff/1.0/"
_CAMERA = "http://ns.google.com/photos/1.0/camera/"

OF_THE_FILE = re.compile(
    "|".join(
        (
            # What lay in the file behind or beside the picture: a video, a depth or gain map, a
            # second packet, a thumbnail.
            re.escape(f"{{{_CAMERA}}}") + "(MotionPhoto|MicroVideo).*",
            r"\{http://ns\.google\.com/photos/(1\.0|dd/1\.0)/(container|device|depthmap|image|audio)/"
            r".*\}.*",
            r"\{http://ns\.google\.com/photos/1\.0/(container|depthmap|image|audio)/\}.*",
            r"\{http://ns\.(adobe\.com/hdr-gain-map|apple\.com/(HDRGainMap|pixeldatainfo))/.*\}.*",
            r"\{http://ns\.adobe\.com/xmp/note/\}HasExtendedXMP",
            re.escape(f"{{{NAMESPACES['xmp']}}}") + "Thumbnails",
            # How its pixels lay there; here they are upright and of another size.
            re.escape(f"{{{_TIFF}}}") + "(Orientation|ImageWidth|ImageLength|[XY]Resolution)",
            re.escape(f"{{{_EXIF}}}") + "Pixel[XY]Dimension",
        )
    )
)
"""Properties that are true of the file they were read from alone."""

POSITIONS = re.compile(
    "|".join(
        (
            re.escape(f"{{{_EXIF}}}") + "Subject(Area|Location)",
            r"\{http://www\.metadataworkinggroup\.com/schemas/regions/\}.*",
            r"\{http://ns\.microsoft\.com/photo/1\.2/\}RegionInfo",
            re.escape(f"{{{NAMESPACES['Iptc4xmpExt']}}}") + "ImageRegion",
            r"\{http://ns\.google\.com/photos/1\.0/panorama/\}.*",
        )
    )
)
"""Places of faces and things in the picture, which lie elsewhere in one that was cut."""


PRIVATE: Mapping[str, re.Pattern[str]] = MappingProxyType(
    {
        what: re.compile(rf"\{{[^}}]*\}}({names})", re.IGNORECASE)
        for what, names in {
            "location": ".*GPS.*|Location.*|City|State|Country.*|Province.*|Sub-?location",
            "serial numbers": ".*Serial(Number)?|.*ImageUniqueID|.*RawDataUniqueID",
            "maker notes": ".*MakerNotes?|.*PrivateData",
            "owner's name": "(Camera)?OwnerName",
            "thumbnails": "Thumbnails?.*",
            # References to other files, with their paths on somebody's disk.
            "paths": "DerivedFrom|ManagedFrom|Ingredients|Pantry|Manifest|filePath|RawFileName",
        }.items()
    }
)
"""What a photo gives away of its maker -> names of the properties, whatever their namespace: camera
makers and programs have several of their own."""


def packet(values: Mapping[str, str], keep: bytes | None = None) -> bytes:
    """Return a packet of simple properties, "{namespace}name" -> text, of `NAMESPACES`.

    ``keep`` is a packet whose other properties stay, as long as it can be read and they are still
    true (`OF_THE_FILE`).
    """
    prefixes = {namespace: prefix for prefix, namespace in NAMESPACES.items()}
    lines = []
    for qualified, value in values.items():
        namespace, name = qualified[1:].split("}")
        name = f"{prefixes[namespace]}:{name}"
        lines.append(f"   <{name}>{escape(value)}</{name}>\n")
    ours = {DIGITAL_SOURCE_TYPE, CREATOR_TOOL, RECORD}
    kept = descriptions(keep, lambda name: name in ours or OF_THE_FILE.fullmatch(name) is not None)
    declared = " ".join(f'xmlns:{prefix}="{name}"' for prefix, name in NAMESPACES.items())
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">\n'
        f' <rdf:RDF xmlns:rdf="{RDF}">\n'
        f'  <rdf:Description rdf:about="" {declared}>\n'
        f"{''.join(lines)}"
        f"  </rdf:Description>\n{kept} </rdf:RDF>\n</x:xmpmeta>\n"
        '<?xpacket end="w"?>'
    ).encode()


def without_private(keep: bytes | None) -> tuple[bytes | None, set[str]]:
    """Return a packet without `PRIVATE`, at any depth, and what was left out, in words.

    The packet is None where nothing else is in it, or where it cannot be read.
    """
    root = parsed(keep)
    found: set[str] = set()
    if root is None:
        return None, found

    def gives_away(name: str) -> bool:
        what = {what for what, names in PRIVATE.items() if names.fullmatch(name)}
        found.update(what)
        return bool(what)

    for element in list(root.iter()):
        for name in [name for name in element.attrib if gives_away(name)]:
            del element.attrib[name]
        for item in [item for item in element if gives_away(str(item.tag))]:
            element.remove(item)
    return ElementTree.tostring(root, encoding="utf-8"), found


def without_positions(keep: bytes | None) -> bytes | None:
    """Return a packet without `POSITIONS`; None where nothing else is in it."""
    kept = descriptions(keep, lambda name: POSITIONS.fullmatch(name) is not None)
    if not kept:
        return None
    return (
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{RDF}">\n{kept}'
        "</rdf:RDF></x:xmpmeta>"
    ).encode()


def descriptions(keep: bytes | None, unwanted: Callable[[str], bool]) -> str:
    """Return the Descriptions of a packet as XML, without properties of ``unwanted`` names."""
    root = parsed(keep)
    if root is None:
        return ""
    texts = []
    for description in root.iterfind(f".//{{{RDF}}}RDF/{{{RDF}}}Description"):
        for name in [name for name in description.attrib if unwanted(name)]:
            del description.attrib[name]
        for item in [item for item in description if unwanted(item.tag)]:
            description.remove(item)
        if len(description) or set(description.attrib) - {f"{{{RDF}}}about"}:
            description.tail = "\n"
            texts.append(ElementTree.tostring(description, encoding="unicode"))
    return "".join(texts)


def properties(keep: bytes | str | None) -> dict[str, str]:
    """Return a packet's simple properties, elements and attributes alike.

    By "{namespace}name". Empty for a packet that cannot be read.
    """
    root = parsed(keep)
    found: dict[str, str] = {}
    for description in () if root is None else root.iter(f"{{{RDF}}}Description"):
        found |= dict(description.attrib)
        for item in description:
            value = item.get(f"{{{RDF}}}resource") or (item.text or "").strip()
            if value:
                found[item.tag] = value
    return found


def parsed(keep: bytes | str | None) -> Element | None:
    """Return a packet's root element; None for none, for broken XML and for one with a DTD."""
    if not keep:
        return None
    text = keep.decode("utf-8", errors="replace") if isinstance(keep, bytes) else str(keep)
    text = re.sub(r"<\?xpacket.*?\?>", "", text, flags=re.DOTALL).strip("\ufeff\0 \n\r\t")
    try:
        root: Element = ElementTree.fromstring(text, forbid_dtd=True)
    except (ElementTree.ParseError, DefusedXmlException):
        return None
    return root
