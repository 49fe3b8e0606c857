"""Job arrays for clusters that have a queue of their own: a task a person.

The tasks share no database, which disks of a network would not lock: each reads STUDIO/tasks.json,
and leaves how its jobs ended in files beside the work, which the ledger collects later.
"""

from __future__ import annotations

import json
import platform
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcap.batch.folder import PEOPLE, JobFolders, style_folder
from mcap.batch.jobs import Job, photos_hash
from mcap.batch.ledger import Ledger, Planned
from mcap.batch.retry import Cause, cause_of, what_next
from mcap.batch.scheduler import job_order
from mcap.batch.settings import BatchSettings
from mcap.batch.worker import Runner, perform
from mcap.errors import UsageError
from mcap.runtime.documents import MEBIBYTE, read_json
from mcap.runtime.files import why, write_json

TASKS = "tasks.json"
OUTCOME = ".outcome.json"
"""Behind a style's name in a person's folder: how attempts of a task ended."""
LARGEST = 256 * MEBIBYTE


@dataclass(frozen=True)
class Array:
    """A job array."""

    studio: Path
    people: Sequence[str]
    workers: int | None
    """Tasks at once; None: as many as the cluster has room for."""
    gpus: int
    threads: int
    image: str
    claim: str


def prepare_array(
    studio: Path, jobs: Sequence[Planned], settings: BatchSettings, threads: int
) -> list[str]:
    """Write the jobs into the ledger, and what each task does into tasks.json; return the people.

    The people whose jobs take longest come first.
    """
    with closing(Ledger(studio, create=True)) as ledger:
        rows = ledger.add(jobs)
        ledger.put("settings", settings.model_dump(mode="json"))
        ledger.put("threads", threads)
    orders: dict[str, list[dict[str, Any]]] = {}
    seconds: dict[str, float] = {}
    for row in rows:
        orders.setdefault(row.job.person, []).append(job_order(row, settings, studio, threads))
        seconds[row.job.person] = seconds.get(row.job.person, 0.0) + (row.estimate or 0.0)
    people = sorted(orders, key=lambda person: -seconds[person])
    write_json(studio / TASKS, [{"person": name, "orders": orders[name]} for name in people])
    return people


def run_task(studio: Path, number: int, make_runner: Callable[[], Runner]) -> list[dict[str, Any]]:
    """Do the jobs of the person ``number`` in this process, retried by cause; return their ends.

    Each is written beside the work at once. `UsageError` where there is no such task.
    """
    try:
        tasks = read_json(studio / TASKS, LARGEST)
        orders = tasks[number]["orders"]
    except OSError as error:
        raise UsageError(f"{studio / TASKS}: {why(error)}; mcap batch emit writes it.") from None
    except (ValueError, LookupError, TypeError) as error:
        raise UsageError(f"{studio / TASKS}: has no task {number} ({error}).") from None
    runner = make_runner()
    return [run_job(order, runner) for order in orders]


def run_job(order: Mapping[str, Any], runner: Runner) -> dict[str, Any]:
    """Do one job until it is done or given up; return how it ended."""
    folders = JobFolders(Path(order["studio"]), order["person"], order["style"])
    file = folders.home / f"{style_folder(order['style'])}{OUTCOME}"
    causes: list[Cause] = []
    attempts: list[dict[str, Any]] = []
    while True:
        started, photos = time.time(), photos_hash(Path(order["source"]))
        outcome = perform(runner, order)
        changed = photos_hash(Path(order["source"])) != photos
        # Nobody but the cluster interrupts a task, and it does so on purpose.
        causes.append(cause_of(outcome["exit_code"], stopping=True, photos_changed=changed))
        following = what_next(causes)
        attempts.append(
            {
                "worker": platform.node(),
                "started": started,
                "ended": time.time(),
                "cause": causes[-1],
                "state": following.state,
                "low_memory": order["low_memory"],
                **outcome,
            }
        )
        write_json(file, {"person": order["person"], "style": order["style"], "attempts": attempts})
        if following.state != "waiting" or causes[-1] in ("stopped", "missing"):
            return {"person": order["person"], "style": order["style"], **outcome}
        order = {**order, "low_memory": order["low_memory"] or following.low_memory}


def collect_outcomes(ledger: Ledger, studio: Path) -> int:
    """Take the ends that tasks have left into the ledger; return the number of jobs."""
    files = sorted((studio / PEOPLE).glob(f"*/*{OUTCOME}"))
    if not files:
        return 0
    rows = {row.job.key: row for row in ledger.rows()}
    collected = 0
    for file in files:
        try:
            found = read_json(file)
            row = rows.get(Job(found["person"], Path(), found["style"]).key)
        except (OSError, ValueError, KeyError, TypeError, UsageError):
            continue  # not ours, or of another version: it stays where it is
        if row is not None:
            ledger.take_over(row, found["attempts"])
            collected += 1
        file.unlink(missing_ok=True)
    return collected


def slurm_script(array: Array) -> str:
    """Return a script for ``sbatch``: an array with a task a person."""
    limit = f"%{array.workers}" if array.workers else ""
    gpus = f"#SBATCH --gpus={array.gpus}\n" if array.gpus else ""
    studio = shlex.quote(str(array.studio))
    return f"""\
#!/bin/bash
# {len(array.people)} people, a task each. A task that is requeued goes on from its checkpoint.
#SBATCH --job-name=mcap
#SBATCH --array=0-{len(array.people) - 1}{limit}
#SBATCH --cpus-per-task={array.threads}
{gpus}#SBATCH --mem=24G
#SBATCH --time=04:00:00
#SBATCH --requeue
# Two minutes before the time is up: mcap saves what it has.
#SBATCH --signal=INT@120
#SBATCH --output={array.studio}/slurm-%a.log
set -u
exec srun mcap --offline batch task {studio} "$SLURM_ARRAY_TASK_ID"
"""


def kubernetes_job(array: Array) -> str:
    """Return the manifest of an indexed Job, with a task a person, as YAML (which JSON is)."""
    limits: dict[str, Any] = {"cpu": str(array.threads), "memory": "24Gi"}
    if array.gpus:
        limits["nvidia.com/gpu"] = array.gpus
    count = len(array.people)
    command = (
        f'exec mcap --offline batch task {shlex.quote(str(array.studio))} "$JOB_COMPLETION_INDEX"'
    )
    container = {
        "name": "mcap",
        "image": array.image,
        "command": ["sh", "-c", command],
        "resources": {"limits": limits},
        "volumeMounts": [{"name": "studio", "mountPath": str(array.studio.parent)}],
    }
    manifest = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "mcap-batch"},
        "spec": {
            "completionMode": "Indexed",
            "completions": count,
            "parallelism": min(array.workers or count, count),
            "backoffLimitPerIndex": 2,
            "maxFailedIndexes": count,
            "podFailurePolicy": {
                "rules": [
                    # A node that is drained is no fault of the job.
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]},
                    # mcap has retried what is worth it: 1 to 5 would end the same way again.
                    {
                        "action": "FailIndex",
                        "onExitCodes": {
                            "containerName": "mcap",
                            "operator": "In",
                            "values": [1, 2, 3, 4, 5],
                        },
                    },
                ]
            },
            "template": {
                "spec": {
                    "restartPolicy": "Never",
                    "terminationGracePeriodSeconds": 120,
                    "containers": [container],
                    "volumes": [
                        {
                            "name": "studio",
                            "persistentVolumeClaim": {"claimName": array.claim},
                        }
                    ],
                }
            },
        },
    }
    return json.dumps(manifest, indent=2) + "\n"
