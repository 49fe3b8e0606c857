"""A batch from its jobs to its report: the folder's lock, the ledger, the scheduler, the pages."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mcap.batch.emit import collect_outcomes
from mcap.batch.events import BatchEnded, BatchPlanned, Event, Note
from mcap.batch.folder import PAGE, person_folder
from mcap.batch.ledger import JobRow, Ledger, Planned
from mcap.batch.report import write_index, write_person
from mcap.batch.scheduler import Scheduler
from mcap.batch.settings import BatchSettings
from mcap.contracts import WorkerPlan
from mcap.errors import UsageError
from mcap.runtime.files import make_folder
from mcap.runtime.lock import locked_folder

if TYPE_CHECKING:
    from mcap.batch.jobs import Job
    from mcap.contracts import Engine

RUNNER = "mcap.cli.batch_job:make_runner"
"""What a worker does with a job: mask, train, generate and enhance, as the commands do."""

PAGES_SECONDS = 60.0
"""Between two writings of the pages while the batch runs."""

CHANGES_NOTHING = frozenset({"force", "min_free_mb", "checkpoint_every", "low_memory"})
"""Settings by which no picture changes."""


def run_batch(
    jobs: Sequence[Planned | Job] | None,
    out: Path,
    engine: Engine,
    *,
    settings: BatchSettings | None = None,
    plan: WorkerPlan | None = None,
    failed_only: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
) -> Generator[Event]:
    """Do the jobs, as far as they are not done, in the studio folder ``out``; yield events.

    ``jobs`` None: those in the folder's ledger, which begin anew where they were given up; with
    ``failed_only`` these alone. ``settings`` None: those of the ledger, or the defaults. Of
    ``plan`` the studio and the sources are filled in here. The last event is `BatchEnded`; what is
    wrong with a job is no exception.

    Raises `UsageError` where another scheduler is at work in ``out`` or a job is there with another
    seed, `McapError` where no worker can be started.
    """
    out = out.absolute()
    make_folder(out)
    with (
        locked_folder(out, "mcap batch") as weakness,
        closing(Ledger(out, create=jobs is not None)) as ledger,
    ):
        if weakness:
            yield Note(weakness)
        ledger.recover()
        collect_outcomes(ledger, out)
        stored = BatchSettings.model_validate(ledger.get("settings", {}))
        settings = settings or stored
        if jobs is None:
            rows = ledger.retry(failed_only=failed_only)
        else:
            rows = ledger.add([job if isinstance(job, Planned) else Planned(job) for job in jobs])
            again = rows if deciding(settings) != deciding(stored) else []
            if settings.force:  # what it is for: jobs that were refused as trained on other photos
                again = again or [row for row in rows if row.cause == "usage"]
            if again:
                ledger.look_again(again)
                wanted = {row.id for row in rows}
                rows = [row for row in ledger.rows() if row.id in wanted]
        ledger.put("settings", settings.model_dump(mode="json"))
        plan = replace(
            plan or WorkerPlan(RUNNER, out),
            studio=out,
            sources=tuple(dict.fromkeys(row.job.source for row in rows)),
        )
        if plan.threads is None:  # results differ in the last bits with the number of threads
            plan = replace(plan, threads=ledger.get("threads"))
        written = time.monotonic()
        for event in Scheduler(ledger, rows, engine, plan, settings).run(should_stop):
            if isinstance(event, BatchPlanned) and event.workers:
                ledger.put("threads", event.threads)
            if isinstance(event, BatchEnded) or time.monotonic() - written > PAGES_SECONDS:
                write_pages(ledger, out)
                written = time.monotonic()
            yield event


def deciding(settings: BatchSettings) -> BatchSettings:
    """Return the settings without those by which no picture changes."""
    default = BatchSettings()
    return settings.model_copy(update={key: getattr(default, key) for key in CHANGES_NOTHING})


def write_pages(ledger: Ledger, out: Path) -> Path:
    """Write the pages of the people with whom something has happened since, and the first page;
    return that.

    What a scheduler left unfinished in a person's folder that was killed here is removed.
    """
    of: dict[str, list[JobRow]] = {}
    for row in ledger.rows():
        of.setdefault(row.job.person, []).append(row)
    for person, rows in of.items():
        home = person_folder(out, person)
        page = home / PAGE
        last = max((one.ended or one.started for row in rows for one in row.attempts), default=0.0)
        if home.is_dir() and (not page.is_file() or page.stat().st_mtime <= last):
            # Taking the lock tidies up; where a worker holds it, the worker has.
            with suppress(UsageError), locked_folder(home, "mcap batch"):
                pass
            write_person(out, person, rows)
    return write_index(out, of)
