"""What is the machine's is told as such: places that take no file, before any work, and disks that
fail in the midst of it."""

from __future__ import annotations

import errno
import io
import os
import re
import subprocess
import sys

import pytest

from mcap import cli
from mcap.runtime import files
from mcap.weights.catalogue import WEIGHTS
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
    real = files.tempfile.TemporaryFile

    def refuse(*_, **how):
        if str(tmp_path) in str(how.get("dir")):
            raise OSError(number, os.strerror(number))
        return real(*_, **how)

    monkeypatch.setattr(files.tempfile, "TemporaryFile", refuse)
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


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    """No weight is here, and a fetch is wanted: ``empty_cache(folder)``."""

    def use(folder) -> None:
        monkeypatch.setenv("MCAP_CACHE_DIR", str(folder))
        monkeypatch.delenv("MCAP_OFFLINE", raising=False)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.setattr("mcap.weights.fetch.download", lambda *_: pytest.fail("fetched"))

    return use


@pytest.mark.parametrize("place", ["file", "file/deeper", "x" * 300, "link"])
def test_a_cache_that_takes_nothing_is_told_before_any_work(
    tmp_path, monkeypatch, capsys, empty_cache, place
):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "cache")
    empty_cache(tmp_path / place)
    monkeypatch.setattr("mcap.images.open.read_bytes", lambda *_: pytest.fail("a photo was read"))
    assert cli.run(["mask", str(SELFIE), "--out", str(tmp_path / "out")]) == 2
    err = " ".join(capsys.readouterr().err.split())
    assert f"{tmp_path / place}: " in err and "MCAP_CACHE_DIR" in err
    assert "defect" not in err and not (tmp_path / "out").exists()
    cli.run(["doctor"])
    assert place[:30] in capsys.readouterr().out, "and doctor goes on"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_a_cache_on_a_bad_disk_is_told_by_pull_and_doctor(
    tmp_path, monkeypatch, capsys, empty_cache, number
):
    empty_cache(tmp_path / "cache")
    real = files.tempfile.TemporaryFile

    def refuse(*_, **how):
        if str(how.get("dir")) == str(tmp_path):
            raise OSError(number, os.strerror(number))
        return real(*_, **how)

    monkeypatch.setattr(files.tempfile, "TemporaryFile", refuse)
    assert cli.run(["models", "pull", "yunet"]) == 2
    err = " ".join(capsys.readouterr().err.split())
    assert f"cache_dir in mcap.toml) {tmp_path}/cache: nothing can be written there" in err
    assert files.REASONS[number] in err
    cli.run(["doctor"])
    assert "nothing can be written there" in " ".join(capsys.readouterr().out.split())


def test_what_lies_in_a_read_only_cache_is_used(tmp_path, monkeypatch, weights, empty_cache):
    """A laboratory keeps its weights where only one person writes."""
    here = weights("yunet").read_bytes()
    empty_cache(tmp_path)
    from mcap.weights.catalogue import WEIGHTS
    from mcap.weights.fetch import fetch

    place = tmp_path / "weights" / "yunet" / WEIGHTS["yunet"].file
    place.parent.mkdir(parents=True)
    place.write_bytes(here)
    monkeypatch.setattr(files.tempfile, "TemporaryFile", lambda *_, **__: pytest.fail("wrote"))
    assert fetch("yunet") == place


def test_the_hub_s_cache_is_tried_before_the_hub_is_asked(tmp_path, monkeypatch):
    from huggingface_hub import constants

    from mcap.errors import UsageError
    from mcap.weights import hub

    (tmp_path / "file").touch()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(hub, "reach_hub", lambda: pytest.fail("the hub was asked"))
    with pytest.raises(UsageError, match=r"Hugging Face cache \(HF_HOME\) .*file: is a file"):
        hub.hub_snapshot("nobody/nothing", offline=False)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda folder: folder.touch(), "MCAP_CONFIG_DIR {}: is a file; give a folder."),
        (lambda folder: (folder / "mcap.toml").mkdir(parents=True), "{}/mcap.toml cannot be read"),
        (
            lambda folder: (folder.mkdir(), (folder / "mcap.toml").symlink_to(folder / "gone")),
            "{}/mcap.toml cannot be read",
        ),
    ],
)
def test_a_configuration_folder_that_is_none_is_told(tmp_path, monkeypatch, capsys, make, told):
    make(tmp_path / "config")
    monkeypatch.setenv("MCAP_CONFIG_DIR", str(tmp_path / "config"))
    assert cli.run(["mask", str(SELFIE), "--preview"]) == 2
    err = " ".join(capsys.readouterr().err.split())
    assert told.format(tmp_path / "config") in err and "defect" not in err


