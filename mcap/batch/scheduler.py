"""The scheduler of a batch: which job next, on which worker, and what follows when it ends.

A generator of events over a ledger and an engine. It knows neither what a job does nor where.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcap.batch.events import (
    BatchEnded,
    BatchPlanned,
    Event,
    JobEnded,
    JobStarted,
    Note,
    Tick,
    WorkerLost,
    WorkerReady,
)
from mcap.batch.jobs import photos_hash
from mcap.batch.retry import Cause, cause_of, what_next
from mcap.errors import McapError, MissingResourceError
from mcap.runtime.files import REASONS

if TYPE_CHECKING:
    from mcap.batch.ledger import JobRow, Ledger
    from mcap.batch.settings import BatchSettings
    from mcap.contracts import Engine, WorkerEvent, WorkerPlan

TICK_SECONDS = 0.5
CHANGED = "Its photos changed while it ran; the next run of the batch looks at them again."
STARTS = 3
"""Times that a worker may be lost before it was ever ready; then no other takes its place."""


@dataclass(frozen=True)
class Running:
    """A job that a worker is at."""

    row: JobRow
    attempt: int  # id in the ledger


class Scheduler:
    """Gives the jobs ``rows`` of a ledger to an engine's workers."""

    def __init__(
        self,
        ledger: Ledger,
        rows: Sequence[JobRow],
        engine: Engine,
        plan: WorkerPlan,
        settings: BatchSettings,
    ) -> None:
        self.ledger, self.engine, self.plan, self.settings = ledger, engine, plan, settings
        self.rows = {row.id: row for row in rows}
        self.causes: dict[int, list[Cause]] = {
            row.id: [attempt.cause for attempt in row.counted if attempt.cause] for row in rows
        }
        self.waiting = {row.id for row in rows if row.state == "waiting"}
        self.person = {row.id: row.job.key[0] for row in rows}
        self.queues: dict[str, list[int]] = {}
        """Person -> jobs that wait, the longest last."""
        self.left: dict[str, float] = {}
        """Person -> seconds of these jobs by the estimate."""
        for row in sorted(rows, key=lambda row: (row.estimate or 0.0, -row.id)):
            if row.id in self.waiting:
                self.put_back(row)
        self.running: dict[str, Running] = {}
        self.idle: list[str] = []
        self.lost_starts: dict[str, int] = {}
        self.workers: list[str] = []
        self.threads = 1
        self.problem: McapError | None = None
        self.stopping = False

    def run(self, should_stop: Callable[[], bool] = lambda: False) -> Iterator[Event]:
        """Yield events until no job is left, or ``should_stop`` is true; the last is `BatchEnded`.

        Asked to stop, or where a problem concerns every job, the jobs that run save what they have
        and wait. The engine is closed in any case.
        """
        try:
            if self.waiting:
                force = self.engine.start(self.plan)
                self.workers, self.threads = list(force.workers), force.threads
            yield BatchPlanned(tuple(self.rows.values()), tuple(self.workers), self.threads)
            while self.running or (self.waiting and not self.stopping):
                if not self.stopping and (self.problem is not None or should_stop()):
                    self.stopping = True
                    self.engine.interrupt()
                    if self.problem is None:
                        yield Note("Stopping: the jobs that run save what they have ...")
                    continue
                if not self.stopping:
                    yield from self.hand_out()
                happened = self.engine.wait(TICK_SECONDS)
                for event in happened:
                    yield from self.take_in(event)
                if not happened:
                    yield Tick()
        finally:
            self.engine.close()
        states = [row.state for row in self.rows.values()]
        failed = states.count("failed")
        yield BatchEnded(
            done=states.count("done"),
            failed=failed,
            waiting=states.count("waiting"),
            stopped=self.stopping and self.problem is None,
            problem="" if self.problem is None else str(self.problem),
            exit_code=self.problem.exit_code if self.problem else (1 if failed else 0),
        )

    def hand_out(self) -> Iterator[Event]:
        """Give jobs to idle workers, as far as there are jobs that may run now."""
        while self.idle and (row := self.next_job()) is not None:
            if not self.has_room(row):
                return
            worker = self.idle.pop(0)
            row = replace(row, state="running", photos=photos_hash(row.job.source))
            attempt = self.ledger.begin(row, worker)
            self.rows[row.id] = row
            self.take_out(row)
            self.running[worker] = Running(row, attempt)
            self.engine.submit(
                worker, job_order(row, self.settings, self.plan.studio, self.threads)
            )
            yield JobStarted(row, worker, len(self.counted(row)) + 1)

    def counted(self, row: JobRow) -> list[Cause]:
        """Return the causes of a job's attempts that count."""
        return [cause for cause in self.causes[row.id] if cause != "stopped"]

    def put_back(self, row: JobRow) -> None:
        """Let a job wait for a worker, before the person's others."""
        person = self.person[row.id]
        self.queues.setdefault(person, []).append(row.id)
        self.left[person] = self.left.get(person, 0.0) + (row.estimate or 0.0)

    def take_out(self, row: JobRow) -> None:
        """Let a job wait no longer: a worker begins it."""
        person = self.person[row.id]
        self.waiting.discard(row.id)
        self.queues[person].remove(row.id)
        self.left[person] -= row.estimate or 0.0
        if not self.queues[person]:
            del self.queues[person]

    def next_job(self) -> JobRow | None:
        """Return the longest job of the person with the most to do, of whom none runs.

        A person's jobs run one after the other (they share masks), so it is the sum of theirs that
        decides: begun last, it would be what everybody waits for.
        """
        busy = {self.person[running.row.id] for running in self.running.values()}
        free = (person for person in self.queues if person not in busy)
        person = max(
            free, key=lambda person: (self.left[person], -self.queues[person][-1]), default=None
        )
        return None if person is None else self.rows[self.queues[person][-1]]

    def has_room(self, row: JobRow) -> bool:
        """Return whether the disk has room for a job beside those that run.

        Without any that runs and might end, a disk without room is a problem of the batch.
        """
        needed = row.disk_mb + sum(running.row.disk_mb for running in self.running.values())
        needed += self.settings.min_free_mb
        free = free_mb(self.plan.studio)
        if free >= needed:
            return True
        if not self.running:
            self.problem = McapError(
                f"--out {self.plan.studio}: {REASONS[errno.ENOSPC]}: {free:.1f} MB are free, and "
                f"the next job needs {needed:.1f} MB. What was done is kept; the same command "
                "goes on."
            )
        return False

    def take_in(self, event: WorkerEvent) -> Iterator[Event]:
        """Take in what an engine tells; raises `McapError` where no worker can be started."""
        if event.kind == "note":
            yield Note(event.text)
        elif event.kind == "ready":
            self.lost_starts.pop(event.worker, None)
            self.idle.append(event.worker)
            yield WorkerReady(event.worker, event.seconds)
        elif event.kind == "finished":
            self.idle.append(event.worker)
            assert event.outcome is not None
            yield from self.end(event.worker, event.outcome)
        else:
            was_idle = event.worker in self.idle
            if was_idle:
                self.idle.remove(event.worker)
            yield WorkerLost(event.worker, event.text)
            if event.worker in self.running:
                yield from self.end(event.worker, {"exit_code": None, "message": event.text})
            elif not was_idle:
                times = self.lost_starts[event.worker] = self.lost_starts.get(event.worker, 0) + 1
                gone = [name for name in self.workers if self.lost_starts.get(name, 0) >= STARTS]
                if times >= STARTS and len(gone) == len(self.workers):
                    raise McapError(f"No worker can be started: {event.text}.")

    def end(self, worker: str, outcome: Mapping[str, Any]) -> Iterator[Event]:
        """Write down how an attempt ended, and let the job wait again, or not."""
        running = self.running.pop(worker)
        row, causes = running.row, self.causes[running.row.id]
        changed = photos_hash(row.job.source) != row.photos
        code = outcome.get("exit_code")
        causes.append(cause_of(code, stopping=self.stopping, photos_changed=changed))
        if causes[-1] == "failed" and free_mb(self.plan.studio) < self.settings.min_free_mb:
            causes[-1] = "stopped"  # for want of room: no fault of the job, which goes on later
        following = what_next(causes)
        if changed and following.state != "waiting":
            details = outcome.get("details", {})
            remarks = [*details.get("remarks", []), CHANGED]
            outcome = {**outcome, "details": {**details, "remarks": remarks}}
        self.ledger.finish(running.attempt, causes[-1], following, outcome)
        row = replace(
            row,
            state=following.state,
            low_memory=following.low_memory,
            cause=causes[-1],
            stage=str(outcome.get("stage", "")),
            message=str(outcome.get("message", "")),
            details=outcome.get("details", {}),
        )
        self.rows[row.id] = row
        if following.state == "waiting":
            self.waiting.add(row.id)
            self.put_back(row)
        if following.stops_batch and self.problem is None:
            self.problem = MissingResourceError(f"Worker {worker}: {row.message}")
        yield JobEnded(row, worker, causes[-1])


