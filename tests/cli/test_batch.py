"""``mcap batch`` as a user types it, with jobs that are simulated, and its errors."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from mcap import cli
from mcap.batch import run as running
from mcap.batch.folder import LEDGER, JobFolders
from mcap.batch.ledger import Ledger
from mcap.cli import batch_plan
from mcap.registry import registry
from mcap.weights.required import WeightLine
from tests.support import ROOT
from tests.support.simulated_jobs import PARTS, part_path

CPU = ["--device", "cpu", "--workers", "2", "--min-free", "0"]


@pytest.fixture(autouse=True)
def simulated(monkeypatch):
    """Jobs write a few bytes; the processes of workers find this tree."""
    monkeypatch.setattr(running, "RUNNER", "tests.support.simulated_jobs:make_runner")
    before = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([*([before] if before else []), str(ROOT), str(ROOT / "plugins")])
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(registry(), "kept", None)  # a task keeps networks for its process


@pytest.fixture
def clients(tmp_path) -> Path:
    for name in ("anna", "bob"):
        (tmp_path / "clients" / name).mkdir(parents=True)
        (tmp_path / "clients" / name / "1.jpg").write_bytes(b"no photo")
    return tmp_path / "clients"


def mcap(capsys, *words) -> tuple[int, str, str]:
    code = cli.run(["batch", *map(str, words)])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_people_in_styles(tmp_path, clients, capsys):
    out = tmp_path / "studio"
    words = (clients, "--style", "passport,business", "--seed", 20, "--out", out, *CPU)
    code, said, progress = mcap(capsys, *words)
    assert code == 0, progress
    assert "4 done, 0 failed." in said and str(out / "index.html") in said
    assert "anna, passport: done after" in progress and "4/4 done" in progress
    assert all(part_path(JobFolders(out, "anna", "business"), part).is_file()
               for part in range(PARTS))  # fmt: skip
    code, said, _ = mcap(capsys, "--json", *words)
    assert code == 0 and json.loads(said)["done"] == 4
    code, said, _ = mcap(capsys, "status", out, "--json")
    found = json.loads(said)["jobs"]
    assert [(job["person"], job["style"], job["state"]) for job in found] == [
        (person, style, "done") for person in ("anna", "bob") for style in ("passport", "business")
    ]
    assert found[0]["attempts"][0]["exit_code"] == 0
    code, said, _ = mcap(capsys, "status", out)
    assert code == 0 and "4 jobs: 4 done." in said


def test_a_failure_ends_with_1_and_can_be_tried_again(tmp_path, capsys):
    (tmp_path / "jobs.csv").write_text(
        "person,source,style\nends with 3,x,passport\nanna,x,passport\n"
    )
    out = tmp_path / "studio"
    code, said, progress = mcap(capsys, tmp_path / "jobs.csv", "--out", out, *CPU)
    assert code == 1 and "1 done, 1 failed." in said
    assert "ends with 3 in train: told to end with 3" in progress
    code, said, progress = mcap(capsys, tmp_path / "jobs.csv", "--out", out, *CPU)
    assert code == 1 and "1 done, 1 failed." in said  # what was given up is for retry
    code, said, progress = mcap(capsys, "retry", out, "--failed-only", "--gpus", "none")
    assert code == 1 and "anna" not in progress
    code, said, _ = mcap(capsys, "status", out, "--json")
    (failed, _) = json.loads(said)["jobs"]
    assert failed["cause"] == "refused" and "mcap batch retry" in failed["remedy"]
    assert len(failed["attempts"]) == 2


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["{clients}", "--out", "{out}"], 2, "has no style"),
        (["{clients}", "--style", "nowhere", "--out", "{out}"], 2, "nowhere"),
        (["{out}", "--style", "passport", "--out", "{out}"], 2, "is not there"),
        (["{clients}", "--style", "passport"], 2, "--out"),
        (["statis", "{out}"], 2, "'statis' is no command, and no such folder is here. Did you mean "
         "'status'"),
        (["{clients}", "--style", "passport", "--out", "{clients}"], 2, "folder of the photos"),
        (["{clients}", "--style", "passport", "--out", "{clients}/anna/1.jpg"], 2, "is a file"),
        (["{clients}", "--style", "passport", "--out", "{out}", "--engine", "cloud"], 4,
         "No engine called 'cloud' is installed; there are: local, ray"),
        (["{clients}", "--style", "passport", "--out", "{out}", "--gpus", "x"], 2, "--gpus x"),
        (["{clients}", "--style", "passport", "--out", "{out}", "--gpus", "1,1"], 2, "each once"),
        (["{clients}", "--style", "passport", "--out", "{out}", "--gpus", "1",
          "--device", "cuda:0"], 2, "both name GPUs"),
        (["{clients}", "--style", "passport", "--out", "{out}", "--ray-address", "auto"], 2,
         "goes with --engine ray"),
        (["{clients}", "--style", "passport", "--out", "{out}", "--ray-label", "x"], 2,
         "give KEY=VALUE"),
        (["{clients}", "--style", "passport", "--out", "{out}", "--restorer", "demo-sr"], 2,
         "goes with --enhance"),
        (["{jobs}", "--out", "{out}"], 2, "job 1: unknown key 'stile'. Did you mean 'style'"),
        (["status", "{out}"], 2, "is not there"),
        (["retry", "{clients}"], 2, "is no folder of mcap batch"),
        (["task", "{clients}", "0"], 2, "mcap batch emit writes it"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(tmp_path, clients, capsys, words, code, told):
    jobs = tmp_path / "jobs.toml"
    jobs.write_text('[[jobs]]\nperson = "a"\nsource = "a"\nstile = "passport"\n')
    places = {"clients": clients, "out": tmp_path / "studio", "jobs": jobs}
    given = [word.format(**places) for word in words]
    found, _, said = mcap(capsys, *given)
    assert (found, told in said) == (code, True), said
    assert not (tmp_path / "studio" / LEDGER).exists()


def test_the_plan_alone(tmp_path, clients, capsys):
    out = tmp_path / "studio"
    code, said, _ = mcap(
        capsys, "--json", clients, "--style", "passport", "--out", out, "--dry-run"
    )
    plan = json.loads(said)
    assert code == 0 and plan["dry_run"] and not out.exists()
    assert [job["person"] for job in plan["jobs"]] == ["anna", "bob"]
    assert all(job["seconds"] > 0 and job["disk_mb"] > 0 for job in plan["jobs"])
    (clients / "carl" / "2024").mkdir(parents=True)
    code, said, notes = mcap(capsys, clients, "--style", "passport", "--out", out, "--dry-run")
    assert code == 0 and "3 jobs of 3 people" in said
    assert "No photo lies directly in the folder of carl: " in notes


def test_missing_weights_stop_it_before_the_first_job(tmp_path, clients, capsys, monkeypatch):
    line = WeightLine("big", "backbone", 4_300_000_000, "OpenRAIL", False, here=False)
    monkeypatch.setattr(batch_plan, "required_weights", lambda _: [line])
    out = tmp_path / "studio"
    code, _, said = mcap(capsys, clients, "--style", "passport", "--out", out, *CPU)
    assert code == 4
    assert "big, 4.3 GB, OpenRAIL, no commercial use (backbone)" in said
    assert "mcap models pull big" in said and not (out / LEDGER).exists()


@pytest.mark.parametrize("name", ["slurm", "k8s"])
def test_an_array_has_a_task_a_person(tmp_path, clients, capsys, name):
    import yaml

    out = tmp_path / "studio"
    words = ("emit", clients, "--style", "passport,business", "--out", out, "--format", name)
    code, script, said = mcap(capsys, *words, "--workers", 1)
    assert code == 0, said
    if name == "slurm":
        assert "#SBATCH --array=0-1%1\n" in script and "#SBATCH --gpus=1\n" in script
        subprocess.run(["sh", "-n"], input=script, text=True, check=True)
    else:
        spec = yaml.safe_load(script)["spec"]
        assert (spec["completions"], spec["parallelism"]) == (2, 1)
        (container,) = spec["template"]["spec"]["containers"]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
        assert f"mcap --offline batch task {out}" in container["command"][2]
    for number in range(2):
        code = cli.run(["batch", "task", str(out), str(number)])
        # The photos are none: mcap itself says so, in each of the two styles.
        assert code == 3
    code, said, _ = mcap(capsys, "status", out, "--json")
    found = json.loads(said[said.index("{") :])["jobs"]
    assert [(job["state"], job["cause"], job["stage"]) for job in found] == [
        ("failed", "refused", "mask")
    ] * 4
    assert found[0]["details"]["refused"][0][0] == "1.jpg"
    assert not list(out.glob("people/*/*.outcome.json"))
    code, _, said = mcap(capsys, "task", out, 7)
    assert code == 2 and "has no task 7" in said


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_told_to_end_it_says_how_to_go_on(tmp_path, number):
    (tmp_path / "jobs.csv").write_text(
        "person,source,style,seed\n" + "".join(f"p{n},x,passport,1500\n" for n in range(6))
    )
    out = tmp_path / "studio"
    code = (
        "import sys; from mcap import cli; from mcap.batch import run\n"
        "run.RUNNER = 'tests.support.simulated_jobs:make_runner'\n"
        "cli.main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", code, "batch", str(tmp_path / "jobs.csv"), "--out", str(out)]
    with subprocess.Popen([*command, *CPU], stderr=subprocess.PIPE, text=True) as batch:
        deadline = time.monotonic() + 120
        while not list(out.glob("people/*/*.tries")) and time.monotonic() < deadline:
            time.sleep(0.05)
        batch.send_signal(number)
        _, said = batch.communicate(timeout=120)
    assert batch.returncode == 130, said
    assert f"Go on with: mcap batch run {tmp_path / 'jobs.csv'} --out {out}" in said
    with closing(Ledger(out)) as ledger:
        states = {row.state for row in ledger.rows()}
    assert "waiting" in states and not states & {"running", "failed"}
