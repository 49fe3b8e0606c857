"""Files are whole or not there, on disk, and have the permissions of any other new file."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from mcap.runtime.files import write_bytes, write_json, write_with

WRITERS = {
    "bytes": lambda path, data: write_bytes(path, data),
    "with": lambda path, data: write_with(path, lambda temporary: temporary.write_bytes(data)),
}


@pytest.fixture(params=WRITERS)
def write(request):
    return WRITERS[request.param]


def test_a_new_file_and_then_another_in_its_place(tmp_path, write):
    path = tmp_path / "folder" / "a.bin"
    for data in (b"one", b"another"):
        write(path, data)
        assert path.read_bytes() == data
        assert list(path.parent.iterdir()) == [path]


def test_what_fails_leaves_the_file_that_was_there(tmp_path, write, monkeypatch):
    path = tmp_path / "a.bin"
    write(path, b"whole")

    def full(_handle):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        write(path, b"part")
    assert path.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [path]


def test_data_are_on_disk_before_the_name_is(tmp_path, write, monkeypatch):
    path, flushed = tmp_path / "a.bin", []
    monkeypatch.setattr(os, "fsync", lambda _handle: flushed.append(path.exists()))
    write(path, b"data")
    assert flushed == [False]


@pytest.mark.skipif(sys.platform == "win32", reason="no permission bits")
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_permissions_are_those_of_any_new_file(tmp_path, umask):
    code = (
        "import os, sys; from pathlib import Path; from mcap.runtime.files import *; "
        f"os.umask({umask}); path = Path(sys.argv[1]); write_bytes(path, b'x'); "
        "write_with(path.with_suffix('.with'), lambda temporary: temporary.write_bytes(b'x'))"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.bin")], check=True)
    for name in ("a.bin", "a.with"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.skipif(sys.platform == "win32", reason="no umask")
def test_the_umask_is_left_alone_while_others_write(tmp_path, monkeypatch):
    """It belongs to the process: changed for a moment, another thread's file is open to all."""
    monkeypatch.setattr(os, "umask", None)
    threads = [
        threading.Thread(target=write_bytes, args=(tmp_path / f"{i}", b"x")) for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(tmp_path.iterdir())) == 8


def test_json_is_for_people_too(tmp_path):
    write_json(tmp_path / "a.json", {"name": "Zoë", "n": 1})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "name": "Zoë",\n  "n": 1\n}\n'
