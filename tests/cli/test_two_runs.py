"""Two runs at once into one folder: the second is refused before any work, by the first's name."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from mcap import cli
from mcap.runtime.lock import LOCK, RUN, locked_folder
from mcap.subjects.subject import read_subject
from tests.cli import test_outputs, test_train
from tests.support import ROOT
from tests.support.safety import into_hub_cache
from tests.support.tiny import tiny_folder

nothing_loads, place = test_outputs.nothing_loads, test_train.place  # fixtures

WRITERS = {name: words for name, words in test_outputs.COMMANDS.items() if name != "profiles"}

TRAIN = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
import torch
from mcap.registry import Entry, registry
from tests.cli import test_train as helpers
for kind, factory in dict(
    detector=helpers.MiddleFaceDetector, identity=helpers._Identity, masker=helpers._Masker
).items():
    registry().entries[kind]["tiny"] = Entry(
        kind, "tiny", factory, "tests", licence="none", info=factory.info
    )
from mcap.cli import run
sys.exit(run(helpers.command(*sys.argv[1:])))
"""


@pytest.mark.parametrize("command", WRITERS)
def test_a_second_run_is_refused_before_any_work(
    tmp_path,
    monkeypatch,
    capsys,
    nothing_loads,
    command,
):
    monkeypatch.setattr("mcap.cli.export.EXPORT_WAIT", 0.0)
    out = tmp_path / "out"
    arguments = [str(word) for word in (*WRITERS[command], out)]
    with locked_folder(out, "mcap evaluate"):
        assert cli.run(["--json", *arguments]) == 2
        told = json.loads(capsys.readouterr().out)
        assert f"mcap evaluate (process {os.getpid()}" in told["error"]
        assert told["running"]["pid"] == os.getpid()
        assert {path.name for path in out.iterdir()} == {LOCK, RUN}


MODEL = str(tiny_folder())


def training(folder, *more: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'plugins'}"}
    environment["MCAP_FACES__MIN_QUALITY"] = "0"  # the photos are noise
    environment["HF_HUB_CACHE"] = str(folder / "hub")
    if not (folder / "hub").exists():
        into_hub_cache(folder / "hub")
    return subprocess.Popen(
        [sys.executable, "-c", TRAIN.format(root=str(ROOT)), *more, "--backbone", MODEL],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_of_two_trainings_into_one_folder_one_trains(place):
    """And where it is killed, the next one goes on where it was."""
    long = ("--set", "phase1_steps=2", "--set", "phase2_steps=2000", "--checkpoint-every", "2")
    first = training(place, *long)
    seen = ""
    while "phase 2" not in seen:  # it has begun
        seen = first.stderr.readline()
        assert seen, "the first run ended"
    second = training(place, *long)
    _, told = second.communicate(timeout=120)
    assert second.returncode == 2
    assert f"mcap train (process {first.pid}" in " ".join(told.split())
    assert first.poll() is None
    first.send_signal(signal.SIGKILL)
    first.communicate()
    third = training(place, *long)
    seen = ""
    while "phase 2" not in seen:
        line = third.stderr.readline()
        assert line, f"the third run ended: {seen}"
        seen += line
    assert "Going on with me.mcap after step" in " ".join(seen.split())
    third.send_signal(signal.SIGINT)
    _, told = third.communicate(timeout=120)
    assert third.returncode == 130
    assert not (place / "me.mcap" / LOCK).exists()


def test_what_a_killed_run_left_does_not_make_a_folder_taken(place):
    (place / "me.mcap").mkdir()
    (place / "me.mcap" / LOCK).touch()
    (place / "me.mcap" / RUN).write_text('{"command": "mcap train", "pid": 1}')
    done = training(place)
    _, told = done.communicate(timeout=120)
    assert done.returncode == 0, told
    assert read_subject(place / "me.mcap").manifest.state == "complete"
    assert not (place / "me.mcap" / RUN).exists()
    shutil.rmtree(place / "me.mcap")
