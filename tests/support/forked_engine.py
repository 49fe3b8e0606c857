"""The local engine with workers that are forks: they are there at once, and whatever stands between
this process and its disk stands before theirs, too."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mcap.batch import worker as serving
from mcap_plugins.local.engine import LocalEngine, WorkerProcess

KEPT_OPEN: set[int] = set()
"""Numbers of open files that workers keep, beside the first three."""


class Fork:
    """A worker in a fork, as far as the engine asks what it asks of `subprocess.Popen`."""

    def __init__(self, runner: str, log: Path) -> None:
        (orders, self_in), (self_out, outcomes) = os.pipe(), os.pipe()
        said = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self.returncode: int | None = None
        self.lock = threading.Lock()
        self.pid = os.fork()
        if self.pid == 0:
            code = 99
            try:
                code = serve_in_fork(runner, (orders, outcomes, said))
            finally:
                os._exit(code)
        for number in (orders, outcomes, said):
            os.close(number)
        self.stdin = os.fdopen(self_in, "w", encoding="utf-8")
        self.stdout = os.fdopen(self_out, encoding="utf-8")

    def poll(self) -> int | None:
        with self.lock:  # two threads wait for the same process
            if self.returncode is None:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                if pid:
                    self.returncode = os.waitstatus_to_exitcode(status)
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("a fork", timeout or 0.0)
            time.sleep(0.01)
        return code

    def kill(self) -> None:
        with self.lock:
            if self.returncode is None:
                os.kill(self.pid, 9)


def serve_in_fork(runner: str, files: Sequence[int]) -> int:
    """Be a worker that reads, writes and logs to these files, until there are no more orders."""
    os.setsid()
    for number, file in enumerate(files):
        os.dup2(file, number)
    # The locks and the pipes of who forked are none of this process's.
    for number in range(3, 1024):
        if number not in KEPT_OPEN:
            try:
                os.close(number)
            except OSError:
                continue
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(number, mode, encoding="utf-8", closefd=False)
        for number, mode in enumerate(("r", "w", "w"))
    )
    # As new processes do, forks begin alike; checkpoints hold these states.
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    return serving.serve(runner)


class ForkedEngine(LocalEngine):
    """`LocalEngine`, whose processes are forks."""

    def launch(self, worker: WorkerProcess) -> None:
        made: Any = Fork(self.runner, worker.log)
        worker.process = made
        worker.started = time.perf_counter()
        threading.Thread(target=self.listen, args=(worker.name, made), daemon=True).start()
