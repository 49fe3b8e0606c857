"""Whole batches of simulated jobs: causes, fairness, crashes, two schedulers; on both engines."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import pytest

from mcap.batch import BatchSettings, Job, Planned, run_batch
from mcap.batch import scheduler as scheduling
from mcap.batch.events import BatchEnded, BatchPlanned, JobEnded, JobStarted, WorkerLost
from mcap.batch.folder import JobFolders
from mcap.batch.ledger import Ledger
from mcap.contracts import WorkerPlan
from mcap.errors import McapError, UsageError
from mcap.registry import registry
from tests.support import ROOT
from tests.support.simulated_jobs import PARTS, part_bytes, part_path

RUNNER = "tests.support.simulated_jobs:make_runner"
SMALL = BatchSettings(min_free_mb=0)


def python_path() -> str:
    """Return what lets other processes import this tree, whatever is installed."""
    before = os.environ.get("PYTHONPATH")
    return os.pathsep.join([*([before] if before else []), str(ROOT), str(ROOT / "plugins")])


@pytest.fixture(params=["local", pytest.param("ray", marks=pytest.mark.slow)])
def engine(request, monkeypatch):
    """A new engine; its workers find this tree, whatever is installed."""
    if request.param == "ray" and find_spec("ray") is None:
        pytest.skip("ray is not installed (mcap[ray])")
    monkeypatch.setenv("PYTHONPATH", python_path())
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return registry().create("engine", request.param)


def job(person: str, milliseconds: int = 40, style: str = "passport", **more) -> Planned:
    return Planned(Job(person, Path("/nowhere"), style, milliseconds), **more)


def batch(jobs, out, engine, *, workers=2, settings=SMALL, runner=RUNNER, **more):
    plan = WorkerPlan(runner, out, workers=workers, gpus=(), threads=1)
    return list(run_batch(jobs, out, engine, settings=settings, plan=plan, **more))


def rows(out: Path) -> dict[tuple[str, str], object]:
    with closing(Ledger(out)) as ledger:
        return {(row.job.person, row.job.style): row for row in ledger.rows()}


def assert_undisturbed(out: Path, jobs) -> None:
    """Every part of every job is what an undisturbed job writes."""
    for planned in jobs:
        one = planned.job
        order = {"person": one.person, "style": one.style, "seed": one.seed}
        folders = JobFolders(out, one.person, one.style)
        for part in range(PARTS):
            assert part_path(folders, part).read_bytes() == part_bytes(order, part)


def test_each_cause_has_its_end(tmp_path, engine):
    names = ["anna", "deadly", "raises", "memory", "second try",
             *(f"ends with {code}" for code in (1, 2, 3, 5))]  # fmt: skip
    *_, ended = batch([job(name) for name in names], tmp_path, engine)
    found = {person: (row.state, [one.cause for one in row.attempts])
             for (person, _), row in rows(tmp_path).items()}  # fmt: skip
    assert found == {
        "anna": ("done", ["done"]),
        "deadly": ("failed", ["worker"] * 3),
        "raises": ("failed", ["failed"] * 3),
        "memory": ("done", ["memory", "done"]),
        "second try": ("done", ["failed", "done"]),
        "ends with 1": ("failed", ["failed"] * 3),
        "ends with 2": ("failed", ["usage"]),
        "ends with 3": ("failed", ["refused"]),
        "ends with 5": ("failed", ["memory"] * 2),
    }
    assert ended == BatchEnded(done=3, failed=6, waiting=0, stopped=False, exit_code=1)
    assert_undisturbed(tmp_path, [job(name) for name in ("anna", "memory", "second try")])
    page = (tmp_path / "index.html").read_text()
    assert "told to end with 3" in page and "mcap batch retry STUDIO --failed-only" in page


def test_what_every_job_lacks_stops_the_batch(tmp_path, engine):
    jobs = [job("ends with 4"), *(job(f"person {n}", 300) for n in range(6))]
    events = batch(jobs, tmp_path, engine)
    assert "told to end with 4" in events[-1].problem and events[-1].exit_code == 4
    assert events[-1].waiting >= 1 and events[-1].failed == 0
    assert sum(isinstance(event, JobStarted) for event in events) < len(jobs)


def test_one_persons_jobs_follow_each_other(tmp_path, engine):
    jobs = [job("anna", 60, style) for style in ("passport", "business", "studio-bw")]
    running: set[str] = set()
    for event in batch([*jobs, job("bob", 60)], tmp_path, engine, workers=3):
        if isinstance(event, JobStarted):
            assert event.row.job.person not in running
            running.add(event.row.job.person)
        if isinstance(event, JobEnded):
            running.discard(event.row.job.person)
    assert {row.state for row in rows(tmp_path).values()} == {"done"}


def test_the_longest_come_first(tmp_path, engine):
    jobs = [job("short", 10, estimate=1.0), job("long", 10, estimate=9.0),
            job("two", 10, estimate=6.0), job("two", 10, "business", estimate=5.0)]  # fmt: skip
    events = batch(jobs, tmp_path, engine, workers=1)
    started = [(event.row.job.person, event.row.job.style) for event in events
               if isinstance(event, JobStarted)]  # fmt: skip
    assert started[0] == ("two", "passport")
    assert started[-1] == ("short", "passport")


def test_again_nothing_is_to_be_done(tmp_path, engine):
    jobs = [job("anna"), job("bob")]
    batch(jobs, tmp_path, engine)
    again = registry().create("engine", "local")
    planned, ended = batch(jobs, tmp_path, again)
    assert isinstance(planned, BatchPlanned) and planned.workers == () and planned.done == 2
    assert ended.done == 2 and ended.exit_code == 0
    more = SMALL.model_copy(update={"count": 3})
    events = batch(jobs, tmp_path, registry().create("engine", "local"), settings=more)
    assert sum(isinstance(event, JobStarted) for event in events) == 2


def test_client_folders_that_change_while_it_runs(tmp_path, engine):
    """Jobs that wait take what is there when they begin; one that runs is looked at again."""
    clients, out = tmp_path / "clients", tmp_path / "studio"
    names = ["running", "added", "replaced", "removed", "gone", "renamed", "left alone"]
    for name in names:
        (clients / name).mkdir(parents=True)
        for photo in ("1.jpg", "2.jpg"):
            (clients / name / photo).write_bytes(b"photo")
    jobs = [Planned(Job(name, clients / name, "passport", 100), estimate=20.0 - number)
            for number, name in enumerate(names)]  # fmt: skip
    plan = WorkerPlan(RUNNER, out, workers=1, gpus=(), threads=1)
    for event in run_batch(jobs, out, engine, settings=SMALL, plan=plan):
        if isinstance(event, JobStarted) and event.row.job.person == "running":
            (clients / "running" / "3.jpg").write_bytes(b"new")
            (clients / "added" / "3.jpg").write_bytes(b"new")
            (clients / "replaced" / "2.jpg").write_bytes(b"another")
            (clients / "removed" / "2.jpg").unlink()
            (clients / "gone").rename(tmp_path / "elsewhere")
            (clients / "renamed").rename(clients / "another name")
    assert (event.done, event.failed) == (5, 2)
    found = {person: row for (person, _), row in rows(out).items()}
    remarks = {name: row.details.get("remarks") for name, row in found.items() if row.details}
    assert remarks.pop("running") == [scheduling.CHANGED] and not any(remarks.values())
    for name in ("gone", "renamed"):
        assert (found[name].state, found[name].cause) == ("failed", "refused")
        assert f"clients/{name} is not there" in found[name].message
    page = (out / "index.html").read_text()
    assert scheduling.CHANGED in page and "clients/gone is not there" in page

    # The disk with that folder is back; the other one is still called otherwise.
    (tmp_path / "elsewhere").rename(clients / "gone")
    again = registry().create("engine", "local")
    events = list(run_batch(jobs, out, again, settings=SMALL, plan=plan))
    assert [one.row.job.person for one in events if isinstance(one, JobStarted)] == [
        "running", "gone"
    ]  # fmt: skip
    assert (events[-1].done, events[-1].failed) == (6, 1)
    assert scheduling.CHANGED not in (out / "index.html").read_text()
    events = list(run_batch(jobs, out, registry().create("engine", "local"), settings=SMALL,
                            plan=plan))  # fmt: skip
    assert not any(isinstance(one, JobStarted) for one in events)


def test_force_tries_what_was_refused_as_trained_on_others(tmp_path, engine):
    jobs = [job("ends with 2"), job("ends with 3")]
    batch(jobs, tmp_path, engine)
    forced = SMALL.model_copy(update={"force": True})
    events = batch(jobs, tmp_path, registry().create("engine", "local"), settings=forced)
    assert [one.row.job.person for one in events if isinstance(one, JobStarted)] == ["ends with 2"]


def test_retry_forgives(tmp_path, engine):
    batch([job("ends with 3"), job("anna")], tmp_path, engine)
    events = list(run_batch(None, tmp_path, registry().create("engine", "local"),
                            plan=WorkerPlan(RUNNER, tmp_path, workers=1, gpus=()),
                            failed_only=True))  # fmt: skip
    assert [event.row.job.person for event in events if isinstance(event, JobStarted)] == [
        "ends with 3"
    ]
    assert len(rows(tmp_path)["ends with 3", "passport"].attempts) == 2


def test_asked_to_stop_jobs_save_and_wait(tmp_path, engine):
    jobs = [job(f"person {n}", 400) for n in range(6)]
    stop = threading.Event()
    plan = WorkerPlan(RUNNER, tmp_path, workers=2, gpus=(), threads=1)
    events = []
    for event in run_batch(jobs, tmp_path, engine, settings=SMALL, plan=plan,
                           should_stop=stop.is_set):  # fmt: skip
        events.append(event)
        if isinstance(event, JobStarted):
            stop.set()
    ended = events[-1]
    assert ended.stopped and ended.waiting and not ended.failed
    assert ended.done + ended.waiting == 6
    batch(jobs, tmp_path, registry().create("engine", "local"))
    assert {row.state for row in rows(tmp_path).values()} == {"done"}
    assert_undisturbed(tmp_path, jobs)


def test_two_schedulers_refuse_each_other(tmp_path, engine):
    events = run_batch([job("anna", 300)], tmp_path, engine, settings=SMALL,
                       plan=WorkerPlan(RUNNER, tmp_path, workers=1, gpus=()))  # fmt: skip
    next(events)
    with pytest.raises(UsageError, match=rf"mcap batch \(process {os.getpid()}.*is writing there"):
        batch([job("anna")], tmp_path, registry().create("engine", "local"))
    with closing(Ledger(tmp_path)) as ledger:  # whoever only looks is not refused
        assert len(ledger.rows()) == 1
    assert list(events)[-1].done == 1


def test_no_job_begins_on_a_full_disk(tmp_path, engine, monkeypatch):
    free = iter([10_000.0, 10_000.0])
    monkeypatch.setattr(scheduling, "free_mb", lambda _: next(free, 5.0))
    settings = BatchSettings(min_free_mb=100)
    jobs = [job(f"person {n}") for n in range(5)]
    *_, ended = batch(jobs, tmp_path, engine, workers=1, settings=settings)
    assert "the disk is full" in ended.problem and ended.exit_code == 1
    assert ended.done and ended.waiting and not ended.failed
    monkeypatch.undo()
    *_, ended = batch(jobs, tmp_path, registry().create("engine", "local"))
    assert ended.done == 5
    assert_undisturbed(tmp_path, jobs)


def test_a_runner_that_cannot_be_loaded_ends_the_batch(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", python_path())
    with pytest.raises(McapError, match=r"No worker can be started:.*there_is_none"):
        batch([job("anna")], tmp_path, registry().create("engine", "local"), workers=1,
              runner="mcap.batch.jobs:there_is_none")  # fmt: skip
    with closing(Ledger(tmp_path)) as ledger:
        assert ledger.rows()[0].state == "waiting"


def worker_pids(parent: int) -> list[int]:
    """Return the processes of local workers below ``parent``."""
    import psutil

    return [
        child.pid
        for child in psutil.Process(parent).children()
        if any("mcap.batch.worker" in word for word in child.cmdline())
    ]


@pytest.mark.slow
def test_thirty_killed_workers_change_nothing(tmp_path, monkeypatch):
    """More are killed than one job may lose, so that each job is begun anew a few times."""
    monkeypatch.setenv("PYTHONPATH", python_path())
    jobs = [job(f"person {n}", 600) for n in range(60)]
    killed, over = [], threading.Event()
    chance = random.Random(0)

    def kill() -> None:
        while len(killed) < 30 and not over.is_set():
            time.sleep(chance.uniform(0.2, 0.5))
            pids = worker_pids(os.getpid())
            if pids:
                pid = chance.choice(pids)
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    killer = threading.Thread(target=kill)
    killer.start()
    lost = 0
    for _ in range(10):  # a job that lost its worker three times waits for a retry
        events = batch(jobs, tmp_path, registry().create("engine", "local"), workers=3)
        lost += sum(isinstance(event, WorkerLost) for event in events)
        with closing(Ledger(tmp_path)) as ledger:
            ledger.retry(failed_only=True)
        if events[-1].done == len(jobs):
            break
    over.set()
    killer.join()
    assert lost >= 10
    assert_undisturbed(tmp_path, jobs)


SCHEDULER = """
import sys
from pathlib import Path
from mcap.batch import BatchSettings, Job, Planned, run_batch
from mcap.contracts import WorkerPlan
from mcap.registry import registry

