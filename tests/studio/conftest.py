"""A studio with a page that answers without a browser, and commands that end at once."""

from __future__ import annotations

import io
import sys
import textwrap
from pathlib import Path

import pytest
from PIL import Image

from mcap.studio.folder import add_person, token_of
from mcap.studio.jobs import Jobs, let_interrupts_through

PROGRAM = """
import json, signal, sys, time
from pathlib import Path

words = sys.argv[1:]
if "--wait" in words:  # saves and says so, as mcap train does
    until = Path(words[words.index("--wait") + 1])

    def stop(*_):
        print(json.dumps({"error": "Interrupted", "exit_code": 130}))
        sys.exit(130)

    signal.signal(signal.SIGINT, stop)
    print("phase 1: 3/10 (30 %), 0:10 left", file=sys.stderr, flush=True)
    while not until.exists():
        time.sleep(0.02)
if "--fail" in words:
    print(json.dumps({"error": "No usable photo", "exit_code": 3}))
    sys.exit(3)
print(json.dumps({"words": words}))
"""
"""Stands in for ``mcap``, which takes seconds to start."""


STANDBY = """
import json, os, runpy, sys

line = sys.stdin.readline()
if line:
    asked = json.loads(line)
    for path, descriptor in ((asked["out"], 1), (asked["log"], 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), descriptor)
    sys.argv = [sys.argv[1], *asked["words"], "from standby"]
    runpy.run_path(sys.argv[0])
"""
"""Stands in for ``mcap.cli.standby``."""


@pytest.fixture
def standby(tmp_path, program) -> tuple[str, str, str]:
    path = tmp_path / "standby.py"
    path.write_text(textwrap.dedent(STANDBY))
    return sys.executable, str(path), program[1]


@pytest.fixture
def program(tmp_path) -> tuple[str, str]:
    let_interrupts_through()  # tests may run in the background
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(PROGRAM))
    return sys.executable, str(path)


@pytest.fixture
def studio(tmp_path) -> Path:
    """The folder of a studio with one person, Anna."""
    folder = tmp_path / "studio"
    add_person(folder, "Anna")
    return folder


@pytest.fixture
def jobs(studio, program):
    made = Jobs(studio, program=program)
    yield made
    made.close(10)


@pytest.fixture
def token(studio) -> str:
    return token_of(studio)


def jpeg(shade: int = 0, side: int = 64) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (side, side), (shade, 100, 200)).save(data, "JPEG")
    return data.getvalue()
