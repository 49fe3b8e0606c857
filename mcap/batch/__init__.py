"""Many people: jobs, a ledger of them, and engines that give them to workers.

    people -> jobs -> ledger -> scheduler -> engine -> worker: mask, train, generate, enhance

`run_batch` is the library's function for it; `mcap batch` calls it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcap.batch.forget import forget_person as forget_person
    from mcap.batch.jobs import Job as Job
    from mcap.batch.jobs import read_jobs as read_jobs
    from mcap.batch.ledger import Planned as Planned
    from mcap.batch.run import run_batch as run_batch
    from mcap.batch.settings import BatchSettings as BatchSettings

MODULES = {
    "BatchSettings": "settings",
    "Job": "jobs",
    "Planned": "ledger",
    "forget_person": "forget",
    "read_jobs": "jobs",
    "run_batch": "run",
}

__all__ = [*MODULES]


def __getattr__(name: str) -> Any:
    if name in MODULES:
        return getattr(import_module(f"mcap.batch.{MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
