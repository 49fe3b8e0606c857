"""One run at a time in a folder, among real processes."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import filelock
import pytest

from mcap.errors import UsageError
from mcap.runtime import lock
from mcap.runtime.lock import LOCK, RUN, locked_folder
from tests.support import ROOT

HOLD = """
import sys, time
from pathlib import Path
from mcap.runtime import lock
{before}
with lock.locked_folder(Path(sys.argv[1]), "mcap train") as note:
    print(note, flush=True)
    sys.stdin.readline()
"""

NO_FLOCK = """
import errno, filelock, os
def refuse(self):
    raise OSError({number}, os.strerror({number}))
filelock.FileLock._acquire = refuse
"""


def holder(folder: Path, before: str = "") -> subprocess.Popen[str]:
    """A process that holds the folder's lock until it gets a line."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'plugins'}"}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD.format(before=before), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    process.note = process.stdout.readline().strip()
    return process


def test_a_second_process_is_told_who_is_there_and_since_when(tmp_path):
    out = tmp_path / "out"
    first = holder(out)
    assert first.note == ""
    (tmp_path / "link").symlink_to(out)
    for way in (out, tmp_path / "link", tmp_path / "x" / ".." / "out"):
        with pytest.raises(UsageError) as refused, locked_folder(way, "mcap train"):
            pass
        told = str(refused.value)
        assert f"mcap train (process {first.pid}, since {time.strftime('%H:')}" in told
        assert str(way) in told and "give another folder" in told
        assert refused.value.details["running"]["pid"] == first.pid
    with locked_folder(tmp_path / "other", "mcap train"):
        pass  # another folder is free
    first.communicate("\n")
    assert list(tmp_path.iterdir()) == [tmp_path / "link"]  # what was made and stayed empty is gone
    with locked_folder(out, "mcap train") as note:
        assert note == ""
        assert {LOCK, RUN} <= {path.name for path in out.iterdir()}


@pytest.mark.parametrize("before", ["", NO_FLOCK.format(number=errno.ENOLCK)])
def test_the_lock_of_a_killed_run_is_taken_over(tmp_path, monkeypatch, before):
    first = holder(tmp_path, before)
    if before:

        def refuse(self):
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

        monkeypatch.setattr(filelock.FileLock, "_acquire", refuse)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert (tmp_path / LOCK).exists()
    assert json.loads((tmp_path / RUN).read_text())["pid"] == first.pid
    with locked_folder(tmp_path, "mcap mask"):
        assert json.loads((tmp_path / RUN).read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_disk_without_locks_gets_a_file_and_says_so(tmp_path, monkeypatch, number):
    first = holder(tmp_path, NO_FLOCK.format(number=number))
    assert "this disk has no locks" in first.note and str(tmp_path / LOCK) in first.note

    def refuse(self):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(filelock.FileLock, "_acquire", refuse)
    with (
        pytest.raises(UsageError, match=f"process {first.pid}"),
        locked_folder(tmp_path, "mcap mask"),
    ):
        pass
    first.communicate("\n")
    with locked_folder(tmp_path, "mcap mask") as note:
        assert "no locks" in note
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_can_be_locked_the_work_is_done_and_it_is_said(tmp_path, monkeypatch):
    def refuse(self):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(filelock.FileLock, "_acquire", refuse)
    with locked_folder(tmp_path, "mcap mask") as note:
        assert "cannot be locked" in note and "no permission" in note
        assert list(tmp_path.iterdir()) == []


def test_a_run_on_another_machine_is_named_with_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setattr(lock.platform, "node", lambda: "desk")
    first = holder(tmp_path)
    with pytest.raises(UsageError) as refused, locked_folder(tmp_path, "mcap mask"):
        pass
    assert f"process {first.pid} on " in str(refused.value)
    assert f"remove {tmp_path / LOCK}" in str(refused.value)
    (tmp_path / RUN).write_text('{"command": ["\\u001b"], "since": 4}')
    with pytest.raises(UsageError, match="another run of mcap is writing"):
        locked_folder(tmp_path, "mcap mask").__enter__()
    first.communicate("\n")


def test_errors_of_the_work_come_through_and_release_the_lock(tmp_path):
    out = tmp_path / "a" / "b"
    for error in (OSError(errno.ENOSPC, "full"), KeyError("x"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as raised, locked_folder(out, "mcap mask"):
            raise error
        assert raised.value is error
        assert list(tmp_path.iterdir()) == []
    with locked_folder(out, "mcap mask"):
        (out / "kept").touch()
    assert [path.name for path in out.iterdir()] == ["kept"]


def test_a_short_wait_is_enough_where_the_other_is_done_soon(tmp_path):
    first = holder(tmp_path)
    first.stdin.write("\n")
    first.stdin.flush()
    with locked_folder(tmp_path, "mcap export", wait=30) as note:
        assert note == ""
    first.wait()


def test_of_many_at_once_one_is_in_the_folder_at_a_time(tmp_path):
    """They come and go; each writes a name, and finds it again after a moment."""
    script = """
import sys, time
from pathlib import Path
from mcap.runtime.lock import locked_folder
folder, name = Path(sys.argv[1]), sys.argv[2]
for turn in range(15):
    with locked_folder(folder, "mcap", wait=60):
        (folder / "who").write_text(f"{name} {turn}")
        time.sleep(0.002)
        assert (folder / "who").read_text() == f"{name} {turn}"
"""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'plugins'}"}
    (tmp_path / "stays").touch()
    all_of_them = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path), str(n)], env=environment)
        for n in range(4)
    ]
    assert [process.wait(timeout=120) for process in all_of_them] == [0, 0, 0, 0]
    assert {path.name for path in tmp_path.iterdir()} == {"stays", "who"}


