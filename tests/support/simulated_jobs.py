"""Jobs of a batch that sleep and write, for tests and benchmarks, and the processes they kill.

A job writes its parts one after the other, each whole or not at all, and goes on where it was: what
is there after any number of deaths is what an undisturbed job writes. The person's name says what
is to go wrong.
"""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mcap.batch.folder import JobFolders
from mcap.batch.worker import Runner
from mcap.runtime.files import write_bytes

PARTS = 4


def make_runner() -> Runner:
    """Return what does simulated jobs."""
    return simulate


def sleeper() -> Runner:
    """Return what only sleeps, as long as the job's seed says in milliseconds."""

    def sleep(order: Mapping[str, Any]) -> dict[str, Any]:
        time.sleep(order["seed"] / 1000)
        return {"exit_code": 0}

    return sleep


def simulate(order: Mapping[str, Any]) -> dict[str, Any]:
    """Write the parts of a job; the seed is how long all take, in milliseconds."""
    person = order["person"]
    folders = JobFolders(Path(order["studio"]), person, order["style"])
    tried = folders.home / f"{order['style']}.tries"
    tried.parent.mkdir(parents=True, exist_ok=True)
    with tried.open("a") as file:
        file.write("low memory\n" if order["low_memory"] else "as usual\n")
    tries = len(tried.read_text().splitlines())
    if "clients" in Path(order["source"]).parts and not Path(order["source"]).is_dir():
        return {"exit_code": 3, "stage": "mask", "message": f"{order['source']} is not there"}
    if person.startswith("deadly"):
        os.kill(os.getpid(), signal.SIGKILL)
    if person.startswith("raises"):
        raise ValueError("as its name says")
    for code in (1, 2, 3, 4, 5):
        if person.startswith(f"ends with {code}"):
            return {"exit_code": code, "stage": "train", "message": f"told to end with {code}"}
    if person.startswith("memory") and not order["low_memory"]:
        return {"exit_code": 5, "stage": "train", "message": "too little memory"}
    if person.startswith("second try") and tries == 1:
        return {"exit_code": 1, "stage": "train", "message": "the first try fails"}
    for part in range(PARTS):
        path = part_path(folders, part)
        if not path.is_file():
            time.sleep(order["seed"] / 1000 / PARTS)
            write_bytes(path, part_bytes(order, part))
    return {"exit_code": 0, "peak_mb": 1.0, "details": {"accepted": 6, "refused": []}}


def part_path(folders: JobFolders, part: int) -> Path:
    return folders.portraits / f"part-{part}.bin"


def part_bytes(order: Mapping[str, Any], part: int) -> bytes:
    """Return what an undisturbed job writes, 4 kB that hang on everything it was told."""
    text = f"{order['person']}/{order['style']}/{order['seed']}/{part}"
    return hashlib.sha256(text.encode()).digest() * 128
