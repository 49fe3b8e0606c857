"""What is the machine's is told as such: places that take no file, before any work, and disks that
fail in the midst of it."""

from __future__ import annotations

import errno
import os

import pytest

from mcap import cli
from mcap.runtime import files
from tests.support import ROOT

SELFIE = ROOT / "examples" / "selfies" / "01-living-room.jpg"

COMMANDS = {
    "mask": ["mask", SELFIE, "--out"],
    "train": ["train", "--source", SELFIE, "--style", "passport", "--out"],
    "generate": ["generate", "nobody.mcap", "--out"],
    "edit": ["edit", "nothing.png", "--replace", "a=b", "--out"],
    "enhance": ["enhance", SELFIE, "--out"],
    "evaluate": ["evaluate", "nobody.mcap", "--out"],
    "export": ["export", "nobody.mcap", "--format", "kohya", "--out"],
    "profiles": ["profiles", "new", "my-style", "--dir"],
}


@pytest.fixture
def nothing_loads(monkeypatch):
    """Networks and photos are out of bounds: a refusal comes before the work."""
    from mcap.images import open as images
    from mcap.registry import Registry

    def fail(*_, **__):
        raise AssertionError("work was begun")

    monkeypatch.setattr(Registry, "create", fail)
    monkeypatch.setattr(images, "read_bytes", fail)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EPERM])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_place_that_takes_no_file_is_told_before_any_work(
    tmp_path, monkeypatch, capsys, nothing_loads, command, number
):
    real = files.tempfile.TemporaryDirectory

    def refuse(*_, **how):
        if str(tmp_path) in str(how.get("dir")):
            raise OSError(number, os.strerror(number))
        return real(*_, **how)

    monkeypatch.setattr(files.tempfile, "TemporaryDirectory", refuse)
    arguments = [str(word) for word in (*COMMANDS[command], tmp_path / "out" / "deeper")]
    assert cli.run(arguments) == 2
    err = capsys.readouterr().err
    assert str(tmp_path / "out") in err and "nothing can be written there" in err
    assert " ".join(files.REASONS[number].split()) in " ".join(err.split())
    assert "defect" not in err and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_a_name_too_long_for_the_disk_is_told_before_any_work(
    tmp_path, capsys, nothing_loads, command
):
    arguments = [str(word) for word in (*COMMANDS[command], tmp_path / ("x" * 300))]
    assert cli.run(arguments) == 2
    err = capsys.readouterr().err
    assert "longer than the disk takes" in err and "defect" not in err


@pytest.mark.parametrize("number", files.REASONS)
def test_every_failure_of_a_disk_has_its_own_words(number):
    told = cli.machine_failure(OSError(number, os.strerror(number), "out/a.png"))
    assert told.startswith(f"out/a.png: {files.REASONS[number]}. What was written before is whole")


def test_a_library_that_wraps_the_disk_s_failure_hides_it_not():
    wrapped = ValueError("could not save")
    wrapped.__cause__ = OSError(errno.EROFS, "Read-only file system")
    assert "read-only" in cli.machine_failure(wrapped)
    rust = RuntimeError("Error while serializing: I/O error: No space left (os error 28)")
    assert "disk is full" in cli.machine_failure(rust)


@pytest.mark.parametrize("error", [KeyError("a"), RuntimeError("b"), OSError("cannot identify")])
def test_what_is_no_failure_of_the_machine_is_not_called_one(error):
    assert cli.machine_failure(error) is None