def test_what_a_killed_run_left_unfinished_goes_and_nobody_else_s(tmp_path):
    out = tmp_path / "out"
    for folder in (out, out / "masks", out / "of another run", out / "a" / "deep"):
        folder.mkdir(parents=True)
        (folder / ".mcap-0123456789abcdef.part").write_bytes(b"half")
    (out / ".mcap-k_2x.part").mkdir()
    (out / ".mcap-k_2x.part" / "a.png").write_bytes(b"half")
    (out / ".theirs.part").write_bytes(b"a download")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / ".mcap-0123456789abcdef.part").write_bytes(b"half")
    (out / "link").symlink_to(elsewhere)
    with locked_folder(out / "of another run", "mcap generate"):
        (out / "of another run" / ".mcap-0123456789abcdef.part").write_bytes(b"half")
        with locked_folder(out, "mcap mask"):
            pass
        left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.part")}
    assert left == {
        "out/.theirs.part",
        "out/of another run/.mcap-0123456789abcdef.part",
        "out/a/deep/.mcap-0123456789abcdef.part",
        "elsewhere/.mcap-0123456789abcdef.part",
    }


def test_a_disk_that_fails_once_as_the_lock_is_made_leaves_nothing(tmp_path, monkeypatch):
    out, real, failed = tmp_path / "out", os.fchmod, []

    def once(*given):
        if not failed:
            failed.append(given)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(*given)

    monkeypatch.setattr(os, "fchmod", once)
    with locked_folder(out, "mcap mask") as note:
        (out / "kept").touch()
        assert note == "" and (out / LOCK).exists()
    assert failed and [path.name for path in out.iterdir()] == ["kept"]


def test_a_disk_that_fails_once_as_the_lock_is_let_go_of_leaves_nothing(tmp_path, monkeypatch):
    out, real, failed = tmp_path / "out", Path.unlink, []

    def once(path, *args, **more):
        if path.name not in failed:
            failed.append(path.name)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(path, *args, **more)

    monkeypatch.setattr(Path, "unlink", once)
    with locked_folder(out, "mcap mask"):
        (out / "kept").touch()
    assert {LOCK, RUN} <= set(failed)
    assert [path.name for path in out.iterdir()] == ["kept"]
