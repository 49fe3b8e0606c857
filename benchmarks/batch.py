"""Measures what mcap batch adds to its jobs, and that killed workers change nothing.

    python benchmarks/batch.py [--engine local|ray] [--jobs 1000] [--workers 8] [--seconds 1]
    python benchmarks/batch.py --kills 30 [--engine local|ray]
    python benchmarks/batch.py --people 10 [--workers 2] [--photos 4]

The first runs jobs that only sleep. Ideal is the sum of their seconds divided by the workers; the
time goes from the first job's start to the last one's end, so that starting the workers, which is
told by itself, does not count. *Scheduling* is what the scheduler's process computes for a job,
*between* the time from a job's end in a worker to the next one's beginning there, ledger, engine
and the machine's other work included.

The second kills workers at random moments with SIGKILL while simulated jobs write files, until so
many are dead, and compares every byte with what an undisturbed job writes.

The third makes portraits of so many people on the embedded backbone, one step a phase and one
picture each, first with mcap batch, then with a shell loop's commands, mask, train and generate, a
process each; both with one thread. It compares time, processor time, which tells more on a machine
that does other things, and every byte of the LoRAs and pictures. People are those of
benchmarks/people; more of them than four are the same, mirrored or darker.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path

import psutil
from PIL import Image, ImageOps

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "plugins")]

from mcap.batch import BatchSettings, Job, Planned, run_batch  # noqa: E402
from mcap.batch.events import BatchEnded, JobEnded, JobStarted, WorkerLost, WorkerReady  # noqa: E402
from mcap.batch.folder import JobFolders  # noqa: E402
from mcap.batch.ledger import Ledger  # noqa: E402
from mcap.batch.scheduler import job_order  # noqa: E402
from mcap.cli.batch_job import stages  # noqa: E402
from mcap.contracts import WorkerPlan  # noqa: E402
from mcap.registry import registry  # noqa: E402
from tests.support.simulated_jobs import PARTS, part_bytes, part_path  # noqa: E402

SUPPORT = "tests.support.simulated_jobs"
SETTINGS = BatchSettings(min_free_mb=0)


def plan(out: Path, runner: str, workers: int) -> WorkerPlan:
    return WorkerPlan(f"{SUPPORT}:{runner}", out, workers=workers, gpus=(), threads=1)


def measure(engine: str, jobs: int, workers: int, seconds: float) -> bool:
    """Print the figures; return whether they are within the limits."""
    milliseconds = round(1000 * seconds)
    todo = [
        Planned(Job(f"person {n}", Path("/nowhere"), "passport", milliseconds), estimate=seconds)
        for n in range(jobs)
    ]
    ended_at: dict[str, float] = {}
    between: list[float] = []
    ready: list[float] = []
    first = last = 0.0
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        began, computed = time.perf_counter(), time.process_time()
        made = registry().create("engine", engine)
        for event in run_batch(todo, out, made, settings=SETTINGS,
                               plan=plan(out, "sleeper", workers)):  # fmt: skip
            now = time.perf_counter()
            if isinstance(event, WorkerReady):
                ready.append(now - began)
                if len(ready) == workers:
                    all_ready = now
            elif isinstance(event, JobStarted):
                first = first or now
                if event.worker in ended_at:
                    between.append(now - ended_at.pop(event.worker))
            elif isinstance(event, JobEnded):
                ended_at[event.worker] = last = now
            elif isinstance(event, BatchEnded):
                done = event.done
        computed = time.process_time() - computed
        whole = time.perf_counter() - began
    ideal = jobs * seconds / workers
    ratio = (last - first) / ideal
    cost = 1000 * computed / jobs
    lost = 1000 * ((last - first) * workers - jobs * seconds) / jobs
    print(f"{engine}: {done} of {jobs} jobs of {seconds} s on {workers} workers")
    print(f"  first job to last: {last - first:.2f} s, ideal {ideal:.2f} s, ratio {ratio:.3f}")
    print(f"  all workers ready after {all_ready - began:.1f} s; whole batch {whole:.1f} s")
    print(f"  scheduling {cost:.2f} ms a job; each job costs its worker {lost:.1f} ms more")
    return done == jobs and ratio <= 1.05 and cost <= 20


def workers_of(engine: str) -> list[int]:
    """Return the processes that jobs run in."""
    mark = "mcap.batch.worker" if engine == "local" else "ray::Actor.do"
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            if any(mark in word for word in child.cmdline()):
                found.append(child.pid)
        except psutil.NoSuchProcess:
            continue
    return found


def kill_workers(engine: str, kills: int, jobs: int, workers: int) -> bool:
    """Print what happened; return whether every byte is as it should be."""
    todo = [Planned(Job(f"person {n}", Path("/nowhere"), "passport", 1500)) for n in range(jobs)]
    killed: list[int] = []
    over = threading.Event()
    chance = random.Random(0)

    def kill() -> None:
        while len(killed) < kills and not over.is_set():
            time.sleep(chance.uniform(0.1, 0.6))
            pids = workers_of(engine)
            if pids:
                pid = chance.choice(pids)
                try:
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
                except ProcessLookupError:
                    continue

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        killer = threading.Thread(target=kill)
        lost = rounds = done = 0
        while done < jobs and rounds < 20:
            rounds += 1
            made = registry().create("engine", engine)
            events = run_batch(todo if rounds == 1 else None, out, made, settings=SETTINGS,
                               plan=plan(out, "make_runner", workers))  # fmt: skip
            for event in events:
                if isinstance(event, JobStarted) and killer.ident is None:
                    killer.start()  # workers that have not begun yet lose nothing
                lost += isinstance(event, WorkerLost)
                if isinstance(event, WorkerLost):
                    print(f"  {event.why[:120]}", file=sys.stderr)
            with closing(Ledger(out)) as ledger:
                done = sum(row.state == "done" for row in ledger.rows())
        over.set()
        killer.join()
        wrong = [
            (one.job.person, part)
            for one in todo
            for part in range(PARTS)
            if part_path(JobFolders(out, one.job.person, "passport"), part).read_bytes()
            != part_bytes(
                {"person": one.job.person, "style": "passport", "seed": one.job.seed}, part
            )
        ]
        with closing(Ledger(out)) as ledger:
            attempts = sum(len(row.attempts) for row in ledger.rows())
    print(f"{engine}: {len(killed)} kills, {lost} workers lost, {attempts} attempts at {jobs} jobs")
    print(f"  {done} done in {rounds} runs; {len(wrong)} of {jobs * PARTS} files differ")
    return done == jobs and not wrong and len(killed) == kills


def lay_down_people(clients: Path, people: int, photos: int) -> None:
    """Write a folder of photos a person."""
    drawn = sorted((ROOT / "benchmarks" / "people").iterdir())
    for number in range(people):
        kind, base = divmod(number, len(drawn))
        folder = clients / f"person {number + 1:02}"
        folder.mkdir(parents=True)
        for path in sorted(drawn[base].glob("*.jpg"))[:photos]:
            picture = Image.open(path)
            picture = ImageOps.mirror(picture) if kind % 2 else picture
            picture.point(lambda level, kind=kind: round(level * 0.85 ** (kind // 2))).save(
                folder / path.name, quality=95
            )


def against_a_loop(people: int, workers: int, photos: int) -> bool:
    """Print times and their ratio; return whether both write the same."""
    environment = {**os.environ, "MCAP_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    mcap = [sys.executable, "-m", "mcap"]

    def timed(commands: list[list[str]], variables: dict[str, str]) -> tuple[float, float, str]:
        """Return seconds, seconds of a processor, and what the last command printed."""
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        for command in commands:
            done = subprocess.run([*mcap, *command], env=variables, text=True, capture_output=True)
            if done.returncode:
                sys.exit(f"mcap {command[0]} ended with {done.returncode}: {done.stderr[-2000:]}")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        computed = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return time.perf_counter() - began, computed, done.stdout

    with tempfile.TemporaryDirectory() as folder:
        clients, studio, loop = (Path(folder) / name for name in ("clients", "studio", "loop"))
        lay_down_people(clients, people, photos)
        jobs = Path(folder) / "jobs.toml"
        jobs.write_text(
            "".join(
                f'[[jobs]]\nperson = "{one.name}"\nsource = "{one}"\nstyle = "passport"\n'
                "overrides = { phase1_steps = 1, phase2_steps = 1 }\n"
                for one in sorted(clients.iterdir())
            )
        )
        words = ["--json", "batch", "run", str(jobs), "--out", str(studio), "--generate", "1"]
        words += ["--workers", str(workers), "--threads", "1", "--device", "cpu"]
        wall, computed, said = timed([words], environment)
        result = json.loads(said)
        print(f"mcap batch, {workers} workers: {people} people in {wall:.0f} s, {computed:.0f} s "
              f"of a processor; {result['saved_seconds']:.0f} s of loading saved; "
              f"{result['peak_mb']:.0f} MB at most in a worker", flush=True)  # fmt: skip
        with closing(Ledger(studio)) as ledger:
            rows, stored = ledger.rows(), BatchSettings.model_validate(ledger.get("settings"))
        loop_wall = loop_computed = 0.0
        for row in rows:
            order = job_order(row, stored, loop, 1)
            place = JobFolders(loop, row.job.person, row.job.style)
            commands = [[stage.name, *stage.arguments] for stage in stages(order, place)]
            seconds, of_processor, _ = timed(commands, {**environment, **order["environment"]})
            loop_wall, loop_computed = loop_wall + seconds, loop_computed + of_processor
            print(f"  {row.job.person}: {seconds:.0f} s, {of_processor:.0f} s of a processor",
                  flush=True)  # fmt: skip
        print(f"shell loop: {loop_wall:.0f} s, {loop_computed:.0f} s of a processor")
        print(f"ratio: {loop_wall / wall:.2f} in time, {loop_computed / computed:.2f} in processor "
              "time")  # fmt: skip
        written = [
            path.relative_to(loop)
            for row in rows
            for place in (JobFolders(loop, row.job.person, row.job.style),)
            for path in (place.subject / "adapter.safetensors", *place.portraits.glob("*.png"))
        ]
        wrong = [name for name in written
                 if (studio / name).read_bytes() != (loop / name).read_bytes()]  # fmt: skip
        print(f"{len(wrong)} of {len(written)} LoRAs and pictures differ")
    return not wrong and len(written) == 2 * people


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--engine", default="local")
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--workers", type=int, help="default: 8; with --people 2")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--people", type=int, default=0)
    parser.add_argument("--photos", type=int, default=4, help="of each of --people")
    given = parser.parse_args()
    path = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [path, *sys.path[:2]]))
    if given.people:
        fine = against_a_loop(given.people, given.workers or 2, given.photos)
    elif given.kills:
        fine = kill_workers(given.engine, given.kills, given.jobs or 100, given.workers or 8)
    else:
        fine = measure(given.engine, given.jobs or 1000, given.workers or 8, given.seconds)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
