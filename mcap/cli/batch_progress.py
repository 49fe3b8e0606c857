"""Progress of a batch: one bar with a line a worker on a terminal, else a line a job."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from mcap.batch.events import (
    BatchEnded,
    BatchPlanned,
    Event,
    JobEnded,
    JobStarted,
    Note,
    WorkerLost,
    WorkerReady,
)
from mcap.batch.folder import JobFolders
from mcap.batch.scheduler import seconds_left
from mcap.cli.output import note, warn
from mcap.cli.progress import format_seconds

if TYPE_CHECKING:
    import typer
    from rich.console import Group

    from mcap.batch.ledger import Attempt, JobRow

ENDS = {
    "done": "done",
    "stopped": "stopped, saved",
    "worker": "its worker was lost",
    "failed": "failed",
    "memory": "out of memory",
    "usage": "refused",
    "refused": "refused",
    "missing": "something is missing",
}
"""Cause -> how a line tells it."""

LOG_TAIL = 2000
"""Bytes of a log in which its last line is looked for."""


class BatchProgress:
    """Takes in the events of a batch, and knows at any moment how it stands."""

    def __init__(self, studio: Path) -> None:
        self.studio = studio
        self.rows: dict[int, JobRow] = {}
        self.elapsed: dict[int, float] = {}
        self.begun: dict[str, tuple[JobRow, float]] = {}
        self.workers: dict[str, str] = {}
        self.total = self.done = self.failed = 0
        self.began = time.time()
        self.starts: list[float] = []
        self.ended: BatchEnded | None = None
        self.clock = time.monotonic

    def take_in(self, event: Event) -> None:
        """Take in one event."""
        if isinstance(event, BatchPlanned):
            self.rows = {row.id: row for row in event.rows}
            self.total, self.done = len(event.rows), event.done
            self.workers = dict.fromkeys(event.workers, "starting")
        elif isinstance(event, WorkerReady):
            self.workers[event.worker] = "idle"
            self.starts.append(event.seconds)
        elif isinstance(event, WorkerLost):
            self.workers[event.worker] = "lost, another one starts"
        elif isinstance(event, JobStarted):
            self.rows[event.row.id] = event.row
            self.begun[event.worker] = (event.row, self.clock())
        elif isinstance(event, JobEnded):
            row, began = self.begun.pop(event.worker)
            self.rows[row.id] = event.row
            self.elapsed[row.id] = self.elapsed.get(row.id, 0.0) + self.clock() - began
            self.done += event.row.state == "done"
            self.failed += event.row.state == "failed"
        elif isinstance(event, BatchEnded):
            self.ended = event

    def of_this_run(self, rows: Iterable[JobRow]) -> list[Attempt]:
        """Return the attempts that were begun since this run of the command began."""
        return [one for row in rows for one in row.attempts if one.started >= self.began]

    def left(self) -> float | None:
        """Return the seconds until all is done; None while nothing is known."""
        elapsed = dict(self.elapsed)
        for row, began in list(self.begun.values()):
            elapsed[row.id] = elapsed.get(row.id, 0.0) + self.clock() - began
        return seconds_left(list(self.rows.values()), elapsed, len(self.workers))

    def summary(self) -> str:
        """Return "3/10 done, 1 failed, 2 running, 5:00 left"."""
        parts = [f"{self.done}/{self.total} done"]
        parts += [f"{self.failed} failed"] if self.failed else []
        parts += [f"{len(self.begun)} running"] if self.begun else []
        left = self.left()
        parts += [f"{format_seconds(left)} left"] if left else []
        return ", ".join(parts)

    def worker_lines(self) -> list[str]:
        """Return a line for each worker: the job, how long it runs, what it said last."""
        lines = []
        for worker, state in self.workers.items():
            text = state
            if (job := self.begun.get(worker)) is not None:
                row, began = job
                said = last_line(JobFolders(self.studio, row.job.person, row.job.style).log)
                text = f"{row.job.person}, {row.job.style}  {format_seconds(self.clock() - began)}"
                text += f"  {said}" if said else ""
            lines.append(f"worker {worker}: {text}")
        return lines


def last_line(log: Path) -> str:
    """Return the last line of a log; "" where there is none here."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - LOG_TAIL))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def show_batch(ctx: typer.Context, events: Iterable[Event], progress: BatchProgress) -> BatchEnded:
    """Draw the events of a batch; return the last."""
    if ctx.obj.quiet or ctx.obj.json or not sys.stderr.isatty():
        for event in events:
            progress.take_in(event)
            tell(event, progress, lambda text: note(ctx, text), lambda text: warn(ctx, text))
    else:
        from rich.live import Live
        from rich.markup import escape

        from mcap.cli.output import error_console

        console = error_console()

        def say(text: str) -> None:
            console.print(text, markup=False)

        def complain(text: str) -> None:
            console.print(f"[yellow]warning:[/yellow] {escape(text)}")

        with Live(console=console, get_renderable=lambda: picture(progress), transient=True):
            for event in events:
                progress.take_in(event)
                tell(event, progress, say, complain)
    assert progress.ended is not None  # the last event
    return progress.ended


def tell(
    event: Event,
    progress: BatchProgress,
    say: Callable[[str], None],
    complain: Callable[[str], None],
) -> None:
    """Print a line where an event is worth one."""
    if isinstance(event, Note):
        say(event.text)
    elif isinstance(event, WorkerLost):
        complain(event.why)
    elif isinstance(event, JobEnded):
        row, seconds = event.row, progress.elapsed[event.row.id]
        again = event.row.state == "waiting" and event.cause not in ("stopped", "missing")
        text = f"{row.job.person}, {row.job.style}: {ENDS[event.cause]} after "
        text += format_seconds(seconds) + (", to be tried again" if again else "")
        text += f" ({progress.summary()})"
        if row.state == "failed" or event.cause not in ("done", "stopped"):
            where = f" in {row.stage}" if row.stage else ""
            complain(f"{text}\n  {row.job.person}{where}: {row.message}")
        else:
            say(text)
        for remark in row.details.get("remarks", []):
            complain(f"{row.job.person}, {row.job.style}: {remark}")


def picture(progress: BatchProgress) -> Group:
    """Return the bar and the workers' lines, for a terminal."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    bar = Table.grid(padding=(0, 1))
    bar.add_row(
        Text("batch"),
        ProgressBar(total=max(1, progress.total), completed=progress.done, width=30),
        Text(progress.summary()),
    )
    lines = [Text(line, no_wrap=True, overflow="ellipsis") for line in progress.worker_lines()]
    return Group(bar, *lines)
