"""A worker: one process that does one job after another, on whichever engine.

    python -m mcap.batch.worker MODULE:NAME < orders > outcomes

is the worker of an engine that talks through pipes: a JSON object a line, either way. What the job
itself prints goes to standard error. Where the scheduler is gone, which ends the orders, the job
saves what it has, as after Ctrl-C, and the process ends.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from typing import IO, Any

from mcap.errors import McapError

Runner = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""Does a job: order in, outcome out. The outcome has ``exit_code``, ``stage``, ``message``,
``details``, ``peak_mb``, ``loading_seconds``, ``saved_seconds``, of which only the first is a
must."""

ORPHAN_SECONDS = 120.0
"""That a job may take to save what it has after the scheduler is gone."""


def load_runner(name: str) -> Runner:
    """Return what ``module:name`` makes; `McapError` where there is none of that name."""
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)()
    except (ImportError, AttributeError) as error:
        raise McapError(f"The worker cannot load {name}: {error}.") from error


def perform(runner: Runner, order: Mapping[str, Any]) -> dict[str, Any]:
    """Return the outcome of a job, whatever happens in it."""
    try:
        return dict(runner(order))
    except KeyboardInterrupt:
        return {"exit_code": 130, "message": "Interrupted."}
    except McapError as error:
        return {"exit_code": error.exit_code, "message": str(error)}
    except MemoryError:
        return {"exit_code": 5, "message": "The process could not get more memory."}
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        return {"exit_code": 1, "message": f"Unexpected {type(error).__name__}: {error}"}


def interrupt_self() -> None:
    """Do to this process what Ctrl-C does, from whichever thread."""
    if os.name == "posix":
        os.kill(os.getpid(), signal.SIGINT)  # it wakes the main thread from a sleep as well
    else:
        import _thread

        _thread.interrupt_main()


class Orders:
    """Orders from standard input, read by a thread: an interruption must reach a busy worker."""

    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream
        self.waiting: list[dict[str, Any]] = []
        self.changed = threading.Condition()
        self.ended = False
        self.busy = False
        threading.Thread(target=self.read, daemon=True).start()

    def read(self) -> None:
        """Take in orders until there are no more."""
        for line in self.stream:
            order = json.loads(line)
            with self.changed:
                if order.get("interrupt"):
                    if self.busy:
                        interrupt_self()
                    for early in self.waiting:
                        early["interrupted"] = True
                    continue
                self.waiting.append(order)
                self.changed.notify()
        with self.changed:
            self.ended = True
            self.changed.notify()
            if not self.busy:
                return
            interrupt_self()
        time.sleep(ORPHAN_SECONDS)
        os._exit(1)

    def next(self) -> dict[str, Any] | None:
        """Wait for an order; None where there are no more."""
        with self.changed:
            self.changed.wait_for(lambda: self.waiting or self.ended)
            if self.ended:
                return None
            self.busy = True
            return self.waiting.pop(0)

    def done(self) -> None:
        """An interruption finds nobody at work from now on."""
        with self.changed:
            self.busy = False


def serve(name: str) -> int:
    """Do what standard input orders until it ends; return the exit code."""
    began = time.perf_counter()
    outcomes = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever a library prints is no outcome
    signal.signal(signal.SIGINT, signal.default_int_handler)
    orders = Orders(sys.stdin)
    runner = load_runner(name)

    def tell(message: Mapping[str, Any]) -> None:
        outcomes.write(json.dumps(message) + "\n")
        outcomes.flush()

    try:
        tell({"ready": time.perf_counter() - began})
        while (order := orders.next()) is not None:
            outcome: dict[str, Any] = {"exit_code": 130, "message": "Interrupted."}
            try:
                if not order.get("interrupted"):
                    outcome = perform(runner, order)
                orders.done()
            except KeyboardInterrupt:  # it came between two statements of ours
                orders.done()
            tell(outcome)
    except BrokenPipeError:  # the scheduler is gone; the job's folder holds what was done
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(serve(sys.argv[1]))
