"""What the documentation shows is what works: its plugin is installed and used as printed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from tests.support import ROOT

PAGE = ROOT / "docs" / "plugins.md"
MODULE = "mcap_looks_twice.py"


def blocks() -> dict[str, str]:
    """The two files of the page's plugin, by name."""
    text = PAGE.read_text(encoding="utf-8")
    found = re.findall(r"`([\w.]+)`:\n\n```(?:toml|python)\n(.*?)```", text, flags=re.DOTALL)
    return {name: text for name, text in found if name in {"pyproject.toml", MODULE}}


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> dict[str, str]:
    """Install the page's plugin with pip into a folder; returns an environment that has it."""
    if find_spec("pip") is None:
        pytest.skip("this environment has no pip to install the plugin with")
    source, target = tmp_path_factory.mktemp("plugin"), tmp_path_factory.mktemp("site")
    for name, text in blocks().items():
        (source / name).write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--no-build-isolation", "--no-index", "--target", target, source]
    subprocess.run(command, check=True, capture_output=True, text=True)
    # This tree, whatever is installed.
    path = os.pathsep.join(map(str, (target, ROOT, ROOT / "plugins")))
    return {**os.environ, "PYTHONPATH": path}


def mcap(environment: dict[str, str], *args: str, cwd: Path) -> dict:
    done = subprocess.run(
        [sys.executable, "-m", "mcap", "--json", *args],
        env=environment,
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_it_is_whole_and_short():
    files = blocks()
    assert set(files) == {"pyproject.toml", MODULE}
    assert sum(len(text.splitlines()) for text in files.values()) < 60


def test_mcap_plugins_shows_it(installed, tmp_path):
    result = mcap(installed, "plugins", "looks_twice", cwd=tmp_path)
    assert result["plugins"] == [{"name": "looks_twice", "from": "mcap-looks-twice 1.0"}]
    assert {(item["kind"], item["name"]) for item in result["entries"]} == {
        ("detector", "looks-twice"),
        ("masker", "ellipse"),
    }
    assert result["failures"] == []


def test_mcap_mask_uses_it(installed, weights, tmp_path):
    from PIL import Image
    from skimage import data

    weights("yunet")
    weights("sface")
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.fromarray(data.astronaut()).save(photos / "astronaut.png")
    command = re.search(r"^mcap (mask photos .*)$", PAGE.read_text(), flags=re.MULTILINE)
    mcap(installed, *command[1].split(), cwd=tmp_path)

    mask = np.asarray(Image.open(tmp_path / "masks" / "masks" / "astronaut.png"))
    assert mask.shape[:2] == (512, 512)
    rows, columns = np.nonzero(mask >= 128)
    # Half way up its soft rim the mask is the ellipse itself: it covers pi/4 of its bounding box.
    box = (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
    assert abs(rows.size / box - np.pi / 4) < 0.02
    # It lies on the astronaut's face, whose nose is near (225, 120).
    assert mask[120, 225] == 255
    assert mask[300, 100] == 0
