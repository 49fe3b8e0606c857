"""The main job as a user types it, on the embedded backbone and the example photos, with few steps.

What these tests look at is that every stage takes what the one before it left; how good the
pictures are is measured by ``benchmarks/identity.py``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.support import ROOT

SELFIES = ROOT / "examples" / "selfies"
PICTURES = 3
FEW_STEPS = ["--set", "phase1_steps=4", "--set", "phase2_steps=4", "--set", "least_steps=1.0"]


def mcap(*arguments: str | Path, cwd: Path, code: int = 0, **environment: str) -> str:
    """Run the program; its standard output, after its exit code was checked."""
    done = subprocess.run(
        [sys.executable, "-m", "mcap", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def subject(tmp_path_factory, weights) -> Path:
    weights("yunet")
    weights("sface")
    folder = tmp_path_factory.mktemp("end-to-end")
    printed = mcap(
        "train", "--source", SELFIES, "--style", "passport", "--backbone", "demo",
        "--out", "me.mcap", *FEW_STEPS, "--json", cwd=folder,
    )  # fmt: skip
    json.loads(printed)
    return folder / "me.mcap"


def test_training_writes_a_complete_subject(subject: Path):
    manifest = json.loads((subject / "manifest.json").read_text())
    assert manifest["state"] == "complete"
    assert manifest["backbone"]["id"] == "demo"
    logged = [json.loads(line) for line in (subject / "metrics.jsonl").read_text().splitlines()]
    assert {record["phase"] for record in logged} == {1, 2}
    assert all(0 <= record["losses"]["identity"] <= 2 for record in logged
               if "identity" in record["losses"])  # fmt: skip
    assert any("identity" in record["losses"] for record in logged)


def test_the_same_command_again_trains_nothing(subject: Path):
    before = (subject / "adapter.safetensors").stat().st_mtime_ns
    mcap(
        "train", "--source", SELFIES, "--style", "passport", "--backbone", "demo",
        "--out", subject, *FEW_STEPS, cwd=subject.parent,
    )  # fmt: skip
    assert (subject / "adapter.safetensors").stat().st_mtime_ns == before


def test_pictures_are_ranked_and_say_how_they_were_made(subject: Path):
    arguments = ("generate", subject, "--count", str(PICTURES), "--seed", "7", "--out", "portraits")
    printed = mcap(*arguments, cwd=subject.parent)
    out = subject.parent / "portraits"
    assert "contact-sheet.jpg" in printed.strip().splitlines()[-1]
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert len(rows) == PICTURES
    # By the network that judges, where one is installed.
    found = [
        (row.get("judge") or row)["similarity"] for row in rows if row["similarity"] is not None
    ]
    assert found == sorted(found, reverse=True)
    pictures = sorted(out.glob("*.png"))
    assert len(pictures) == PICTURES
    width, height = Image.open(pictures[0]).size
    assert width / height == pytest.approx(35 / 45, abs=0.02)
    shown = json.loads(mcap("inspect", pictures[0], "--json", cwd=subject.parent))
    assert "trainedAlgorithmicMedia" in json.dumps(shown)
    assert str(Path.home()) not in json.dumps(shown)

    written = {path: path.stat().st_mtime_ns for path in pictures}
    mcap(*arguments, cwd=subject.parent)
    assert {path: path.stat().st_mtime_ns for path in pictures} == written


def test_nothing_usable_ends_with_exit_code_3(tmp_path: Path, weights):
    weights("yunet")
    weights("sface")
    (tmp_path / "note.jpg").write_text("not a picture")
    Image.new("RGB", (640, 640), "white").save(tmp_path / "wall.png")
    printed = mcap(
        "train", "--source", tmp_path, "--style", "passport", "--out", "x.mcap", "--json",
        cwd=tmp_path, code=3,
    )  # fmt: skip
    refused = {item["photo"]: item["reason"] for item in json.loads(printed)["refused"]}
    assert {"note.jpg", "wall.png"} <= {Path(name).name for name in refused}
    assert all(refused.values())
    assert not (tmp_path / "x.mcap").exists()


def test_training_goes_on_without_a_network(subject: Path):
    """Once the weights are there nothing reaches out: the proxy below answers nobody."""
    nowhere = "http://127.0.0.1:9"
    mcap(
        "generate", subject, "--count", "1", "--out", "again", "--offline", cwd=subject.parent,
        HTTP_PROXY=nowhere, HTTPS_PROXY=nowhere,
    )  # fmt: skip
    assert len(list((subject.parent / "again").glob("*.png"))) == 1
