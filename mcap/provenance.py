"""What a picture says about itself: how it was made, and that no camera took it.

Three things are written, each where other programs look for it:

* the text of AUTOMATIC1111's web UI (PNG chunk ``parameters``; EXIF UserComment in JPEG and WebP),
  which ComfyUI, Civitai and most viewers of generated pictures read;
* mcap's own record as JSON (PNG chunk ``mcap``; the property ``mcap:record`` in XMP elsewhere);
* XMP ``Iptc4xmpExt:DigitalSourceType`` = trainedAlgorithmicMedia, the IPTC's mark of a picture
  made by a generative model, which platforms read to label it (IPTC Photo Metadata Standard
  2023.1; PNG chunk ``XML:com.adobe.xmp``, JPEG APP1, WebP chunk ``XMP``).

A record holds names and hashes, never a path: what a file is called on its maker's disk is nobody
else's business. C2PA manifests have to be signed with a certificate that a program on the user's
own machine does not have, so mcap writes none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from mcap import atomic
from mcap.errors import InputRefused

FORMATS = {"png": ".png", "jpg": ".jpg", "webp": ".webp"}
METADATA = ("all", "label", "none")
Metadata = Literal["all", "label", "none"]
"""all: everything; label: only the mark that the picture is generated; none: nothing at all."""

TRAINED_ALGORITHMIC_MEDIA = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_IPTC_EXT = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
_XMP = "http://ns.adobe.com/xap/1.0/"
_MCAP = "urn:mcap:xmp:1#"
_PNG_XMP = "XML:com.adobe.xmp"
_JPEG_SEGMENT = 65_000  # bytes that an APP1 segment holds, less its headers

# The names under which AUTOMATIC1111 knows the samplers.
_SAMPLERS = {
    "DDIMScheduler": "DDIM",
    "DPMSolverMultistepScheduler": "DPM++ 2M",
    "DPMSolverSinglestepScheduler": "DPM++ 2S",
    "EulerAncestralDiscreteScheduler": "Euler a",
    "EulerDiscreteScheduler": "Euler",
    "HeunDiscreteScheduler": "Heun",
    "LCMScheduler": "LCM",
    "LMSDiscreteScheduler": "LMS",
    "PNDMScheduler": "PLMS",
    "UniPCMultistepScheduler": "UniPC",
}


@dataclass(frozen=True)
class Provenance:
    """What `read` found in a file; None or empty where there was nothing."""

    path: Path
    format: str  # Pillow's name: "PNG", "JPEG", "WEBP"
    width: int
    height: int
    parameters: str | None
    record: dict[str, Any] | None
    digital_source_type: str | None
    dpi: tuple[float, float] | None

    @property
    def generated(self) -> bool:
        """Whether the file is marked as made by a generative model."""
        return self.digital_source_type == TRAINED_ALGORITHMIC_MEDIA


def sampler_name(scheduler: Any) -> str:
    """AUTOMATIC1111's name of a diffusers scheduler; its class's own name where there is none."""
    name = type(scheduler).__name__
    sampler = _SAMPLERS.get(name, name.removesuffix("Scheduler"))
    config = getattr(scheduler, "config", {})
    karras = config.get("use_karras_sigmas", False)
    if name == "DPMSolverMultistepScheduler" and config.get("algorithm_type") == "sde-dpmsolver++":
        sampler = "DPM++ 2M SDE"
    return f"{sampler} Karras" if karras else sampler


def public_name(source: str) -> str:
    """A backbone's id or a subject's path without the folders of somebody's disk.

    Hub ids ("owner/name") and plain names stay; of a path only the last part is left.
    """
    text = str(source)
    windows, posix = PureWindowsPath(text), PurePosixPath(text)
    is_path = (
        posix.is_absolute()
        or windows.drive
        or "\\" in text
        or text.startswith(("~", "."))
        or text.count("/") > 1
        or Path(text).exists()
    )
    return windows.name if is_path else text


def parameters_text(record: Mapping[str, Any]) -> str:
    """A record as AUTOMATIC1111 writes it: prompt, negative prompt, then ``Key: value`` pairs."""
    backbone = record["backbone"]
    pairs = {
        "Steps": record["steps"],
        "Sampler": record["sampler"],
        "CFG scale": f"{record['guidance_scale']:g}",
        "Seed": record["seed"],
        "Size": "{}x{}".format(*record["drawn_size"]),
        "Model hash": backbone["sha256"][:10],
        "Model": backbone["id"],
        "Version": f"mcap {record['mcap']}",
    }
    loras = (f" <lora:{lora['name']}:{lora['weight']:g}>" for lora in record.get("loras", ()))
    lines = [_one_line(record["prompt"]) + "".join(loras)]
    if record.get("negative_prompt"):
        lines.append(f"Negative prompt: {_one_line(record['negative_prompt'])}")
    lines.append(", ".join(f"{key}: {_value(value)}" for key, value in pairs.items()))
    return "\n".join(lines)


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def _value(value: Any) -> str:
    text = str(value)
    return json.dumps(text) if re.search(r'[,:\n"]', text) else text


def xmp_packet(record: Mapping[str, Any] | None = None) -> bytes:
    """The XMP packet that marks a picture as generated, with mcap's record in it where given."""
    extra = ""
    if record is not None:
        extra = f"   <mcap:record>{escape(_json(record))}</mcap:record>\n"
    tool = ""
    if record is not None:
        tool = f"   <xmp:CreatorTool>{escape('mcap ' + str(record['mcap']))}</xmp:CreatorTool>\n"
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">\n'
        f' <rdf:RDF xmlns:rdf="{_RDF}">\n'
        f'  <rdf:Description rdf:about="" xmlns:Iptc4xmpExt="{_IPTC_EXT}"'
        f' xmlns:xmp="{_XMP}" xmlns:mcap="{_MCAP}">\n'
        f"   <Iptc4xmpExt:DigitalSourceType>{TRAINED_ALGORITHMIC_MEDIA}"
        "</Iptc4xmpExt:DigitalSourceType>\n"
        f"{tool}{extra}"
        "  </rdf:Description>\n </rdf:RDF>\n</x:xmpmeta>\n"
        '<?xpacket end="w"?>'
    ).encode()


