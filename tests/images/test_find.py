"""Which files are meant, and what their outputs are called."""

from __future__ import annotations

import io
import sys

from PIL import Image

from mcap.images.find import find_photos, unique_names
from mcap.images.photo import read_photo
from tests.support.pictures import saved


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
