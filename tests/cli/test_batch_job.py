"""A job in a worker: the commands, one after the other, and models that stay loaded."""

from __future__ import annotations

import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from mcap.batch import BatchSettings, Job, run_batch
from mcap.batch.events import JobStarted, Tick
from mcap.batch.folder import JobFolders
from mcap.batch.run import RUNNER
from mcap.cli import batch_job
from mcap.contracts import WorkerPlan
from mcap.registry import registry
from tests.support import ROOT
from tests.support.generating import files

ORDER: dict[str, Any] = {
    "person": "anna",
    "style": "passport",
    "seed": 3,
    "overrides": [],
    "count": None,
    "best": None,
    "enhance": False,
    "restorer": None,
    "low_memory": False,
    "force": False,
    "checkpoint_every": 100,
    "environment": {"MCAP_THREADS": "1", "MCAP_DEVICE": "cpu"},
}


@pytest.fixture
def order(tmp_path) -> dict[str, Any]:
    (tmp_path / "-anna").mkdir()
    return {**ORDER, "studio": str(tmp_path / "studio"), "source": str(tmp_path / "-anna")}


@pytest.fixture
def commands(monkeypatch):
    """What would be run; the answers are taken from a list, or are (0, {})."""
    ran, answers = [], {}

    def command(arguments, log):
        ran.append(list(arguments))
        return answers.get(arguments[0], [(0, {})]).pop(0) if answers.get(arguments[0]) else (0, {})

    monkeypatch.setattr(batch_job, "command", command)
    return ran, answers


def folders(order) -> JobFolders:
    return JobFolders(Path(order["studio"]), order["person"], order["style"])


def test_the_stages_are_the_commands(order, commands):
    ran, _ = commands
    asked = {"count": 4, "best": 2, "enhance": True, "restorer": "demo-sr", "low_memory": True,
             "overrides": ["identity_weight=0.5"]}  # fmt: skip
    place = folders(order)
    outcome = batch_job.run_stages({**order, **asked}, place)
    assert outcome["exit_code"] == 0
    mask, train, generate, enhance = ran
    assert mask == ["mask", "--out", str(place.masked), "--", order["source"]]
    assert train[:3] == ["train", "--source", order["source"]]
    assert train[train.index("--set") :][:2] == ["--set", "identity_weight=0.5"]
    assert "--low-memory" in train and "--force" not in train
    assert [generate[generate.index(flag) + 1] for flag in ("--count", "--best", "--seed")] == [
        "4", "2", "3"
    ]  # fmt: skip
    assert enhance[-1] == str(place.portraits) and "demo-sr" in enhance
    assert list(outcome["details"]["seconds"]) == ["mask", "train", "generate", "enhance"]


def test_the_verdicts_on_the_photos_come_along(order, commands):
    _, answers = commands
    photos = [{"path": "/x/a.jpg", "accepted": False, "reason": "blurred"},
              {"path": "/x/b.jpg", "accepted": True, "reason": ""}]  # fmt: skip
    answers["mask"] = [(3, {"error": "No usable photo", "accepted": 1, "photos": photos})]
    outcome = batch_job.run_stages(order, folders(order))
    assert (outcome["exit_code"], outcome["stage"]) == (3, "mask")
    assert outcome["message"] == "No usable photo"
    assert outcome["details"]["refused"] == [["a.jpg", "blurred"]]


def test_a_picture_that_is_not_as_asked_fails_no_job(order, commands):
    _, answers = commands
    answers["enhance"] = [(3, {"pictures": [{}]}), (3, {"error": "No picture"})]
    outcome = batch_job.run_stages({**order, "enhance": True}, folders(order))
    assert outcome["exit_code"] == 0 and "look at them" in outcome["details"]["remarks"][0]
    outcome = batch_job.run_stages({**order, "enhance": True}, folders(order))
    assert (outcome["exit_code"], outcome["stage"]) == (3, "enhance")


