"""A Ray cluster of several node processes on this machine, for tests and benchmarks."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support import ROOT

READY_SECONDS = 240.0
MEMORY = 128 * 2**20
"""Bytes of each node's object store."""


class Cluster:
    """Nodes by number, of which the first is the head."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.nodes: list[subprocess.Popen] = []
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(
                [str(ROOT), str(ROOT / "plugins"), os.environ.get("PYTHONPATH", "")]
            ),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            # On a machine that is busy a node's processes take longer than Ray waits for them.
            "RAY_agent_register_timeout_ms": str(int(READY_SECONDS * 1000)),
            "RAY_raylet_start_wait_time_s": str(int(READY_SECONDS)),
            "RAY_gcs_server_request_timeout_seconds": str(int(READY_SECONDS)),
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",
        }

    def start(self, cpus: int, **variables: str) -> None:
        """Start a node with so many processors, and wait until it is there."""
        where = ["--head", f"--port={self.port}", "--include-dashboard=false"]
        if self.nodes:
            where = [f"--address={self.address}"]
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", *where, "--block"]
        command += [f"--num-cpus={cpus}", f"--object-store-memory={MEMORY}"]
        command += ["--disable-usage-stats", "--node-ip-address=127.0.0.1"]
        log = (self.folder / f"node-{len(self.nodes)}.log").open("ab")
        self.nodes.append(
            subprocess.Popen(
                command,
                env={**self.environment, **variables},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        )
        log.close()
        deadline = time.monotonic() + READY_SECONDS
        said = self.folder / f"node-{len(self.nodes) - 1}.log"
        while "Ray runtime started" not in said.read_text(errors="replace"):
            if time.monotonic() > deadline or self.nodes[-1].poll() is not None:
                raise RuntimeError(said.read_text(errors="replace"))
            time.sleep(0.2)

    def kill(self, number: int) -> None:
        """Kill a node and everything on it, as a power cut does."""
        with suppress(ProcessLookupError):
            # Workers are of other sessions than the node; they are its children's children.
            for pid in descendants(self.nodes[number].pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            os.killpg(self.nodes[number].pid, signal.SIGKILL)
        self.nodes[number].wait()


def descendants(pid: int) -> list[int]:
    """Return the processes below one, the deepest first."""
    import psutil

    with suppress(psutil.NoSuchProcess):
        return [child.pid for child in reversed(psutil.Process(pid).children(recursive=True))]
    return []


def free_port() -> int:
    """Return a port of this machine that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def cluster(folder: Path, *cpus: int) -> Iterator[Cluster]:
    """Run nodes with so many processors each; give it to this process's environment, too."""
    made = Cluster(folder)
    own: Mapping[str, str] = {
        name: made.environment[name] for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "PYTHONPATH")
    }
    before = {name: os.environ.get(name) for name in own}
    os.environ.update(own)
    try:
        for number in cpus:
            made.start(number)
        yield made
    finally:
        for number in reversed(range(len(made.nodes))):
            made.kill(number)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
