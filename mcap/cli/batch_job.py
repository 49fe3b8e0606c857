"""A job of ``mcap batch`` in a worker: mask, train, generate and enhance, as the commands do.

The stages are the commands themselves, called in the worker's process, so that a job writes what a
person would who typed them one after the other. What they load is kept for the next job.
"""

from __future__ import annotations

import io
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcap.batch.folder import JobFolders
from mcap.errors import McapError, UsageError

if TYPE_CHECKING:
    from mcap.registry import Registry

WAIT_SECONDS = 180.0
"""For a worker that a scheduler left behind as it died, and that saves what it has."""

OWN_VARIABLES = frozenset({"MCAP_PLUGINS", "MCAP_CONFIG_DIR", "MCAP_CACHE_DIR", "MCAP_OFFLINE"})
"""Of the machine that a worker runs on, unless the batch says otherwise."""

GONE = (
    "{}: is not there any more. Where it was renamed, moved or is on a disk that is away, put it "
    "back, and the same command goes on."
)

TRAINED_ON_OTHERS = (
    "It was trained on other inputs: {} changed since. Its portraits are as they were. Put the "
    "inputs back, or train it again: mcap batch retry STUDIO --failed-only --force."
)
"""Of a subject that is complete: what a person may have chosen from is not replaced unasked."""

TOLD_REFUSED = 50
"""Photos whose verdict goes into the ledger; all are in the report of the masks."""


def make_runner() -> JobRunner:
    """Return what does jobs in this process, everything heavy imported."""
    return JobRunner()