def _json(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def save(
    path: Path,
    image: Image.Image,
    record: Mapping[str, Any],
    *,
    metadata: Metadata = "all",
    quality: int = 95,
    dpi: tuple[float, float] | None = None,
) -> None:
    """Write a picture whole or not at all; the suffix of ``path`` says the format.

    ``record`` is JSON-serialisable, with the keys that `parameters_text` reads. ``quality`` is for
    JPEG and WebP (100 in WebP is lossless), ``dpi`` pixels an inch (horizontal, vertical).
    """
    suffix = path.suffix.lower()
    if suffix not in FORMATS.values():
        known = ", ".join(FORMATS.values())
        raise ValueError(f"cannot write '{suffix}' pictures; the formats are {known}")
    options: dict[str, Any] = {}
    if dpi is not None and suffix != ".webp":  # WebP has no place for it outside EXIF
        options["dpi"] = dpi
    if suffix == ".png":
        options |= {"pnginfo": _png_chunks(record, metadata), "optimize": True}
    else:
        options |= _segments(record, metadata, suffix, dpi)
        options["quality"] = quality
        if suffix == ".jpg":
            options |= {"subsampling": 0, "optimize": True}
        else:
            options |= {"lossless": quality >= 100, "method": 4}
    atomic.write_with(path, lambda temporary: image.save(temporary, **options))


def _png_chunks(record: Mapping[str, Any], metadata: Metadata) -> PngInfo:
    chunks = PngInfo()
    if metadata == "all":
        # add_text takes iTXt by itself for what Latin-1 cannot hold.
        chunks.add_text("parameters", parameters_text(record))
        chunks.add_text("mcap", _json(record))
    if metadata != "none":
        # The record has a chunk of its own here, so the packet carries the mark alone.
        chunks.add_itxt(_PNG_XMP, xmp_packet().decode())
    return chunks


def _segments(
    record: Mapping[str, Any], metadata: Metadata, suffix: str, dpi: tuple[float, float] | None
) -> dict[str, Any]:
    options: dict[str, Any] = {}
    exif = Image.Exif()
    if dpi is not None and suffix == ".webp":
        exif[ExifTags.Base.XResolution], exif[ExifTags.Base.YResolution] = dpi
        exif[ExifTags.Base.ResolutionUnit] = 2  # inches
    if metadata == "all":
        # EXIF 2.3, UserComment: eight bytes name the character code, then UTF-16; big endian, as
        # AUTOMATIC1111 (through piexif) writes and reads it.
        comment = b"UNICODE\0" + parameters_text(record).encode("utf-16-be")
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = comment
    if len(exif) or exif.get_ifd(ExifTags.IFD.Exif):
        options["exif"] = exif
    if metadata != "none":
        packet = xmp_packet(record if metadata == "all" else None)
        if suffix == ".jpg" and len(packet) > _JPEG_SEGMENT:
            packet = xmp_packet()  # a JPEG segment ends at 64 KB; the mark is what must be there
        options["xmp"] = packet
    return options


def read(path: Path) -> Provenance:
    """Everything that `save` wrote, from PNG, JPEG or WebP.

    Raises `InputRefused` for what is no picture. A picture of another program gives what it has:
    AUTOMATIC1111's text and the IPTC mark are read whoever wrote them; a damaged record is None.
    """
    try:
        with Image.open(path, formats=("PNG", "JPEG", "WEBP")) as picture:
            info = dict(picture.info)
            exif = picture.getexif()
            kind, (width, height) = picture.format or "?", picture.size
            comment = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment)
    except FileNotFoundError:
        raise InputRefused(f"{path}: no such file.") from None
    except UnidentifiedImageError:
        raise InputRefused(f"{path}: not a PNG, JPEG or WebP picture.") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise InputRefused(f"{path}: the picture cannot be read ({error}).") from None
    packet = info.get(_PNG_XMP) or info.get("xmp")
    properties = _xmp_properties(packet)
    dpi = info.get("dpi")
    if dpi is None and ExifTags.Base.XResolution in exif:
        dpi = (exif[ExifTags.Base.XResolution], exif[ExifTags.Base.YResolution])
    return Provenance(
        path=Path(path),
        format=kind,
        width=width,
        height=height,
        parameters=_text(info.get("parameters")) or _user_comment(comment),
        record=_record(info.get("mcap") or properties.get(f"{{{_MCAP}}}record")),
        digital_source_type=properties.get(f"{{{_IPTC_EXT}}}DigitalSourceType"),
        dpi=(float(dpi[0]), float(dpi[1])) if dpi else None,
    )


