"""Small pictures, and files of them."""

from __future__ import annotations

import functools
import io
import struct
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from mcap.images import provenance
from mcap.images.picture import PictureFile, read_picture
from mcap.images.provenance import Label
from mcap.images.write import write_picture

GENERATED = {
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


def gradient(height: int = 48, width: int = 64) -> np.ndarray:
    """uint8[height, width, 3]: red from left to right, green from top to bottom."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 / (width - 1), y * 255 / (height - 1), 0 * x + 90], -1).astype(
        np.uint8
    )


def saved(path: Path, image: Image.Image, **options) -> Path:
    """The picture written to ``path``."""
    image.save(path, **options)
    return path


@functools.cache  # the time when it was made is in it
def profile(name: str = "sRGB") -> bytes:
    """A colour profile of LittleCMS."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile(name)).tobytes()


def rewritten(source: PictureFile, path: Path, **options) -> PictureFile:
    """A picture written as it was read, and read again."""
    words = {
        "source_type": options.pop("source_type", provenance.ALGORITHMICALLY_ENHANCED),
        "metadata": options.pop("metadata", "all"),
    }
    record = {"schema": 1, "kind": "enhance", "mcap": "1.0"}
    write_picture(path, source.pixels, source.alpha, source, Label(record, **words), **options)
    return read_picture(path)


def png_with(path: Path, image: np.ndarray, **chunks: str) -> Path:
    info = PngInfo()
    for key, value in chunks.items():
        info.add_itxt(key.replace("_", ":"), value)
    Image.fromarray(image).save(path, pnginfo=info)
    return path


SECRETS = ("SN-4711", "48.137", "Marienplatz", "Munich", "maker-secret", "Jane Doe", "/home/jane")

PACKET = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
    'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description xmlns:exif="http://ns.adobe.com/exif/1.0/" '
    'xmlns:aux="http://ns.adobe.com/exif/1.0/aux/" xmlns:dc="http://purl.org/dc/elements/1.1/" '
    'xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/" '
    'xmlns:dji="http://www.dji.com/drone-dji/1.0/" '
    'xmlns:ext="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    'xmlns:mm="http://ns.adobe.com/xap/1.0/mm/" '
    'xmlns:ref="http://ns.adobe.com/xap/1.0/sType/ResourceRef#" '
    'exif:GPSLatitude="48.137N" aux:SerialNumber="SN-4711" photoshop:City="Munich" '
    'dji:GpsLongitude="48.137" aux:Lens="50 mm">'
    "<exif:BodySerialNumber>SN-4711</exif:BodySerialNumber>"
    "<aux:OwnerName>Jane Doe</aux:OwnerName>"
    "<ext:LocationCreated><rdf:Bag><rdf:li><rdf:Description><ext:Sublocation>Marienplatz"
    "</ext:Sublocation></rdf:Description></rdf:li></rdf:Bag></ext:LocationCreated>"
    '<mm:DerivedFrom><rdf:Description ref:filePath="/home/jane/a.jpg"/></mm:DerivedFrom>'
    "<dc:rights>A. Photographer</dc:rights>"
    "</rdf:Description></rdf:RDF></x:xmpmeta>"
)


def telling(path: Path, image: np.ndarray) -> Path:
    """Write a photo that says where, by whom and with which device it was taken."""
    tags = Image.Exif()
    tags[ExifTags.Base.Artist], tags[ExifTags.Base.Model] = "A. Photographer", "Camera"
    tags[ExifTags.Base.HostComputer] = "Jane Doe's phone"
    own, gps = tags.get_ifd(ExifTags.IFD.Exif), tags.get_ifd(ExifTags.IFD.GPSInfo)
    own[ExifTags.Base.MakerNote] = b"maker-secret"
    own[ExifTags.Base.LensModel] = "50 mm"
    own[ExifTags.Base.BodySerialNumber] = own[ExifTags.Base.LensSerialNumber] = "SN-4711"
    own[ExifTags.Base.CameraOwnerName] = "Jane Doe"
    own[ExifTags.Base.ImageUniqueID] = "SN-4711"
    gps[ExifTags.GPS.GPSLatitudeRef], gps[ExifTags.GPS.GPSLatitude] = "N", (48.0, 8.0, 13.2)
    gps[ExifTags.GPS.GPSProcessingMethod] = b"Marienplatz"
    picture = Image.fromarray(image)
    if path.suffix == ".png":
        texts = PngInfo()
        texts.add_itxt("XML:com.adobe.xmp", PACKET)
        texts.add_text("Author", "A. Photographer")
        texts.add_text("Raw profile type exif2", "SN-4711")
        texts.add_text("exif:GPSLatitude", "48.137")
        texts.add_text("Thumb::URI", "file:///home/jane/a.png")
        picture.save(path, exif=tags, pnginfo=texts)
    else:
        picture.save(path, exif=tags, xmp=PACKET.encode())
    return path


def heic_of_tiles(image: np.ndarray, width: int, height: int) -> bytes:
    """A HEIC as telephones write them: a grid of tiles, each of which is the uint8[S, S, 3] that is
    given (ISO/IEC 23008-12, section 6.6.2.3). S is a multiple of 8."""
    import pillow_heif

    file = io.BytesIO()
    heif = pillow_heif.from_bytes("RGB", image.shape[1::-1], image.tobytes())
    heif.save(file, quality=60)
    single = file.getvalue()

    def box(kind: bytes, *parts: bytes) -> bytes:
        data = b"".join(parts)
        return struct.pack(">I4s", 8 + len(data), kind) + data

    def found(kind: bytes) -> bytes:
        place = single.index(kind) - 4
        return single[place : place + struct.unpack_from(">I", single, place)[0]]

    side = len(image)
    columns, rows = -(-width // side), -(-height // side)
    grid = columns * rows + 1
    tiles = range(1, grid)
    coded = found(b"mdat")[8:]
    how = struct.pack(">BBBBII", 0, 1, rows - 1, columns - 1, width, height)
    full = bytes(4)  # version and flags
    size = box(b"ispe", full, struct.pack(">II", width, height))
    shared = [found(kind) for kind in (b"hvcC", b"colr", b"ispe", b"pixi")]
    owners = [struct.pack(">HB4B", tile, 4, 0x81, 2, 3, 4) for tile in tiles]
    owners.append(struct.pack(">HB3B", grid, 3, 5, 2, 4))
    kinds = [(tile, b"hvc1") for tile in tiles] + [(grid, b"grid")]

    def meta(start: int) -> bytes:
        places = [(tile, start, len(coded)) for tile in tiles]
        places.append((grid, start + len(coded), len(how)))
        extents = [struct.pack(">HHHII", one, 0, 1, at, length) for one, at, length in places]
        infos = [
            box(b"infe", b"\2\0\0\0", struct.pack(">HH4sB", one, 0, kind, 0)) for one, kind in kinds
        ]
        needs = box(b"dimg", struct.pack(f">HH{len(tiles)}H", grid, len(tiles), *tiles))
        return box(
            *(b"meta", full, found(b"hdlr"), box(b"pitm", full, struct.pack(">H", grid))),
            box(b"iloc", full, b"\x44\0", struct.pack(">H", len(extents)), *extents),
            box(b"iinf", full, struct.pack(">H", len(infos)), *infos),
            box(b"iref", full, needs),
            box(
                b"iprp",
                box(b"ipco", *shared, size),
                box(b"ipma", full, struct.pack(">I", len(owners)), *owners),
            ),
        )

    head = found(b"ftyp")
    start = len(head) + len(meta(0)) + 8
    return head + meta(start) + box(b"mdat", coded, how)