out = Path(sys.argv[1])
jobs = [Planned(Job(f"person {n}", Path("/nowhere"), "passport", 400)) for n in range(8)]
plan = WorkerPlan("tests.support.simulated_jobs:make_runner", out, workers=2, gpus=(), threads=1)
for event in run_batch(jobs, out, registry().create("engine", "local"), plan=plan,
                       settings=BatchSettings(min_free_mb=0)):
    print(type(event).__name__, flush=True)
"""


def test_a_killed_scheduler_leaves_nobody_behind_and_loses_nothing(tmp_path):
    import psutil

    environment = {**os.environ, "PYTHONPATH": python_path()}
    command = [sys.executable, "-c", SCHEDULER, tmp_path]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as running:
        for line in running.stdout:
            if line.strip() == "JobStarted":
                break
        workers = worker_pids(running.pid)
        running.kill()
    assert len(workers) == 2
    psutil.wait_procs([psutil.Process(pid) for pid in workers if psutil.pid_exists(pid)], 30)
    assert not [pid for pid in workers if psutil.pid_exists(pid)]
    jobs = [job(f"person {n}", 400) for n in range(8)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "BatchEnded"
    assert {row.state for row in rows(tmp_path).values()} == {"done"}
    assert_undisturbed(tmp_path, jobs)


def test_orders_and_outcomes_are_json(tmp_path):
    from mcap.batch.scheduler import job_order

    with closing(Ledger(tmp_path, create=True)) as ledger:
        (row,) = ledger.add([job("anna")])
    order = job_order(row, SMALL, tmp_path, 3)
    assert json.loads(json.dumps(order)) == order
    assert order["environment"]["MCAP_THREADS"] == "3"


def test_the_time_left_goes_by_the_estimates(tmp_path):
    with closing(Ledger(tmp_path, create=True)) as ledger:
        made = ledger.add(
            [job("a", estimate=10.0), job("b", estimate=20.0), job("c", estimate=30.0)]
        )
    from dataclasses import replace

    assert scheduling.seconds_left(made, {}, 2) is None
    first = replace(made[0], state="done")
    running = replace(made[1], state="running")
    # A second of the estimate took two; b has 40 - 10 to go, c 60, on two workers.
    left = scheduling.seconds_left([first, running, made[2]], {first.id: 20.0, running.id: 10.0}, 2)
    assert left == pytest.approx((30 + 60) / 2)
