"""``mcap doctor --offline-proof``: what it refuses, what it sees, and what it says then."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mcap import cli
from mcap.cli.offline_proof import LOG, SOCKET_CALL, guard
from mcap.weights.catalogue import WEIGHTS
from tests.support import ROOT

ASKED = "socket.getaddrinfo"


@pytest.fixture
def proof(tmp_path, weights, monkeypatch, capsys):
    """Runs the command with the weights that it needs; returns exit code, JSON, standard error."""
    for name in ("yunet", "sface", "selfie-segmentation"):
        place = tmp_path / "cache" / "weights" / name
        place.mkdir(parents=True)
        shutil.copy(weights(name), place / WEIGHTS[name].file)
    monkeypatch.setenv("MCAP_CACHE_DIR", str(tmp_path / "cache"))

    def run(*words: str):
        code = cli.run(["--json", "doctor", "--offline-proof", *words])
        said = capsys.readouterr()
        return code, json.loads(said.out), said.err

    return run


@pytest.mark.slow
def test_it_holds(proof):
    """The three commands themselves, on the embedded model."""
    code, found, _ = proof()
    assert found["failure"] == ""
    assert code == 0 and found["holds"] is True and found["attempts"] == []
    assert found["commands"] == ["mcap mask", "mcap train", "mcap generate"]
    assert found["refused_by"] == guard()


def test_a_plugin_that_asks_is_told_of(proof, tmp_path, monkeypatch):
    """It asks as it is loaded; the run ends there, since no detector has that name."""
    (tmp_path / "talkative.py").write_text(
        "import socket\n"
        "try:\n    socket.getaddrinfo('nowhere.invalid', 80)\nexcept OSError:\n    pass\n"
    )
    facts = tmp_path / "talkative-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: talkative\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[mcap]\ntalkative = talkative\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("MCAP_DETECTOR", "nobody")
    code, found, _ = proof()
    assert code == 1 and found["holds"] is False and found["commands"] == []
    assert found["attempts"] and ASKED in found["attempts"][0], found
    assert found["failure"].startswith("mcap mask ended with 4:") and "nobody" in found["failure"]


def test_without_weights_they_are_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MCAP_CACHE_DIR", str(tmp_path))
    code = cli.run(["doctor", "--offline-proof"])
    said = capsys.readouterr().err
    assert code == 4 and "mcap models pull yunet sface" in said


def guarded(code: str, tmp_path: Path) -> tuple[str, list[str]]:
    """Return what a process prints that has refused itself sockets, and the attempts noted."""
    log = tmp_path / "attempts"
    begin = "from mcap.cli.offline_proof import refuse_sockets; refuse_sockets()\n"
    done = subprocess.run(
        [sys.executable, "-c", begin + code],
        env={**os.environ, LOG: str(log), "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout, log.read_text().splitlines() if log.exists() else []


@pytest.mark.parametrize(
    "call",
    [
        "socket.getaddrinfo('localhost', 80)",
        "socket.gethostbyname('localhost')",
        "socket.create_connection(('127.0.0.1', 9), 1)",
        "urllib.request.urlopen('http://127.0.0.1:9/', timeout=1)",
    ],
)
def test_what_python_asks_for_is_refused_and_noted(call, tmp_path):
    said, attempts = guarded(
        f"import socket, urllib.request\ntry:\n    {call}\nexcept OSError as error:\n"
        "    print('refused', error)\nelse:\n    print('went through')\n",
        tmp_path,
    )
    assert said.startswith("refused") and len(attempts) >= 1


@pytest.mark.skipif(
    sys.platform != "linux" or os.uname().machine not in SOCKET_CALL,
    reason="the kernel refuses on Linux alone",
)
def test_what_a_librarys_own_code_asks_for_is_refused_by_the_kernel(tmp_path):
    """No audit hook sees these calls. Threads and children are refused as well; sockets that
    leave the machine nowhere are not."""
    said, _ = guarded(
        "import ctypes, os, subprocess, sys, threading\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "def ask(family, kind=1):\n"
        "    ctypes.set_errno(0)\n"
        "    number = libc.socket(family, kind, 0)\n"
        "    print(family, number >= 0, ctypes.get_errno(), flush=True)\n"
        "ask(2), ask(10), ask(2, 2), ask(1)\n"
        "thread = threading.Thread(target=ask, args=(2,)); thread.start(); thread.join()\n"
        "code = 'import ctypes; print(ctypes.CDLL(None).socket(2, 1, 0))'\n"
        "subprocess.run([sys.executable, '-c', code])\n",
        tmp_path,
    )
    lines = said.splitlines()
    assert lines[:3] == ["2 False 13", "10 False 13", "2 False 13"], said
    assert lines[3].startswith("1 True") and lines[4:] == ["2 False 13", "-1"], said