def test_a_configuration_folder_with_too_long_a_name_is_told(monkeypatch, capsys):
    monkeypatch.setenv("MCAP_CONFIG_DIR", "x" * 300)
    assert cli.run(["profiles", "list"]) == 2
    err = capsys.readouterr().err
    assert "MCAP_CONFIG_DIR" in err and "longer than the disk takes" in err


LONG = "out/" + "a-folder-with-a-long-name/" * 3 + "passport-000003.png"


def drawn(words, width, monkeypatch) -> list[str]:
    """What a command prints in a terminal of so many columns, line by line."""
    from rich.console import Console

    from mcap.cli import output

    file = io.StringIO()
    monkeypatch.setattr(output, "console", lambda: Console(file=file, width=width, no_color=True))
    cli.run(words)
    return [line.rstrip() for line in file.getvalue().splitlines()]


@pytest.mark.parametrize("width", [40, 80, 160])
@pytest.mark.parametrize("words", ["plugins", "models list", "profiles list", "doctor"])
def test_tables_lose_nothing_in_a_narrow_terminal(monkeypatch, words, width):
    wide = drawn(words.split(), 1000, monkeypatch)
    lines = drawn(words.split(), width, monkeypatch)
    text = "\n".join(lines)
    assert "…" not in text
    # All words are there; a longer one than a column may be folded, and so may a path at any place.
    # Numbers of doctor's change.
    unfolded = "".join(line.strip() for line in lines)
    for word in re.findall(r"[^\W\d]{2,10}", "\n".join(wide[1:])):
        assert word in text or word in unfolded
    names = {"plugins": ["realesrgan-general", "parsing-hair"], "profiles list": ["studio-bw"]}
    for name in {**names, "models list": list(WEIGHTS)}.get(words, []):
        assert re.search(rf"^\s*{re.escape(name)}(\s|$)", text, re.MULTILINE), f"{name} is broken"


@pytest.mark.parametrize("soft_wrap", [False, True])  # on a terminal, in a pipe
@pytest.mark.parametrize("width", [40, 80, 160])
def test_paths_of_results_can_be_copied_at_any_width(width, soft_wrap):
    from rich.console import Console

    from mcap.cli.output import print_rows

    file = io.StringIO()
    titles = ("rank", "similarity", "picture", "")
    rows = [(1, "0.532", LONG, "was there already"), (2, "-", "b.png", "no face found")]
    console = Console(file=file, width=width, soft_wrap=soft_wrap)
    print_rows(console, titles, rows, name=2, right=(0, 1))
    lines = file.getvalue().splitlines()
    assert any(LONG in line for line in lines), "in one line"
    assert any("b.png" in line for line in lines)
    text = " ".join(file.getvalue().split())
    assert "0.532" in text and "was there already" in text and "no face found" in text
    assert all(len(line.rstrip()) <= width for line in lines if LONG not in line)


@pytest.mark.parametrize("words", ["plugins", "--help", "models list --json", "mask {} --preview"])
def test_a_reader_that_goes_away_is_no_error_to_talk_about(words, weights):
    """``mcap plugins | head -1``: no traceback, and an exit code that is not success."""
    weights("yunet")
    weights("sface")
    reader, writer = os.pipe()
    os.close(reader)
    path = os.pathsep.join(map(str, (ROOT, ROOT / "plugins")))
    done = subprocess.run(
        [sys.executable, "-m", "mcap", *words.format(SELFIE).split()],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )
    os.close(writer)
    assert done.returncode == 1
    for word in ("Traceback", "Exception ignored", "BrokenPipe", "defect"):
        assert word not in done.stderr, done.stderr
