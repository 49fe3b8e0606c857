"""Retrying by cause: what follows from how an attempt at a job ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Cause = Literal["done", "failed", "usage", "refused", "missing", "memory", "worker", "stopped"]
"""Of an attempt's end. ``worker``: its process or machine was lost; ``stopped``: the batch was told
to stop, or its scheduler died, and the attempt counts for nothing."""

State = Literal["waiting", "running", "done", "failed"]

CAUSES: dict[int, Cause] = {
    0: "done",
    2: "usage",
    3: "refused",
    4: "missing",
    5: "memory",
    130: "stopped",
}
"""Exit code of `mcap.errors` -> cause; any other is ``failed``."""

FAILURES = 3
"""Attempts that may end as ``failed`` or ``worker`` before a job is given up: one, and two more."""

REMEDIES: dict[Cause, str] = {
    "failed": "The log says more. Tried {failures} times, each time from the last checkpoint; once "
    "the cause is gone: mcap batch retry STUDIO --failed-only.",
    "worker": "Its process was lost {failures} times; the system's log says whether memory ran "
    "out. Fewer workers, or --low-memory, need less: then mcap batch retry STUDIO --failed-only.",
    "usage": "It would be refused again, so it was not repeated. Change what the message names, "
    "then: mcap batch retry STUDIO --failed-only.",
    "refused": "It would be refused again, so it was not repeated. The verdicts on the photos say "
    "what other photos are needed; add them, then: mcap batch retry STUDIO --failed-only.",
    "memory": "Repeated with --low-memory, and there was too little still. Fewer workers on the "
    "device, a smaller backbone or a larger device, then: mcap batch retry STUDIO --failed-only.",
}
"""Cause of a job that is given up -> what a person can do."""


@dataclass(frozen=True)
class Next:
    """The state of the job, and of the batch, after an attempt."""

    state: State
    low_memory: bool = False
    """The next attempt is to need less memory."""
    stops_batch: bool = False
    """No other job would fare better."""


def cause_of(
    exit_code: int | None, *, stopping: bool = False, photos_changed: bool = False
) -> Cause:
    """Return the cause of an attempt's end; ``exit_code`` None: the worker was lost.

    A worker that was interrupted although nobody told the batch to stop (somebody sent it the
    signal alone) is as one that was lost: it saved a checkpoint first. A refusal of photos that
    changed meanwhile need not be the last word, and is a failure as any.
    """
    if exit_code is None:
        return "stopped" if stopping else "worker"
    cause = CAUSES.get(exit_code, "failed")
    if cause in ("usage", "refused") and photos_changed:
        return "failed"
    return "worker" if cause == "stopped" and not stopping else cause


def what_next(causes: Sequence[Cause]) -> Next:
    """Return what follows after attempts that ended so, the last of them now.

    2 and 3 are never repeated, 5 once with less memory, 1 and a lost worker twice more; 4 stops
    the batch, since every job needs the same weights.
    """
    last = causes[-1]
    if last == "done":
        return Next("done")
    if last == "stopped":
        return Next("waiting", low_memory="memory" in causes)
    if last == "missing":
        return Next("waiting", low_memory="memory" in causes, stops_batch=True)
    if last == "memory":
        return Next("failed") if causes.count("memory") > 1 else Next("waiting", low_memory=True)
    if last in ("failed", "worker"):
        failures = sum(cause in ("failed", "worker") for cause in causes)
        state: State = "failed" if failures >= FAILURES else "waiting"
        return Next(state, low_memory="memory" in causes)
    return Next("failed")


def remedy(cause: Cause, causes: Sequence[Cause] = ()) -> str:
    """Return what a person can do about a job that was given up; "" where nothing is wrong."""
    failures = sum(one in ("failed", "worker") for one in causes) or FAILURES
    return REMEDIES.get(cause, "").format(failures=failures)