class JobRunner:
    """Does one job after the other; keeps detector, identity network, masker and backbone."""

    def __init__(self) -> None:
        import torch

        from mcap.cli import generate, train  # noqa: F401
        from mcap.registry import registry
        from mcap.training import loop  # noqa: F401

        self.torch = torch
        self.registry: Registry = registry()
        self.registry.keep()

    def __call__(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """Return the outcome of a job (`mcap.batch.worker.Runner`)."""
        from mcap.runtime.device import choose_device
        from mcap.runtime.files import make_folder
        from mcap.runtime.lock import locked_folder
        from mcap.runtime.memory import empty_cache, peak_memory_mb, reset_peak_memory

        folders = JobFolders(Path(order["studio"]), order["person"], order["style"])
        make_folder(folders.home)
        before = dict(self.registry.kept or {})
        reused = {key: kept.reused for key, kept in before.items()}
        with variables(order["environment"]), ExitStack() as stack:
            try:
                lock = locked_folder(folders.home, "mcap batch", "--out", WAIT_SECONDS)
                stack.enter_context(lock)
            except UsageError as error:  # no fault of the job's: it is tried again
                raise McapError(str(error)) from error
            device = choose_device(os.environ.get("MCAP_DEVICE", "auto"))
            reset_peak_memory(device)
            outcome = run_stages(order, folders)
            peak = peak_memory_mb(device)
            kept = dict(self.registry.kept or {})
            outcome |= {
                "peak_mb": peak,
                "loading_seconds": sum(
                    model.seconds for key, model in kept.items() if before.get(key) is not model
                ),
                "saved_seconds": sum(
                    model.seconds * (model.reused - reused.get(key, 0))
                    for key, model in kept.items()
                ),
            }
            if outcome["exit_code"] != 0:
                # Whatever stopped halfway may have left its mark on a network.
                self.registry.drop()
            empty_cache(device)
        return outcome


@dataclass(frozen=True)
class Stage:
    """A command of a job."""

    name: str
    arguments: Sequence[str]


def stages(order: Mapping[str, Any], folders: JobFolders) -> list[Stage]:
    """Return the commands of a job, in their order."""
    source, style = str(order["source"]), order["style"]
    count = ["--count", str(order["count"])] if order["count"] else []
    best = ["--best", str(order["best"])] if order["best"] else []
    train = ["--source", source, "--style", style, "--masks", str(folders.masked)]
    train += ["--out", str(folders.subject), "--seed", str(order["seed"])]
    train += [part for text in order["overrides"] for part in ("--set", text)]
    train += ["--checkpoint-every", str(order["checkpoint_every"])]
    train += ["--low-memory"] if order["low_memory"] else []
    generate = ["--style", style, "--seed", str(order["seed"]), *count, *best]
    generate += ["--out", str(folders.portraits), "--", str(folders.subject)]
    found = [
        Stage("mask", ["--out", str(folders.masked), "--", source]),
        Stage("train", train),
        Stage("generate", generate),
    ]
    if order["enhance"]:
        restorer = ["--restorer", order["restorer"]] if order["restorer"] else []
        enhance = ["--profile", style, "--subject", str(folders.subject), *restorer]
        enhance += ["--out", str(folders.finished), "--", str(folders.portraits)]
        found.append(Stage("enhance", enhance))
    return found


def run_stages(order: Mapping[str, Any], folders: JobFolders) -> dict[str, Any]:
    """Run the commands of a job until one fails; return the outcome."""
    details: dict[str, Any] = {"seconds": {}}
    if not os.path.lexists(order["source"]):
        return {"exit_code": 3, "stage": "mask", "message": GONE.format(order["source"])}
    for stage in stages(order, folders):
        began = time.perf_counter()
        code, result = command([stage.name, *stage.arguments], folders.log)
        # Only over a subject of other photos: a training that was interrupted goes on.
        if code == 2 and "changed" in result:
            if order["force"] or not_worth_keeping(result):
                code, result = command([stage.name, *stage.arguments, "--force"], folders.log)
            else:
                result["error"] = TRAINED_ON_OTHERS.format("; ".join(result["changed"]))
        details["seconds"][stage.name] = round(time.perf_counter() - began, 3)
        if stage.name == "mask" and "photos" in result:
            refused = [
                [Path(photo["path"]).name, photo["reason"]]
                for photo in result["photos"]
                if not photo["accepted"]
            ]
            details |= {"accepted": result["accepted"], "refused": refused[:TOLD_REFUSED]}
        # Some finished pictures are not as the style asks; which, the report says.
        if stage.name == "enhance" and code == 3 and result.get("pictures"):
            details["remarks"] = ["Not every finished picture is as the style asks: look at them."]
            code = 0
        # A place that a disk refuses today is no wrong flag: it may be written to tomorrow.
        if code == 2 and "errno" in result:
            code = 1
        if code != 0:
            message = str(result.get("error", "")) or f"mcap {stage.name} ended with code {code}."
            return {
                "exit_code": code, "stage": stage.name, "message": message, "details": details
            }  # fmt: skip
    return {"exit_code": 0, "stage": "", "message": "", "details": details}


def not_worth_keeping(refusal: Mapping[str, Any]) -> bool:
    """Return whether what a training was refused for is one that never ended, on photos that are
    others now: nobody has its portraits, and it cannot go on."""
    of_photos = all(name.startswith(("source photos", "masks")) for name in refusal["changed"])
    return of_photos and refusal.get("state") == "training"


def command(arguments: Sequence[str], log: Path) -> tuple[int, dict[str, Any]]:
    """Run ``mcap`` with these arguments in this process; return its exit code and its JSON.

    What it prints for people is added to ``log``.
    """
    from mcap import cli
    from mcap.runtime.files import private_opener

    said = io.StringIO()
    with open(log, "a", encoding="utf-8", errors="backslashreplace", opener=private_opener) as file:
        file.write(f"== {datetime.now():%Y-%m-%d %H:%M:%S} mcap {arguments[0]}\n")
        file.flush()
        with redirect_stdout(said), redirect_stderr(file):
            code = cli.run(["--json", *arguments])
    try:
        result = json.loads(said.getvalue())
    except ValueError:
        result = {}
    return code, result if isinstance(result, dict) else {}


@contextmanager
def variables(values: Mapping[str, str]) -> Iterator[None]:
    """Set these ``MCAP_*`` variables, and no other setting of theirs, for a while."""
    before = dict(os.environ)
    try:
        for name in list(os.environ):
            if name.startswith("MCAP_") and name not in OWN_VARIABLES:
                del os.environ[name]
        os.environ.update(values)
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        sys.stdout.flush()
