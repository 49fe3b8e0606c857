"""What is dropped on the page: photos are kept, all else is refused with the reason."""

from __future__ import annotations

import io

import pytest

from mcap.studio import uploads
from mcap.studio.uploads import MOST_PHOTOS, keep_photos, photo_name
from tests.studio.conftest import jpeg

VIDEO = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(2000)


def drop(folder, *files: tuple[str, bytes]) -> list[str]:
    return keep_photos(folder, [(name, io.BytesIO(data)) for name, data in files])


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("me.JPG", "me.jpg"),
        ("../../etc/passwd", "passwd"),
        ("..\\..\\boot.ini", "boot.ini"),
        ("C:\\Users\\me\\a.png", "a.png"),
        ("/etc/cron.d/x.jpg", "x.jpg"),
        (".htaccess", "htaccess"),
        ("..", "photo"),
        ("", "photo"),
        ("a\0b.jpg", "a_b.jpg"),
        ("\u202egpj.exe", "_gpj.exe"),
    ],
)
def test_a_path_in_a_name_is_a_name(given, name):
    assert photo_name(given) == name


def test_photos_are_kept_privately_and_nothing_is_overwritten(tmp_path):
    assert drop(tmp_path, ("a.jpg", jpeg(1)), ("A.jpg", jpeg(2)), ("../a.jpg", jpeg(3))) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["A-2.jpg", "a-3.jpg", "a.jpg"]
    assert (tmp_path / "a.jpg").read_bytes() == jpeg(1)
    assert (tmp_path / "a.jpg").stat().st_mode & 0o777 == 0o600
    assert drop(tmp_path, ("again.jpg", jpeg(1))) == ["again.jpg: is there already."]
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("film.mp4", VIDEO, "not a picture that mcap can read"),
        ("notes.jpg", b"hello", "not a picture that mcap can read"),
        ("empty.jpg", b"", "empty"),
    ],
)
def test_what_is_no_picture_is_refused_by_its_name(tmp_path, name, data, reason):
    (said,) = drop(tmp_path, (name, data))
    assert said.startswith(f"{name}: ") and reason in said and str(tmp_path) not in said
    assert list(tmp_path.iterdir()) == []


def test_a_huge_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(uploads, "LARGEST_PHOTO", 10_000)
    said = drop(tmp_path, ("big.jpg", jpeg() + bytes(20_000)), ("b.jpg", jpeg()))
    assert len(said) == 1 and "more than a photo has" in said[0]
    assert [path.name for path in tmp_path.iterdir()] == ["b.jpg"]


def test_of_300_files_the_first_hundred_are_taken(tmp_path):
    files = [(f"{number}.jpg", jpeg(0, 16 + number)) for number in range(300)]
    (said,) = drop(tmp_path, *files)
    assert said.startswith("200 more were not taken")
    assert len(list(tmp_path.iterdir())) == MOST_PHOTOS


def test_a_full_disk_leaves_whole_photos(tmp_path, monkeypatch):
    copy = uploads.shutil.copyfileobj

    def full(source, target):
        if source.getvalue() == jpeg(2):
            target.write(b"half")
            raise OSError(28, "No space left on device")
        copy(source, target)

    monkeypatch.setattr(uploads.shutil, "copyfileobj", full)
    with pytest.raises(OSError, match="No space"):
        drop(tmp_path, ("a.jpg", jpeg(1)), ("b.jpg", jpeg(2)), ("c.jpg", jpeg(3)))
    assert [path.name for path in tmp_path.iterdir()] == ["a.jpg"]
