"""Events of a batch, as `mcap.batch.scheduler` yields them."""

from __future__ import annotations

from dataclasses import dataclass

from mcap.batch.ledger import JobRow
from mcap.batch.retry import Cause


@dataclass(frozen=True)
class BatchPlanned:
    """The first event: what there is to do, and who does it."""

    rows: tuple[JobRow, ...]
    workers: tuple[str, ...]
    threads: int
    """Of the CPU, for each worker."""

    @property
    def done(self) -> int:
        """Jobs that are done already."""
        return sum(row.state == "done" for row in self.rows)


@dataclass(frozen=True)
class WorkerReady:
    """A worker takes jobs from now on."""

    worker: str
    seconds: float
    """That starting it took."""


@dataclass(frozen=True)
class WorkerLost:
    """A worker's process or machine is gone; the engine puts another in its place."""

    worker: str
    why: str


@dataclass(frozen=True)
class Note:
    """Something to tell people."""

    text: str


@dataclass(frozen=True)
class JobStarted:
    """A worker begins a job."""

    row: JobRow
    worker: str
    attempt: int
    """From 1, since the last ``mcap batch retry``."""


@dataclass(frozen=True)
class JobEnded:
    """An attempt at a job has ended; ``row`` is as it stands now."""

    row: JobRow
    worker: str
    cause: Cause


@dataclass(frozen=True)
class Tick:
    """Nothing else has happened for a while: a moment to show the time."""


@dataclass(frozen=True)
class BatchEnded:
    """The last event."""

    done: int
    failed: int
    waiting: int
    stopped: bool
    """The batch was told to stop."""
    problem: str = ""
    """Why it stopped by itself: a full disk, a weight that a worker lacks."""
    exit_code: int = 0


Event = BatchPlanned | WorkerReady | WorkerLost | Note | JobStarted | JobEnded | Tick | BatchEnded
