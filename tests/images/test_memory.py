"""No picture takes more memory than its kind may: read off the head, before anything is decoded."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from mcap.errors import InputRejectedError
from mcap.images.open import PHOTO_MEMORY, PICTURE_MEMORY, PhotoSettings, opened
from tests.support import ROOT
from tests.support.pictures import gradient, heic_of_tiles

CHILD = """
import json, sys
from pathlib import Path
import cv2, numpy, PIL.Image, pillow_heif
from mcap.images.photo import read_photo
from mcap.images.picture import read_picture
PIL.Image.init(), pillow_heif.register_heif_opener()
def held():
    status = Path("/proc/self/status").read_text()
    return [int(status.partition(key)[2].split()[0]) * 1024 for key in ("VmRSS:", "VmHWM:")]
found = {}
for read in (read_photo, read_picture):
    Path("/proc/self/clear_refs").write_text("5")
    before = held()[0]
    result = read(Path(sys.argv[1]))
    found[read.__name__] = held()[1] - before
    del result
print(json.dumps(found))
"""

WIDTH, HEIGHT = 6000, 4500

KINDS = {
    "rgb.png": ("RGB", {"compress_level": 1}),
    "rgba.png": ("RGBA", {"compress_level": 1}),
    "palette.png": ("P", {"compress_level": 1, "transparency": 0}),
    "grey16.png": ("I;16", {"compress_level": 1}),
    "cmyk.jpg": ("CMYK", {"progressive": True, "subsampling": 0}),
    "float.tiff": ("F", {"compression": "tiff_lzw"}),
    "lossless.webp": ("RGBA", {"lossless": True, "method": 0}),
    "a.gif": ("P", {}),
}

OTHERS = {
    "deep.png": lambda: cv2.imencode(".png", np.zeros((HEIGHT, WIDTH, 3), np.uint16))[1].tobytes(),
    "tiles.heic": lambda: heic_of_tiles(gradient(512, 512), WIDTH, HEIGHT),
}
"""What Pillow does not write: 16 bits a colour, and a telephone's HEIC."""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read off /proc")
@pytest.mark.parametrize("name", [*KINDS, *OTHERS])
def test_what_a_picture_takes_is_known_beforehand(tmp_path, name):
    path = tmp_path / name
    if name in OTHERS:
        path.write_bytes(OTHERS[name]())
    else:
        mode, options = KINDS[name]
        Image.new(mode, (WIDTH, HEIGHT)).save(path, **options)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(path)],
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    measured = json.loads(done.stdout)
    with opened(path, PhotoSettings()) as (data, picture):
        for reader, memory in (("read_photo", PHOTO_MEMORY), ("read_picture", PICTURE_MEMORY)):
            known = memory.of(picture, len(data), picture.size)
            # What does not grow with the picture: tables, the allocator's leftovers.
            assert measured[reader] < known + 48 * 2**20, (reader, measured[reader], known)


@pytest.mark.parametrize(
    ("kind", "size", "takers"),
    [
        ("RGB", (10_000, 12_000), "photo picture"),  # of a telephone of 108 megapixels, as PNG
        ("RGB", (12_000, 12_000), "photo"),
        ("RGB", (13_000, 12_000), ""),
        ("RGBA", (10_000, 10_000), "photo picture"),
        ("RGBA", (11_000, 11_000), ""),
        ("L", (11_000, 10_000), "photo picture"),
        ("L", (15_000, 11_000), "photo"),
    ],
)
def test_larger_ones_are_refused_by_their_heads(tmp_path, kind, size, takers):
    """``takers``: the readers that take it."""
    path = tmp_path / "a.png"
    path.write_bytes(head_of_png(*size, kind))
    look_at(path, takers)


@pytest.mark.parametrize(("size", "takers"), [((9_000, 7_800), "photo picture"),
                                              ((9_000, 8_200), "photo")])  # fmt: skip
@pytest.mark.parametrize("kind", ["L", "RGB"])
def test_sixteen_bits_a_channel_take_twice_as_much_where_they_are_kept(
    tmp_path, kind, size, takers
):
    path = tmp_path / "a.png"
    path.write_bytes(head_of_png(*size, kind, depth=16))
    look_at(path, takers)


def look_at(path: Path, takers: str) -> None:
    for name, memory in (("photo", PHOTO_MEMORY), ("picture", PICTURE_MEMORY)):
        with opened(path, PhotoSettings()) as (data, picture):
            if name in takers.split():
                memory.require(path, picture, len(data), picture.size)
            else:
                with pytest.raises(InputRejectedError, match="save a smaller copy"):
                    memory.require(path, picture, len(data), picture.size)


