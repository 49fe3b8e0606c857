"""Actors of a Ray cluster, one a GPU: Ray places them, restarts them, and carries files.

Ray's own retries of tasks stay off: the ledger counts attempts, and whether one more is worth it
depends on how the last one ended.
"""

from __future__ import annotations

import _thread
import asyncio
import logging
import os
import secrets
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO, cast

import ray
from ray.exceptions import RayActorError, RayError

from mcap.batch.folder import WORKERS
from mcap.batch.worker import Runner, load_runner, perform
from mcap.contracts import EngineInfo, WorkerEvent, WorkerPlan, Workforce
from mcap.errors import McapError, UsageError
from mcap.runtime.files import make_folder, private_opener, write_bytes
from mcap_plugins.ray.files import laid_down, listing, packed, results, sees, unpacked

CORES_A_WORKER = 4
ANSWER_SECONDS = 10.0
"""That an address has to answer."""
PLACE_SECONDS = 60.0
"""That an actor may take to start before people are told."""
PROBE = ".mcap.shared"
"""File in STUDIO by which a worker elsewhere knows that it is the same folder."""


class Control:
    """An actor by which all workers hear that they are to stop."""

    def __init__(self) -> None:
        self.told = asyncio.Event()

    async def stop(self) -> None:
        """Tell everybody who waits, now or later."""
        self.told.set()

    async def stopped(self) -> None:
        """Return as soon as they are to stop."""
        await self.told.wait()