def job_order(row: JobRow, settings: BatchSettings, studio: Path, threads: int) -> dict[str, Any]:
    """Return what a worker is told of a job, JSON-serialisable."""
    asked = settings.model_dump(mode="json")
    environment = {**asked.pop("environment"), "MCAP_THREADS": str(threads)}
    return {
        "job": row.id,
        "studio": str(studio),
        "person": row.job.person,
        "source": str(row.job.source),
        "style": row.job.style,
        "seed": row.job.seed,
        "overrides": list(row.job.overrides),
        **asked,
        "environment": environment,
        "low_memory": row.low_memory or settings.low_memory,
    }


def free_mb(folder: Path) -> float:
    """Return the free space of a folder's disk in MiB."""
    return shutil.disk_usage(folder).free / 2**20


def seconds_left(
    rows: Sequence[JobRow], elapsed: Mapping[int, float], workers: int
) -> float | None:
    """Return the time until all jobs are done; None before one of them is.

    The estimates say how long jobs are beside each other, and those that are done how long a second
    of an estimate is on these workers. ``elapsed``: id of a job -> seconds of its attempts.
    """
    done = [row for row in rows if row.state == "done" and elapsed.get(row.id)]
    if not done or not workers:
        return None
    mean = sum(row.estimate or 0.0 for row in done) / len(done)
    planned = {row.id: row.estimate or mean or 1.0 for row in rows}
    pace = sum(elapsed[row.id] for row in done) / sum(planned[row.id] for row in done)
    left = 0.0
    for row in rows:
        if row.state in ("waiting", "running"):
            spent = elapsed.get(row.id, 0.0) if row.state == "running" else 0.0
            left += max(0.0, planned[row.id] * pace - spent)
    return left / workers