def test_other_photos_are_trained_again_only_with_force(order, commands):
    ran, answers = commands
    changed = (2, {"error": "was trained on other inputs", "changed": ["source photos"]})
    answers["train"] = [changed, changed]
    assert batch_job.run_stages(order, folders(order))["exit_code"] == 2
    ran.clear()
    assert batch_job.run_stages({**order, "force": True}, folders(order))["exit_code"] == 0
    assert [one[0] for one in ran] == ["mask", "train", "train", "generate"]
    assert ran[2][-1] == "--force"


def test_a_folder_that_is_gone_is_told_as_one(order, commands):
    ran, _ = commands
    Path(order["source"]).rmdir()
    outcome = batch_job.run_stages(order, folders(order))
    assert outcome["exit_code"] == 3 and "-anna: is not there any more" in outcome["message"]
    assert not ran


def test_a_training_that_never_ended_begins_anew_on_other_photos(order, commands):
    ran, answers = commands
    changed = ["source photos (1.jpg)", "masks (1.png)"]
    refusal = {"error": "trained on other inputs", "changed": changed, "state": "training"}
    answers["train"] = [(2, dict(refusal))]
    assert batch_job.run_stages(order, folders(order))["exit_code"] == 0
    assert [one[-1] for one in ran if one[0] == "train"][-1] == "--force"
    for kept in ({"state": "complete"}, {"changed": ["recipe (rank)"]}):
        ran.clear()
        answers["train"] = [(2, {**refusal, **kept})]
        outcome = batch_job.run_stages(order, folders(order))
        assert [one[0] for one in ran] == ["mask", "train"]
        assert outcome["exit_code"] == 2 and "--failed-only --force" in outcome["message"]


def test_settings_are_the_batchs_and_not_the_machines(monkeypatch):
    monkeypatch.setenv("MCAP_BACKBONE", "sdxl")
    monkeypatch.setenv("MCAP_CACHE_DIR", "/cache")
    with batch_job.variables({"MCAP_THREADS": "1"}):
        assert "MCAP_BACKBONE" not in os.environ
        assert os.environ["MCAP_THREADS"] == "1" and os.environ["MCAP_CACHE_DIR"] == "/cache"
    assert os.environ["MCAP_BACKBONE"] == "sdxl" and "MCAP_THREADS" not in os.environ


def test_a_worker_loads_once(monkeypatch):
    from mcap import registry as module

    found = module.Registry()
    found.keep()
    first = found.create("detector", "yunet")
    assert found.create("detector", "yunet") is first
    (kept,) = found.kept.values()
    assert kept.reused == 1 and kept.seconds > 0
    # Two backbones have no room beside each other.
    made = []
    entry = module.Entry("backbone", "one", lambda *_, **__: made.append(0), "test")
    monkeypatch.setattr(module, "wrong_object", lambda *_: [])
    found.entries["backbone"]["one"] = entry
    found.entries["backbone"]["two"] = entry
    for name in ("one", "one", "two", "one"):
        found.create("backbone", name, "cpu")
    assert len(made) == 3
    assert [key[0] for key in found.kept] == ["detector", "backbone"]
    found.drop("backbone")
    assert [key[0] for key in found.kept] == ["detector"]
    assert registry().kept is None  # a command's own process keeps nothing


