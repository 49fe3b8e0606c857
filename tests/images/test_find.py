"""Which files are meant, and what their outputs are called."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mcap.errors import UsageError
from mcap.images.find import OWN_FILE, find_photos, listed_paths, unique_names
from mcap.images.photo import read_photo
from mcap.images.provenance import Label
from mcap.images.write import write_generated
from mcap.results.names import CONTACT_SHEET, OWN_FILES, RESULTS
from tests.support.pictures import GENERATED, gradient, saved


def test_find_photos(tmp_path, monkeypatch):
    folder = tmp_path / "selfies"
    (folder / "inner").mkdir(parents=True)
    for name in ("10.jpg", "2.jpg", ".hidden.jpg", "notes.txt", "inner/x.jpg"):
        (folder / name).touch()
    single = tmp_path / "other.png"
    single.touch()
    found = find_photos([folder, single, folder / "2.jpg", tmp_path / "gone.jpg"])
    assert [path.name for path in found] == [
        "2.jpg",
        "10.jpg",
        "notes.txt",
        "other.png",
        "gone.jpg",
    ]
    stdin = io.StringIO(f"{single}\n\n{folder}\r\n-\n")
    assert find_photos(["-"], stdin=stdin)[0] == single
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{single}\n"))
    assert find_photos(["-"]) == [single]


def test_names_differ_even_where_case_does_not_count(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    paths = ["one/me.jpg", "two/me.jpg", "one/ME.png", "one/you.png"]
    photos = []
    for index, name in enumerate(paths):
        photos.append(
            read_photo(saved(tmp_path / name, Image.new("RGB", (8, 8), (index * 60, 0, 0))))
        )
    named = unique_names(photos)
    names = [photo.name for photo in named]
    assert len({name.casefold() for name in names}) == 4
    assert names[3] == "you" and names[0] == f"me-{photos[0].sha256[:8]}"
    # Order does not matter, and what a photo was called once it stays.
    assert {photo.name for photo in unique_names(photos[::-1])} == set(names)
    kept = unique_names(photos, {photos[0].sha256: "me"})
    assert kept[0].name == "me" and kept[1].name != "me"


# Names, and what comes on standard input.


def test_nul_divides_paths_of_any_bytes_on_standard_input():
    names = [b"a.jpg", b"two\nlines.jpg", b"M\xfcller.jpg"]
    stdin = io.TextIOWrapper(io.BytesIO(b"\0".join(names) + b"\0"), encoding="ascii")
    assert [os.fsencode(path) for path in find_photos(["-"], stdin=stdin)] == names


def test_a_byte_order_mark_and_lines_of_windows_on_standard_input():
    stdin = io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbfa.jpg\r\nb.jpg\r\n"))
    assert [path.name for path in find_photos(["-"], stdin=stdin)] == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"])
def test_a_picture_on_standard_input_is_a_wrong_call(kind):
    data = io.BytesIO()
    Image.fromarray(gradient(480, 640)).save(data, kind)
    stdin = io.TextIOWrapper(io.BytesIO(data.getvalue()))
    with pytest.raises(UsageError, match="a picture came on standard input"):
        find_photos(["-"], stdin=stdin)


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=10_000))
def test_any_bytes_on_standard_input_are_paths_or_a_wrong_call(data):
    try:
        found = listed_paths(io.TextIOWrapper(io.BytesIO(data)))
    except UsageError:
        return
    assert not any("\0" in path for path in found)


def test_names_that_cannot_be_written_are_told_apart(tmp_path):
    photos = []
    for index, name in enumerate((b"M\xfcller.png", b"M\xf6ller.png", b"x" * 246 + b".png")):
        path = tmp_path / os.fsdecode(name)
        photos.append(read_photo(saved(path, Image.new("RGB", (8, 8), (index * 60, 0, 0)))))
    names = [photo.name for photo in unique_names(photos)]
    assert len(set(names)) == 3 and all(name.isprintable() for name in names)
    assert names[0].startswith("M_ller-") and len(names[2]) < 200


# Folders that meet.


def test_sheets_beside_a_report_of_mcaps_are_no_photos(tmp_path):
    for name in ("me.jpg", "contact-sheet.jpg", "contact-sheet-2.jpg"):
        saved(tmp_path / name, Image.new("RGB", (8, 8)))
    left_out: list[Path] = []
    assert len(find_photos([tmp_path])) == 3  # nobody says that they are mcap's
    (tmp_path / "report.json").write_text('{"schema": 2, "request": {}}')
    found = find_photos([tmp_path], left_out=left_out)
    assert {path.name for path in found} == {"me.jpg"}
    assert [path.name for path in left_out] == [
        "contact-sheet-2.jpg",
        "contact-sheet.jpg",
        "report.json",
    ]
    # Named alone, it is a picture like any other.
    assert len(find_photos([tmp_path / "contact-sheet.jpg"])) == 1


@pytest.mark.parametrize("report", ["{}", "[", "[1]", '{"schema": 1}', "\xff", "[" * 100_000])
def test_somebody_elses_report_hides_no_photo(tmp_path, report):
    saved(tmp_path / "contact-sheet.jpg", Image.new("RGB", (8, 8)))
    for name in ("report.json", "results.jsonl"):
        (tmp_path / name).write_bytes(report.encode("latin-1"))
    assert tmp_path / "contact-sheet.jpg" in find_photos([tmp_path])


def test_generated_pictures_are_no_photos_of_anybody(tmp_path):
    saved(tmp_path / "me.jpg", Image.new("RGB", (8, 8)))
    write_generated(tmp_path / "drawn.png", gradient(), Label(GENERATED))
    write_generated(tmp_path / "bare.png", gradient(), Label(GENERATED, metadata="none"))
    (tmp_path / RESULTS).write_text('{"file": "bare.png", "kind": "generate"}\n')
    (tmp_path / CONTACT_SHEET).touch()
    for wrong in ("[1]", "{}", "5", '["bare.png"]'):  # lines of anybody's, to be looked past
        with (tmp_path / RESULTS).open("a") as file:
            file.write(f'{{"file": {wrong}}}\n')
    pictures = ["bare.png", "drawn.png", "me.jpg"]
    assert [path.name for path in find_photos([tmp_path])] == ["me.jpg"]
    assert [path.name for path in find_photos([tmp_path], results=True)] == pictures


def test_a_link_to_nowhere_stays_to_be_refused_by_name(tmp_path):
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere")
    assert [path.name for path in find_photos([tmp_path])] == ["gone.jpg"]


def test_names_of_own_files_are_those_that_are_written():
    for name in OWN_FILES:
        assert OWN_FILE.fullmatch(name)