class Worker:
    """The process of an actor."""

    def __init__(self, runner: str, environment: Mapping[str, str], control: str) -> None:
        os.environ.update(environment)
        self.busy = self.stopping = False
        began = time.perf_counter()
        self.runner: Runner = load_runner(runner)
        self.seconds = time.perf_counter() - began
        # Ray's workers take an interruption as their end.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        threading.Thread(target=self.listen, args=(control,), daemon=True).start()

    def listen(self, control: str) -> None:
        """Do to the job what Ctrl-C does, as soon as workers are to stop.

        In a thread of its own, since a job has the main one, which alone can be interrupted. Ray
        blocks the signal itself in its processes, so that Ctrl-C in the terminal where a cluster
        was started is no end of the workers.
        """
        while not self.stopping:
            try:
                ray.get(ray.get_actor(control).stopped.remote())
            except (RayError, ValueError):  # its machine is lost, and Ray starts it elsewhere
                time.sleep(1.0)
                continue
            self.stopping = True
            if self.busy:
                _thread.interrupt_main()

    def ready(
        self, probe: tuple[str, str], listings: Mapping[str, list[Any]]
    ) -> tuple[str, bool, float]:
        """Return the machine's name, whether it sees the same folders, and seconds of loading."""
        return socket.gethostname(), sees(probe, listings), self.seconds

    def do(self, order: Mapping[str, Any], files: bytes | None) -> tuple[dict[str, Any], Any]:
        """Do a job; return its outcome and, where its files were sent, what it wrote.

        Of files that were sent nothing stays on this machine, and nobody else can read them.
        """
        if files is None:
            return self.perform(order), None
        with tempfile.TemporaryDirectory(prefix="mcap-", ignore_cleanup_errors=True) as folder:
            placed = unpacked(order, files, Path(folder) / "job")
            return self.perform(placed), results(placed)

    def perform(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """Return the outcome of a job whose files are here."""
        outcome: dict[str, Any] = {"exit_code": 130, "message": "Interrupted."}
        try:
            self.busy = True
            if not self.stopping:
                outcome = perform(self.runner, order)
            self.busy = False
        except KeyboardInterrupt:  # it came between two statements of ours
            self.busy = False
        return outcome


class WithoutRay:
    """Standard output without what Ray's own threads print into it, which goes to a log: a program
    may print JSON there."""

    def __init__(self, stream: TextIO, log: TextIO) -> None:
        self.stream, self.log = stream, log
        self.ending = False
        """While Ray ends it prints in our thread, too."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write to the log in a thread of Ray's, else to the stream."""
        rays = self.ending or threading.current_thread().name.startswith("ray_")
        return (self.log if rays else self.stream).write(text)


class RayEngine:
    """`mcap.contracts.Engine` on a Ray cluster."""

    info = EngineInfo(machines=True, has_address=True)

    def __init__(self) -> None:
        self.plan: WorkerPlan | None = None
        self.actors: dict[str, Any] = {}
        self.control: Any = None
        self.pending: dict[Any, tuple[str, str]] = {}
        self.orders: dict[str, Mapping[str, Any]] = {}
        self.shared: dict[str, bool] = {}
        self.asked: dict[str, float] = {}
        self.told: set[str] = set()
        self.probe = ("", "")
        self.listings: dict[str, list[Any]] = {}
        self.started = False
        self.stdout: TextIO | None = None

    def start(self, plan: WorkerPlan) -> Workforce:
        """Connect to the cluster, or start one here, and ask it for the actors."""
        if plan.gpus:
            raise UsageError(
                f"--gpus {','.join(plan.gpus)}: Ray gives out the GPUs itself; say how many with "
                "--workers N."
            )
        self.plan = plan
        self.connect(plan)
        count, threads, gpu = workforce(plan, ray.nodes())
        self.probe = (str(plan.studio / PROBE), secrets.token_hex(16))
        write_bytes(Path(self.probe[0]), self.probe[1].encode())
        self.listings = self.listed()
        limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
        actor = actor_class()
        control: Any = ray.remote(Control)
        # By name: an actor that is to be started again must not hang on another one's handle.
        control_name = f"mcap-control-{secrets.token_hex(8)}"
        self.control = control.options(name=control_name, num_cpus=0, max_restarts=-1).remote()
        for number in range(count):
            name = str(number + 1)
            self.actors[name] = actor.options(
                num_cpus=threads,
                num_gpus=gpu,
                max_restarts=-1,
                scheduling_strategy="SPREAD",
                **({"label_selector": dict(plan.labels)} if plan.labels else {}),
            ).remote(plan.runner, limits, control_name)
            self.greet(name)
        return Workforce(tuple(self.actors), threads)

    def connect(self, plan: WorkerPlan) -> None:
        """Connect to Ray; `McapError` that says what is wrong with the address."""
        address = plan.address or os.environ.get("RAY_ADDRESS")
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        own: dict[str, Any] = {}
        if address:
            require_answer(address)
        else:
            wanted = (plan.workers or 1) * (plan.threads or 1)
            own = {"include_dashboard": False, "num_cpus": max(os.cpu_count() or 1, wanted)}
        forget_token()
        log = plan.studio / WORKERS / "ray.log"
        make_folder(log.parent)
        self.stdout = sys.stdout
        file = open(log, "a", encoding="utf-8", opener=private_opener)  # noqa: SIM115
        sys.stdout = cast("TextIO", WithoutRay(sys.stdout, file))
        try:
            ray.init(
                address=address or "local",
                namespace="mcap",
                log_to_driver=False,
                logging_level=logging.ERROR,
                **own,
            )
        except Exception as error:  # a node that does not come up in time is a bare one of Ray's
            with suppress(Exception):
                ray.shutdown()  # what did come up
            first = str(error).strip().partition("\n")[0]
            where = f"--ray-address {address}: " if address else ""
            if of_the_token(error):
                raise McapError(
                    f"{where}Ray refuses the token, which all machines of a cluster share: put "
                    "the cluster's into RAY_AUTH_TOKEN, with RAY_AUTH_MODE=token, or into the "
                    "file ~/.ray/auth_token. 'ray get-auth-token' shows it on the first machine."
                ) from error
            raise McapError(
                f"{where}Ray cannot be reached: {first} 'ray status' on that machine says whether "
                "a cluster runs; mcap and it need the same version of Ray and of Python."
            ) from error
        self.started = True
        for number, handler in handlers.items():  # Ray sets its own
            with suppress(ValueError, TypeError):
                signal.signal(number, handler)

    def listed(self) -> dict[str, list[Any]]:
        """Return what lies in the folders of photos now."""
        assert self.plan is not None
        return {str(source): listing(source) for source in self.plan.sources}

    def greet(self, worker: str) -> None:
        """Ask a worker whether it is there; Ray answers as soon as the actor lives."""
        self.asked[worker] = time.perf_counter()
        reference = self.actors[worker].ready.remote(self.probe, self.listings)
        self.pending[reference] = (worker, "ready")

    def submit(self, worker: str, order: Mapping[str, Any]) -> None:
        files = None if self.shared[worker] else ray.put(packed(order))
        self.orders[worker] = order
        reference = self.actors[worker].do.remote(order, files)
        self.pending[reference] = (worker, "do")

    def wait(self, seconds: float) -> list[WorkerEvent]:
        if not self.pending:
            time.sleep(seconds)
            return []
        if (waited := self.told_to_wait()) is not None:
            return [waited]
        done, _ = ray.wait(list(self.pending), num_returns=1, timeout=seconds)
        if done and len(self.pending) > 1:
            done, _ = ray.wait(list(self.pending), num_returns=len(self.pending), timeout=0)
        events: list[WorkerEvent] = []
        for reference in done:
            worker, kind = self.pending.pop(reference)
            try:
                found = ray.get(reference)
            except RayError as error:
                # Ray puts another actor in its place, on another machine where this one is gone.
                events.append(WorkerEvent(worker, "died", text=why_lost(worker, error)))
                if isinstance(error, RayActorError) or kind == "ready":
                    self.greet(worker)
                continue
            if kind == "ready":
                events += self.welcome(worker, *found)
            else:
                outcome, files = found
                if files is not None:
                    laid_down(self.orders[worker], files)
                events.append(WorkerEvent(worker, "finished", outcome=outcome))
        return events

    def told_to_wait(self) -> WorkerEvent | None:
        """Return a note on workers for whom the cluster has no place yet, once."""
        now = time.perf_counter()
        late = [
            worker
            for worker, kind in self.pending.values()
            if kind == "ready" and now - self.asked[worker] > PLACE_SECONDS
        ]
        if not late or "places" in self.told:
            return None
        self.told.add("places")
        text = (
            f"{len(late)} of {len(self.actors)} workers wait for a place on the cluster, which "
            "has too few free processors or GPUs, or no machine with the label; 'ray status' says "
            "what it has."
        )
        return WorkerEvent(late[0], "note", text=text)

    def welcome(self, worker: str, machine: str, shared: bool, seconds: float) -> list[WorkerEvent]:
        """Take in that a worker is there, and whether it sees the same folders."""
        assert self.plan is not None
        files, studio = self.plan.files, self.plan.studio
        if not shared and (now := self.listed()) != self.listings:
            self.listings = now  # a client's folder has changed since: no fault of that machine
            self.greet(worker)
            return []
        if files == "shared" and not shared:
            raise UsageError(
                f"--files shared: worker {worker} on {machine} does not see {studio} and the "
                "photos at the same paths. Mount the folder there too, or let files be copied "
                "with --files copied."
            )
        self.shared[worker] = shared and files != "copied"
        events = []
        if not shared and machine not in self.told and files == "auto":
            self.told.add(machine)
            text = (
                f"{machine} does not see {studio} and the photos at the same paths: photos and "
                "results travel through Ray's object store. A job whose machine is lost then "
                "begins anew, as its checkpoints are lost with it."
            )
            events.append(WorkerEvent(worker, "note", text=text))
        took = time.perf_counter() - self.asked[worker]
        return [*events, WorkerEvent(worker, "ready", seconds=took)]

    def interrupt(self) -> None:
        self.control.stop.remote()

    def close(self) -> None:
        ours: Any = sys.stdout
        if isinstance(ours, WithoutRay):
            ours.ending = True
        try:
            if self.started:
                self.disconnect()
        finally:
            if self.stdout is not None and isinstance(ours, WithoutRay):
                sys.stdout = self.stdout
                ours.log.close()

    def disconnect(self) -> None:
        """End the actors, and the cluster where it was started here."""
        for actor in (*self.actors.values(), self.control):
            with suppress(Exception):
                ray.kill(actor, no_restart=True)
        with suppress(OSError):
            Path(self.probe[0]).unlink(missing_ok=True)
        ray.shutdown()
        self.started = False


def actor_class() -> Any:
    """Return `Worker` as a class of actors."""
    method, remote = cast("Any", ray.method), cast("Any", ray.remote)
    # Until the actor is there again: Ray asks as often as it takes.
    return remote(type("Actor", (Worker,), {"ready": method(max_task_retries=-1)(Worker.ready)}))


def workforce(plan: WorkerPlan, nodes: list[dict[str, Any]]) -> tuple[int, int, float]:
    """Return number of workers, threads of each, and each one's share of GPUs.

    Raises `UsageError` where the cluster has not that many GPUs.
    """
    machines = [node["Resources"] for node in nodes if node["Alive"]]
    gpus = 0 if plan.gpus == () else int(sum(one.get("GPU", 0) for one in machines))
    if gpus:
        places = gpus * plan.per_gpu
        if plan.workers is not None and plan.workers > places:
            raise UsageError(
                f"--workers {plan.workers}: the cluster has {gpus} GPUs, and {plan.per_gpu} on "
                "each; let more share one with --per-gpu N."
            )
        threads = min(
            int(one.get("CPU", 1) // (one["GPU"] * plan.per_gpu)) for one in machines if
            one.get("GPU")
        )  # fmt: skip
        return plan.workers or places, plan.threads or max(1, threads), 1 / plan.per_gpu
    cores = [int(one.get("CPU", 0)) for one in machines if one.get("CPU")]
    count = plan.workers or max(1, sum(cores) // CORES_A_WORKER)
    # As many as fit on the smallest machine, where each machine gets its part of the workers.
    each = -(-count // max(1, len(cores)))
    threads = plan.threads or max(1, min(cores, default=1) // each)
    return count, threads, 0.0


def require_answer(address: str) -> None:
    """Raise `McapError` where nothing answers at HOST:PORT, which Ray would wait for long."""
    place = address.removeprefix("ray://")
    host, _, port = place.rpartition(":")
    if address in ("auto", "local"):
        return
    if not host or not port.isdigit():
        raise UsageError(
            f"--ray-address {address}: is no address: give auto, HOST:6379, or ray://HOST:10001."
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise McapError(
            f"--ray-address {address}: nothing answers there ({error}). 'ray status' on that "
            "machine says whether a cluster runs, and 'ray start --head' starts one."
        ) from None


def forget_token() -> None:
    """Let Ray read the cluster's token again, from the environment or its file.

    Ray reads it once a process, so that after a batch on another cluster, or on one started here,
    it would show that one's. Its loader is no part of its public interface.
    """
    with suppress(ImportError, AttributeError):
        from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]

        AuthenticationTokenLoader.instance().reset_cache()


def of_the_token(error: BaseException | None) -> bool:
    """Return whether an error, or one that led to it, is that the cluster refuses the token."""
    while error is not None:
        if "InvalidAuthToken" in str(error):  # Ray quotes it in the errors that it raises instead
            return True
        error = error.__cause__ or error.__context__
    return False


def why_lost(worker: str, error: BaseException) -> str:
    """Return the first sentence of what Ray says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"worker {worker} was lost: {lines[0] if lines else type(error).__name__}"