@pytest.mark.slow
def test_a_warm_worker_writes_what_the_commands_write(tmp_path):
    """Two people in one worker, against each command in a process of its own."""
    code = (
        "import json, sys; from mcap.cli.batch_job import make_runner\n"
        "run = make_runner()\n"
        "for order in json.load(sys.stdin): print(run(order))\n"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(
            [os.environ.get("PYTHONPATH", ""), str(ROOT), str(ROOT / "plugins")]
        ),
        "MCAP_OFFLINE": "1",
    }
    small = ["phase1_steps=2", "phase2_steps=2"]
    orders = [
        {**ORDER, "person": name, "source": str(ROOT / "benchmarks" / "people" / name),
         "studio": str(tmp_path / "warm"), "overrides": small, "count": 1}
        for name in ("1", "2")
    ]  # fmt: skip
    import json

    done = subprocess.run([sys.executable, "-c", code], input=json.dumps(orders), text=True,
                          env=environment, capture_output=True, check=True)  # fmt: skip
    assert done.stdout.count("'exit_code': 0") == 2, done.stdout + done.stderr
    for order in orders:
        place = JobFolders(tmp_path / "cold", order["person"], order["style"])
        for stage in batch_job.stages(order, place):
            subprocess.run(
                [sys.executable, "-m", "mcap", stage.name, *stage.arguments],
                env={**environment, **ORDER["environment"]}, capture_output=True, check=True,
            )  # fmt: skip
        warm = JobFolders(tmp_path / "warm", order["person"], order["style"])
        for one in ("portraits", "masked"):
            pictures = {
                name: data for name, data in files(getattr(place, one)).items()
                if name.endswith((".png", ".jpg"))
            }  # fmt: skip
            found = files(getattr(warm, one))
            assert pictures and all(found[name] == data for name, data in pictures.items())
        for name in ("adapter.safetensors",):
            assert (warm.subject / name).read_bytes() == (place.subject / name).read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_workers_killed_while_they_train_change_nothing(tmp_path, monkeypatch):
    """Five, at random moments of a training, against a batch that nobody disturbs."""
    path = [os.environ.get("PYTHONPATH", ""), str(ROOT), str(ROOT / "plugins")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, path)))
    jobs = []
    for name in ("1", "2", "3"):
        (tmp_path / name).mkdir()
        for photo in sorted((ROOT / "benchmarks" / "people" / name).iterdir())[:3]:
            shutil.copy(photo, tmp_path / name)
        steps = ("phase1_steps=10", "phase2_steps=10")
        jobs.append(Job(name, tmp_path / name, "passport", 3, steps))
    settings = BatchSettings(
        environment={"MCAP_DEVICE": "cpu", "MCAP_OFFLINE": "1"},
        count=1,
        checkpoint_every=3,
        min_free_mb=0,
    )
    chance, lasts, killed = random.Random(0), [], []

    def run(out: Path, todo, kills: int) -> int:
        """Return how many jobs are done; each attempt's worker is killed, until ``kills`` are."""
        plan = WorkerPlan(RUNNER, out, workers=1, gpus=(), threads=1)
        engine = registry().create("engine", "local")
        stands = "waits"
        for event in run_batch(todo, out, engine, settings=settings, plan=plan):
            if isinstance(event, JobStarted):
                place = JobFolders(out, event.row.job.person, "passport")
                stands, since, moment = "prepares", 0.0, 0.0
                share = 0.8 if event.attempt == 1 else 0.3  # what was done before goes on
                begun = place.log.stat().st_size if place.log.is_file() else 0
            elif isinstance(event, Tick) and stands != "waits":
                now = time.monotonic()
                said = place.log.read_bytes()[begun:] if place.log.is_file() else b""
                if stands == "prepares" and b"\nphase " in said:
                    stands, since = "learns", now
                    moment = now + chance.uniform(0.0, share) * min(lasts, default=math.inf)
                if stands == "learns" and b"mcap generate" in said:
                    stands = "has learnt"
                    lasts.append(now - since)
                if stands == "learns" and now >= moment and len(killed) < kills:
                    stands = "is dead"
                    (worker,) = psutil.Process().children()
                    worker.send_signal(signal.SIGKILL)
                    killed.append(now - since)
        return event.done

    assert run(tmp_path / "whole", jobs, 0) == len(jobs)
    todo = jobs
    for _ in range(4):  # a job that lost its worker three times waits for a retry
        if run(tmp_path / "killed", todo, 5) == len(jobs):
            break
        todo = None
    assert len(killed) == 5
    for job in jobs:
        whole, found = (JobFolders(tmp_path / name, job.person, "passport")
                        for name in ("whole", "killed"))  # fmt: skip
        adapter = "adapter.safetensors"
        assert (found.subject / adapter).read_bytes() == (whole.subject / adapter).read_bytes()
        pictures = {name: data for name, data in files(whole.portraits).items()
                    if name.endswith(".png")}  # fmt: skip
        assert pictures
        assert all(files(found.portraits)[name] == data for name, data in pictures.items())
