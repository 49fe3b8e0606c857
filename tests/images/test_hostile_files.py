"""A folder of damaged, mislabelled and hostile files: each is accepted or refused, with a reason.

The files are those of `benchmarks/hostile_files.py`, which goes through a thousand of them and also
watches time and memory.
"""

from __future__ import annotations

import importlib.util
import json

import pytest

from mcap.cli import run
from tests.support import ROOT

BENCHMARK = ROOT / "benchmarks" / "hostile_files.py"


@pytest.fixture(scope="module")
def hostile_files():
    spec = importlib.util.spec_from_file_location("hostile_files", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module  # its dataclasses look for their module there
    spec.loader.exec_module(module)
    return module


def test_no_file_ends_in_a_traceback(hostile_files, weights, tmp_path, capsys):
    weights("yunet"), weights("sface")
    photos = tmp_path / "photos"
    photos.mkdir()
    kinds = set()
    for title, name, data in hostile_files.hostile_files(36, seed=3):
        if title == "sizes that are true":
            continue  # a quarter of a gigapixel takes its seconds
        (photos / name).write_bytes(data)
        kinds.add(title)
    assert len(kinds) == len(hostile_files.MUTATIONS) - 1
    code = run(["--json", "mask", str(photos), "--out", str(tmp_path / "out"), "--size", "64"])
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err and "defect" not in printed.err
    assert code == 0
    entries = json.loads(printed.out)["photos"]
    assert len(entries) == len(list(photos.iterdir()))
    assert any(entry["accepted"] for entry in entries)
    assert all(entry["accepted"] or entry["reason"] for entry in entries)


def test_the_files_are_the_same_for_the_same_seed(hostile_files):
    assert {"png", "bmp", "gif", "jpg", "webp", "tiff"} <= set(hostile_files.seeds())
    first = list(hostile_files.hostile_files(10, seed=1))
    assert first == list(hostile_files.hostile_files(10, seed=1))
