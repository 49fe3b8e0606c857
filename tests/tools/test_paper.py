"""benchmarks/paper.sh on a small model of Stable Diffusion's form."""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys

import pytest

from mcap.training.recipe import RECIPES
from tests.support import ROOT
from tests.support.tiny import tiny_folder

SCRIPT = ROOT / "benchmarks" / "paper.sh"


@pytest.fixture
def run(tmp_path, weights):
    for name in ("yunet", "sface"):
        weights(name)
    people = tmp_path / "people"
    for photo in sorted((ROOT / "benchmarks" / "people" / "1").iterdir())[:2]:
        (people / "one").mkdir(parents=True, exist_ok=True)
        shutil.copy(photo, people / "one")
    program = tmp_path / "mcap"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mcap --offline "$@"\n')
    program.chmod(0o755)
    environment = {
        **os.environ,
        "MCAP": str(program), "BACKBONE": str(tiny_folder()), "STYLES": "passport",
        "REPEATS": "1", "AGAINST": "released",
        "MCAP_SAFETY__CLASSIFIER": "off", "MCAP_SAFETY__I_AM_RESPONSIBLE": "true",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'plugins'}",
        "HF_HUB_CACHE": str(tmp_path / "hub"),
    }  # fmt: skip

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["sh", str(SCRIPT), *arguments]
        return subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=600
        )

    return call


def test_it_says_what_it_will_take_and_then_compares(run, tmp_path):
    options = ("--set", "phase1_steps=1", "--set", "phase2_steps=1", "--device", "cpu")
    few = (*options, "--count", "1", "--measures", "faces,style,words")
    told = run("people", "out", *few, "--dry-run")
    assert told.returncode == 0, told.stderr
    assert "on 1 person: 2 trainings, 0 of them done; 2 pictures" in told.stderr
    assert not (tmp_path / "out").exists()

    done = run("people", "out", *few)
    assert done.returncode == 0, done.stderr
    assert "without CLIP" in done.stderr
    with (tmp_path / "out" / "results.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["recipe"] for row in rows] == ["magicapture", "released"]
    assert (tmp_path / "out" / "report.html").is_file()


def test_it_says_how_it_is_called():
    done = subprocess.run(["sh", str(SCRIPT)], capture_output=True, text=True)
    assert done.returncode == 2 and "subfolder of photos a person" in done.stderr


def test_its_recipes_are_those_that_there_are():
    lists = re.findall(r"^(?:rivals|without)=(.+)$", SCRIPT.read_text(), re.MULTILINE)
    named = {name for text in lists for name in text.split(",")}
    left_out = {"dreambooth", "instant"}  # the script says why
    assert named | {"magicapture"} | left_out == set(RECIPES)
