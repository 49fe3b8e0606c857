"""A process that waits becomes the command that it is told, as if that had been started."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.support.masked_photos import photos


def begin() -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", "mcap.cli.standby"], stdin=subprocess.PIPE)


@pytest.mark.parametrize("text", ["", '{"words": ["mask"'])
def test_without_words_it_ends(text):
    process = begin()
    process.communicate(text.encode(), timeout=120)
    assert process.returncode == 0


def test_it_writes_what_the_command_does(tmp_path, weights):
    weights("yunet"), weights("sface")
    source = tmp_path / "photos"
    source.mkdir()
    photos(source)
    (tmp_path / "log").write_text("before\n")
    words = ["--json", "mask", "--out", str(tmp_path / "waited"), "--", str(source)]
    asked = {"words": words, "out": str(tmp_path / "out"), "log": str(tmp_path / "log")}
    process = begin()
    process.communicate(json.dumps(asked).encode() + b"\n", timeout=120)
    words[3] = str(tmp_path / "started")
    done = subprocess.run([sys.executable, "-m", "mcap", *words], capture_output=True, check=False)
    assert process.returncode == done.returncode
    said = json.loads((tmp_path / "out").read_text().replace("waited", "started"))
    assert said == json.loads(done.stdout)
    assert (tmp_path / "log").read_text().startswith("before\nFinding and masking faces")
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o600
