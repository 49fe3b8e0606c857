"""Files are whole or not there, on disk, and have the permissions of any other new file."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mcap.errors import UsageError
from mcap.runtime import files
from mcap.runtime.documents import append_json_line
from mcap.runtime.files import write_bytes, write_json, write_with

WRITERS = {
    "bytes": lambda path, data: write_bytes(path, data),
    "with": lambda path, data: write_with(path, lambda file: file.write(data)),
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


@pytest.mark.skipif(sys.platform == "win32", reason="no named pipes in folders")
def test_a_named_pipe_is_refused_at_once_and_a_shells_is_read(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"text")
    with files.open_to_read(tmp_path / "a.txt") as file:
        assert file.read() == b"text"
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="named pipe"), files.open_to_read(tmp_path / "pipe"):
        pass
    code = "import sys, time; time.sleep(0.2); sys.stdout.write('late')"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        path = Path(f"/dev/fd/{writer.stdout.fileno()}")
        if path.exists():
            with files.open_to_read(path) as file:
                assert file.read() == b"late"


@pytest.mark.skipif(not hasattr(os, "O_NOFOLLOW"), reason="the system cannot refuse links")
def test_nothing_is_appended_to_what_a_link_leads_to(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "log").symlink_to("mine")
    with pytest.raises(FileExistsError) as refused:
        append_json_line(tmp_path / "log", {"a": 1})
    assert "something else is there already" in files.why(refused.value)
    assert (tmp_path / "mine").read_text() == "mine"
    write_bytes(tmp_path / "log", b"new")
    assert (tmp_path / "mine").read_text() == "mine" and not (tmp_path / "log").is_symlink()


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
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002, 0o000])
def test_what_is_written_is_its_owners_alone(tmp_path, umask):
    code = (
        "import os, sys; from pathlib import Path; from mcap.runtime.files import *; "
        f"os.umask({umask}); path = Path(sys.argv[1]); write_bytes(path, b'x'); "
        "write_with(path.with_suffix('.with'), lambda file: file.write(b'x'))"
    )
    out = tmp_path / "made" / "here"
    subprocess.run([sys.executable, "-c", code, str(out / "a.bin")], check=True)
    for name in ("a.bin", "a.with"):
        assert (out / name).stat().st_mode & 0o777 == 0o600
    for folder in (out, out.parent):
        assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(sys.platform == "win32", reason="no permission bits")
def test_a_folder_that_is_there_keeps_its_permissions(tmp_path):
    tmp_path.chmod(0o755)
    write_bytes(tmp_path / "a.bin", b"x")
    assert tmp_path.stat().st_mode & 0o777 == 0o755


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


@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO]
)
def test_a_folder_that_takes_no_file_is_refused_with_the_reason(tmp_path, monkeypatch, number):
    """The place is tried and not asked: who may do anything is stopped by a read-only disk too."""

    def fail(file) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files, "flush_to_disk", fail)
    with pytest.raises(UsageError, match=r"--out .*nothing can be written there: ") as told:
        files.require_writable(tmp_path / "a" / "b")
    assert files.REASONS[number] in str(told.value)
    # By which a batch tells a disk's fault, which may pass, from a flag that is wrong.
    assert told.value.details == {"errno": errno.errorcode[number]}
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_can_be_written_is_left_as_it_was(tmp_path):
    files.require_writable(tmp_path / "not" / "yet")
    files.require_writable(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_names_and_links_that_cannot_become_a_folder_are_told(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for out, word in (
        (tmp_path / ("x" * 300), "longer than the disk takes"),
        (tmp_path / "new" / ("x" * 300) / "y", "longer than the disk takes"),
        (tmp_path / "file" / "below", "file is a file"),
        (tmp_path / "link" / "below", "not there"),
    ):
        with pytest.raises(UsageError, match=word):
            files.require_writable(out)


def test_a_name_stays_inside_its_folder_after_links_are_resolved(tmp_path):
    folder = tmp_path / "folder"
    (folder / "in").mkdir(parents=True)
    (folder / "out").symlink_to(tmp_path)
    (tmp_path / "shortcut").symlink_to(folder)
    for name in ("a", "in/a", "in/../a", "./a"):
        assert files.is_inside(folder, name) and files.is_inside(tmp_path / "shortcut", name)
    for name in ("../a", "in/../../a", "out/a", "/etc/passwd", "a\0b"):
        assert not files.is_inside(folder, name)
