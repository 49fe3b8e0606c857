"""Worker processes of this machine, which talk through pipes (`mcap.batch.worker`)."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from mcap.batch.folder import WORKERS
from mcap.contracts import EngineInfo, WorkerEvent, WorkerPlan, Workforce
from mcap.errors import UsageError
from mcap.runtime.files import make_folder, private_opener

CORES_A_WORKER = 4
"""Without a GPU: more threads make a small step little faster, more workers need more memory."""
TAIL = 400
"""Characters of a dead worker's last words that are told."""
GRACE = 5.0
"""Seconds that workers have to end by themselves."""


@dataclass
class WorkerProcess:
    """A worker's place, and the process that is in it now."""

    name: str
    environment: Mapping[str, str]
    log: Path
    process: subprocess.Popen[str] = field(init=False)
    started: float = 0.0


class LocalEngine:
    """`mcap.contracts.Engine` of this machine's processes."""

    info = EngineInfo()

    def __init__(self) -> None:
        self.workers: dict[str, WorkerProcess] = {}
        self.happened: queue.Queue[tuple[str, subprocess.Popen[str], str | None]] = queue.Queue()
        self.runner = ""
        self.closing = False

    def start(self, plan: WorkerPlan) -> Workforce:
        """Start a process for each GPU, or ``plan.workers`` on the CPU."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        cores = cores or 1
        gpus = visible_gpus() if plan.gpus is None else plan.gpus
        places = [gpu for gpu in gpus for _ in range(plan.per_gpu)]
        if places and plan.workers is not None and plan.workers > len(places):
            raise UsageError(
                f"--workers {plan.workers}: there are {len(gpus)} GPUs ({', '.join(gpus)}), and "
                f"{plan.per_gpu} worker{'s' if plan.per_gpu > 1 else ''} on each; let more share "
                "one with --per-gpu N."
            )
        count = plan.workers or len(places) or max(1, cores // CORES_A_WORKER)
        threads = plan.threads or max(1, cores // count)
        log = plan.studio / WORKERS
        make_folder(log)
        self.runner = plan.runner
        for number in range(count):
            device = {"CUDA_VISIBLE_DEVICES": places[number] if places else ""}
            # The libraries of linear algebra count processors by themselves as they are loaded.
            limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
            on = f" on GPU {places[number]}" if places else ""
            name = f"{number + 1}{on}"
            environment = {**limits, **device}
            worker = WorkerProcess(name, environment, log / f"{number + 1}.log")
            self.launch(worker)
            self.workers[name] = worker  # one that a full disk kept from starting has no process
        return Workforce(tuple(self.workers), threads)

    def launch(self, worker: WorkerProcess) -> None:
        """Put a new process in a worker's place, and a thread that listens to it."""
        with open(worker.log, "ab", opener=private_opener) as log:
            worker.process = subprocess.Popen(
                [sys.executable, "-m", "mcap.batch.worker", self.runner],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                encoding="utf-8",
                env={**os.environ, **worker.environment},
                # Ctrl-C in the terminal is for the scheduler, which tells the workers.
                start_new_session=True,
            )
        worker.started = time.perf_counter()
        threading.Thread(
            target=self.listen, args=(worker.name, worker.process), daemon=True
        ).start()

    def listen(self, name: str, process: subprocess.Popen[str]) -> None:
        """Pass on what a process says, and its end."""
        assert process.stdout is not None
        with suppress(ValueError, OSError):
            for line in process.stdout:
                self.happened.put((name, process, line))
        process.wait()
        self.happened.put((name, process, None))

    def submit(self, worker: str, order: Mapping[str, Any]) -> None:
        self.say(self.workers[worker], order)

    def say(self, worker: WorkerProcess, message: Mapping[str, Any]) -> None:
        """Send a line; of one who is gone `listen` tells."""
        pipe: IO[str] | None = worker.process.stdin
        assert pipe is not None
        with suppress(OSError, ValueError):
            pipe.write(json.dumps(message) + "\n")
            pipe.flush()

    def wait(self, seconds: float) -> list[WorkerEvent]:
        events: list[WorkerEvent] = []
        deadline = time.monotonic() + seconds
        while True:
            left = 0.0 if events else max(0.0, deadline - time.monotonic())
            try:
                name, process, line = (
                    self.happened.get(timeout=left) if left else (self.happened.get_nowait())
                )
            except queue.Empty:
                return events
            worker = self.workers[name]
            if process is not worker.process:
                continue  # of one whose place another has taken
            if line is None:
                events.append(WorkerEvent(name, "died", text=last_words(worker)))
                if not self.closing:
                    self.launch(worker)
                continue
            message = json.loads(line)
            if "ready" in message:
                took = time.perf_counter() - worker.started
                events.append(WorkerEvent(name, "ready", seconds=took))
            else:
                events.append(WorkerEvent(name, "finished", outcome=message))

    def interrupt(self) -> None:
        for worker in self.workers.values():
            self.say(worker, {"interrupt": True})

    def close(self) -> None:
        self.closing = True
        processes = [worker.process for worker in self.workers.values()]
        for process in processes:
            with suppress(OSError, ValueError):
                assert process.stdin is not None
                process.stdin.close()
        deadline = time.monotonic() + GRACE
        for process in processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def visible_gpus() -> Sequence[str]:
    """Return the GPUs that torch may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    if not count and torch.backends.mps.is_available():
        return ["mps"]  # Apple's, of which there is one
    if named:
        return [name.strip() for name in named.split(",") if name.strip()][:count]
    return [str(number) for number in range(count)]


def last_words(worker: WorkerProcess) -> str:
    """Return how a process ended, and the end of what it printed."""
    code = worker.process.returncode
    how = f"ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
    if code == -9:
        how += " (the system kills so where memory runs out)"
    try:
        with worker.log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
            said = file.read().decode(errors="replace").strip()
    except OSError:
        said = ""
    line = said.rpartition("\n")[2]
    return f"worker {worker.name} {how}" + (f": {line}" if line and code > 0 else "")