def head_of_png(width: int, height: int, kind: str = "RGB", *more: bytes, depth: int = 8) -> bytes:
    """A PNG without its pixels."""
    colour = {"L": 0, "RGB": 2, "RGBA": 6}[kind]
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", head), *more, chunk(b"IDAT", zlib.compress(bytes(100)))]
    )


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def tiff(width: int, height: int, tile: int) -> bytes:
    """A grey TIFF of one compressed tile."""
    data = zlib.compress(bytes(64))
    tags = [
        *((256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 8), (262, 3, 1), (277, 3, 1)),
        *((322, 4, tile), (323, 4, tile), (324, 4, 8), (325, 4, len(data))),
    ]
    where = 8 + len(data)
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return (
        b"II*\0"
        + struct.pack("<I", where)
        + data
        + struct.pack("<H", len(tags))
        + entries
        + b"\0" * 4
    )


def bombs() -> dict[str, bytes]:
    """Files of at most a few megabytes that would unpack to gigabytes."""
    packed = zlib.compress(bytes(2**30), 9)
    small = Image.new("RGB", (64, 64))
    jpeg = io.BytesIO()
    small.save(jpeg, "JPEG")
    webp = io.BytesIO()
    frames = [Image.new("RGBA", (64, 64), (index, 0, 0, 255)) for index in range(600)]
    frames[0].save(webp, "WEBP", save_all=True, append_images=frames[1:], method=0)
    return {
        "pixels.png": head_of_png(60_000, 60_000),
        "ztxt.png": head_of_png(64, 64, "RGB", chunk(b"zTXt", b"Comment\0\0" + packed)),
        "itxt.png": head_of_png(64, 64, "RGB", chunk(b"iTXt", b"Comment\0\1\0\0\0" + packed)),
        "iccp.png": head_of_png(64, 64, "RGB", chunk(b"iCCP", b"ICC\0\0" + packed)),
        "pixels.jpg": jpeg.getvalue().replace(
            struct.pack(">HH", 64, 64), struct.pack(">HH", 65_000, 65_000), 1
        ),
        "tile.tiff": tiff(64, 64, 65_536),
        "pixels.tiff": tiff(100_000, 100_000, 256),
        "frames.webp": webp.getvalue(),
        "tiles.heic": heic_of_tiles(gradient(512, 512), 10_000, 10_000),
    }


LIMITED = """
import json, resource, sys
from pathlib import Path
import cv2, numpy, PIL.Image, pillow_heif
from mcap.errors import InputRejectedError
from mcap.images import provenance
from mcap.images.photo import read_photo
from mcap.images.picture import read_picture
PIL.Image.init(), pillow_heif.register_heif_opener()
read_photo(Path(sys.argv[1])), read_picture(Path(sys.argv[1]))
size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 200 * 2**20,) * 2)
found = {}
for path in map(Path, sys.argv[2:]):
    for read in (read_photo, read_picture, provenance.read):
        try:
            read(path)
            said = "read"
        except InputRejectedError as error:
            said = str(error)
        found[f"{path.name} {read.__name__}"] = said
print(json.dumps(found))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_AS is Linux's")
def test_bombs_are_read_or_refused_in_200_mebibytes(tmp_path):
    first = tmp_path / "first.png"
    Image.new("RGB", (64, 64)).save(first)
    made = bombs()
    for name, data in made.items():
        (tmp_path / name).write_bytes(data)
        assert len(data) < 4e6
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(first), *(str(tmp_path / name) for name in made)],
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert len(found) == 3 * len(made)
    assert not [said for said in found.values() if "this machine's memory" in said], found
    assert found["frames.webp read_photo"] == "read"
    assert "megapixels" in found["tiles.heic read_photo"], found
    for name in ("pixels.png", "pixels.jpg", "pixels.tiff", "tile.tiff"):
        assert "save a smaller copy" in found[f"{name} read_photo"], found


def test_room_is_made_for_a_large_picture():
    from mcap.images.photo import TOGETHER, Photo, RecentPixels

    kept = RecentPixels(100)
    photos = [Photo(Path(f"{n}.png"), str(n), "0" * 64, 4, 4) for n in range(3)]
    for photo in photos:
        kept.put(photo, np.zeros((4, 2, 3), np.uint8))
    assert all(kept.get(photo) is not None for photo in photos)
    kept.make_room(TOGETHER - 50)
    assert [kept.get(photo) is not None for photo in photos] == [False, True, True]
