"""Damaged pictures and metadata: read or refused with a reason, and written; nothing else.

How many mutations are tried, `tests.support.mutations` says.
"""

from __future__ import annotations

import functools
import io
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, features
from PIL.PngImagePlugin import PngInfo
from rich.console import Console

from mcap.cli.inspect import describe, print_picture
from mcap.enhancement.folder import EnhancedFolder
from mcap.errors import InputRejectedError, UsageError
from mcap.generation.editing.job import read_source, require_networks
from mcap.generation.extra_networks import ExtraNetworks
from mcap.generation.folder import RankedFolder
from mcap.images import provenance
from mcap.images.find import find_photos, is_generated
from mcap.images.jpeg import LONGEST_SIDE
from mcap.images.open import PhotoSettings
from mcap.images.photo import read_photo
from mcap.images.picture import read_picture, size_of
from mcap.images.provenance import Label
from mcap.images.write import write_generated, write_picture
from mcap.marks.inspect import FoundMarks, find_marks
from mcap.masking.select import read_mask
from mcap.results.folder import require_own
from mcap.runtime.files import sha256_of
from tests.support.mutations import FUZZED, MEMORY, MUTATIONS, grown, mutated
from tests.support.pictures import GENERATED, gradient, profile

LIMITS = PhotoSettings(max_megapixels=1, max_file_megabytes=1)
METADATA = settings(FUZZED, max_examples=max(60, MUTATIONS // 4))
"""Of well-formed metadata, which mutations of a format do not reach; each is written thrice."""
FORMATS = {
    "PNG": {},
    "JPEG": {},
    "WEBP": {},
    "TIFF": {},
    "GIF": {},
    "BMP": {},
    **({"AVIF": {}} if features.check("avif") else {}),
    "HEIF": {},
}


@functools.cache
def whole(kind: str) -> bytes:
    """A small picture with EXIF, GPS, a profile, a resolution, XMP and text, as far as it goes."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.Make] = "maker"
    exif[ExifTags.Base.XResolution] = exif[ExifTags.Base.YResolution] = 72.0
    own = exif.get_ifd(ExifTags.IFD.Exif)
    own[ExifTags.Base.UserComment] = b"UNICODE\0" + "words".encode("utf-16-be")
    own[ExifTags.Base.MakerNote] = b"n" * 40
    own[0x9214] = (20, 18, 9, 9)
    exif.get_ifd(ExifTags.IFD.GPSInfo)[2] = (1.0, 2.0, 3.0)
    texts = PngInfo()
    texts.add_text("parameters", "words", zip=True)
    texts.add_itxt("XML:com.adobe.xmp", Label(GENERATED).packet().decode())
    options = {
        "PNG": {"pnginfo": texts, "exif": exif, "icc_profile": profile(), "dpi": (72, 72)},
        "JPEG": {"exif": exif, "icc_profile": profile(), "dpi": (72, 72), "xmp": packet()},
        "WEBP": {"exif": exif, "icc_profile": profile(), "xmp": packet()},
        "TIFF": {"exif": exif, "icc_profile": profile(), "dpi": (72, 72)},
        "AVIF": {"exif": exif, "icc_profile": profile(), "xmp": packet()},
        "HEIF": {"exif": exif.tobytes(), "icc_profile": profile(), "xmp": packet()},
    }.get(kind, {})
    if kind == "HEIF":
        pillow_heif.register_heif_opener()
    data = io.BytesIO()
    Image.fromarray(gradient(32, 40)).save(data, kind, **options)
    return data.getvalue()


def packet() -> bytes:
    return Label(GENERATED).packet()


def inspected(found: FoundMarks) -> None:
    """Print all that ``mcap inspect`` has to say."""
    json.dumps(describe(found), default=str)
    print_picture(Console(file=io.StringIO(), width=80), found)


def read_and_write(path: Path) -> None:
    """All that mcap does with a picture; `InputRejectedError` is the one error there may be."""
    for look in (
        lambda: read_mask(path, read_photo(path, LIMITS)),
        lambda: size_of(path, LIMITS),
        lambda: inspected(find_marks(path, {})),
        lambda: read_source(path),
    ):
        try:
            look()
        except InputRejectedError as error:
            assert str(path) in str(error)
    find_photos([path.parent])
    is_generated(path)
    try:
        picture = read_picture(path, LIMITS)
    except InputRejectedError:
        return
    record = {**GENERATED, "kind": "enhance"}
    for number, suffix in enumerate((".png", ".jpg", ".webp")):
        out = path.with_name(f"out-{number}{suffix}")
        if max(picture.size) > LONGEST_SIDE.get(suffix, max(picture.size)):
            with pytest.raises(InputRejectedError, match="pixels are more"):
                write_picture(out, picture.pixels, picture.alpha, picture, Label(record))
            continue
        write_picture(out, picture.pixels, picture.alpha, picture, Label(record))
        again = read_picture(out)
        assert again.size == picture.size
        assert again.record is not None
        assert again.record["kind"] == "enhance"


@pytest.mark.parametrize("kind", FORMATS)
def test_mutations_of_a_format_are_read_or_refused_by_name(kind):
    before = grown()

    @FUZZED
    @given(data=mutated(whole(kind)))
    def tried(data):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"a.{kind.lower()}"
            path.write_bytes(data)
            read_and_write(path)

    tried()
    assert grown() - before < MEMORY


TEXT = st.text(st.characters(codec="utf-8"), max_size=60)
VALUES = st.one_of(
    st.integers(-(2**40), 2**40),
    st.floats(),
    TEXT,
    st.binary(max_size=40),
    st.tuples(st.integers(0, 2**33), st.integers(0, 2**33)),
    st.lists(st.floats(), max_size=4).map(tuple),
)
TAGS = st.one_of(
    st.sampled_from([int(tag) for tag in ExifTags.Base]), st.integers(0, 0xFFFF)
).filter(lambda tag: tag not in (0x8769, 0x8825, 0x014A, 0xA005))


@METADATA
@given(
    main=st.dictionaries(TAGS, VALUES, max_size=4),
    own=st.dictionaries(TAGS, VALUES, max_size=4),
    texts=st.dictionaries(TEXT, TEXT, max_size=3),
    parameters=st.one_of(st.none(), TEXT),
    xmp=st.one_of(st.none(), st.binary(max_size=80), TEXT.map(str.encode)),
)
def test_metadata_of_every_kind_is_written_as_far_as_it_can_be(main, own, texts, parameters, xmp):
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "plain.png"
        Image.fromarray(gradient(8, 9)).save(plain)
        exif = Image.Exif()
        exif.update(main)
        exif.get_ifd(ExifTags.IFD.Exif).update(own)
        keys = {key[:70].encode("latin-1", "ignore").decode("latin-1"): texts[key] for key in texts}
        source = replace(read_picture(plain), exif=exif, texts=keys, parameters=parameters, xmp=xmp)
        for suffix in (".png", ".jpg", ".webp"):
            out = Path(folder) / f"out{suffix}"
            write_picture(out, source.pixels, None, source, Label(GENERATED))
            again = read_picture(out)
            assert np.array_equal(again.pixels, source.pixels) or suffix != ".png"
            assert again.record is not None and again.generated


@METADATA
@given(prompt=TEXT, name=TEXT)
def test_words_of_every_kind_are_written_and_read_back(prompt, name):
    record = {**GENERATED, "prompt": prompt, "subject": {"name": name, "sha256": "00"}}
    with tempfile.TemporaryDirectory() as folder:
        for suffix in (".png", ".jpg", ".webp"):
            out = Path(folder) / f"out{suffix}"
            write_generated(out, gradient(8, 9), Label(record))
            assert provenance.read(out).record == record


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), TEXT),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(sorted(GENERATED)), inner)
    ),
    max_leaves=6,
)


@METADATA
@given(
    values=st.dictionaries(
        st.sampled_from([*GENERATED, "with", "loras", "embeddings", "edits", "file", "rank"]), JSON
    ),
    kind=st.sampled_from(["generate", "edit", "enhance", None]),
)
def test_records_and_lists_with_values_of_any_kind_are_read_as_far_as_they_go(values, kind):
    """Whoever wrote them: another version, another program, a hand."""
    record = {**GENERATED, "settings_sha256": "0", "similarity": None, **values}
    if kind is not None:
        record["kind"] = kind
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.png"
        texts = PngInfo()
        texts.add_text("mcap", json.dumps(record))
        Image.fromarray(gradient(8, 9)).save(path, pnginfo=texts)
        Image.fromarray(gradient(8, 9)).save(path.with_name("b.png"))
        lines = [{"file": "b.png", "sha256": sha256_of(path.with_name("b.png")), **record}]
        lines += [{**record, "file": "c.png"}, values]
        (path.parent / "results.jsonl").write_text("\n".join(map(json.dumps, lines)))
        inspected(find_marks(path, {}))
        assert set(find_photos([path.parent], results=True)) >= {path}
        find_photos([path.parent])
        for own in ("generate", "edit", "enhance"):
            try:
                require_own(path.parent, own)
                (RankedFolder if own != "enhance" else EnhancedFolder).listed(path.parent)
            except UsageError as error:
                assert "holds the results of" in str(error) or "is not mcap's" in str(error)
        for picture in (path, path.with_name("b.png")):
            try:
                _, _, known = read_source(picture)
                require_networks(picture, known, ExtraNetworks())
            except (InputRejectedError, UsageError) as error:
                assert str(picture) in str(error)


def test_more_pixels_than_a_format_holds_are_refused_with_the_way_out(tmp_path):
    for suffix, side in LONGEST_SIDE.items():
        out = tmp_path / f"long{suffix}"
        with pytest.raises(InputRejectedError, match="--format png"):
            write_generated(out, np.zeros((1, side + 1, 3), np.uint8), Label(GENERATED))
        assert not out.exists()
        write_generated(out, np.zeros((1, side, 3), np.uint8), Label(GENERATED))