def _text(value: Any) -> str | None:
    return str(value) if value else None


def _user_comment(value: Any) -> str | None:
    if not isinstance(value, bytes) or len(value) <= 8:
        return None
    code, text = value[:8], value[8:]
    if code == b"UNICODE\0":
        return text.decode("utf-16-be", errors="replace").rstrip("\0") or None
    return text.decode("utf-8", errors="replace").strip("\0 ") or None


def _record(value: Any) -> dict[str, Any] | None:
    if not value:
        return None
    try:
        record = json.loads(str(value))
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _xmp_properties(packet: Any) -> dict[str, str]:
    """The simple properties of an XMP packet, as elements or as attributes: "{ns}name" -> text."""
    if not packet:
        return {}
    text = packet.decode("utf-8", errors="replace") if isinstance(packet, bytes) else str(packet)
    # A document type is never part of XMP; refusing it leaves no entities to expand.
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        return {}
    text = re.sub(r"<\?xpacket.*?\?>", "", text, flags=re.DOTALL).strip("\ufeff\0 \n\r\t")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError:
        return {}
    found: dict[str, str] = {}
    for description in root.iter(f"{{{_RDF}}}Description"):
        found |= dict(description.attrib)
        for item in description:
            value = item.get(f"{{{_RDF}}}resource") or (item.text or "").strip()
            if value:
                found[item.tag] = value
    return found
