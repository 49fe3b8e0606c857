"""The commands that the page runs: one process each, which outlives the server.

A job's folder holds the command and what it printed, so that a server that is started again knows
what ran. A process that goes on after its server was killed is followed further; one that was
stopped with the server, or killed with the machine, is begun again and goes on where it was, as
the command does in a terminal. Photos are looked at beside other work, of which there is one at a
time: it has the machine to itself.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import psutil

from mcap.runtime.documents import read_json
from mcap.runtime.files import make_folder, private_opener, write_json
from mcap.studio.folder import JOBS, PEOPLE, people_of

State = Literal["waiting", "running", "stopping", "stopped", "interrupted", "failed", "done"]
OPEN = frozenset({"waiting", "running", "stopping"})
"""States of jobs that are not over."""

PROGRAM = (sys.executable, "-m", "mcap")
STANDBY = (sys.executable, "-m", "mcap.cli.standby")
"""Loads what ``mcap mask`` needs, and is then the command whose words it is told."""
RECORD, OUT, LOG = "job.json", "out.json", "log.txt"
MOST_BEGUN = 3
"""So often is a job begun by itself: one that kills its process is not tried for ever."""
INTERRUPTED = 130
LOG_BYTES = 200_000
"""Of a job's log, the last of which are shown."""


@dataclass
class Job:
    """A command for a person."""

    folder: Path
    words: tuple[str, ...]
    """Behind ``mcap``."""
    pid: int | None = None
    started: float | None = None
    """When the process began, seconds since the epoch by the system's own count."""
    begun: int = 0
    stopped_by: str | None = None
    """"person" or "studio", where one of them has asked it to stop."""
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def number(self) -> int:
        """It counts a person's jobs, from 1."""
        return int(self.folder.name)

    @property
    def person(self) -> str:
        return self.folder.parent.parent.name

    @property
    def light(self) -> bool:
        """It looks at photos only, and needs not wait for a training."""
        return self.words[0] == "mask" or "--dry-run" in self.words

    @property
    def title(self) -> str:
        """The command's name."""
        return "plan" if "--dry-run" in self.words else self.words[0]

    def alive(self) -> bool:
        """Return whether its process is there and works."""
        if self.process is not None:
            return self.process.poll() is None
        if self.pid is None or self.started is None:
            return False
        with suppress(psutil.Error):
            found = psutil.Process(self.pid)
            same = abs(found.create_time() - self.started) < 1
            return same and found.status() != psutil.STATUS_ZOMBIE
        return False

    @property
    def state(self) -> State:
        """State by its process, and by what that has printed."""
        if self.pid is None:
            return "stopped" if self.stopped_by else "waiting"
        if self.alive():
            return "stopping" if self.stopped_by else "running"
        result = self.result()
        if result is None:
            return "stopped" if self.stopped_by else "interrupted"
        if "error" in result:
            return "stopped" if result.get("exit_code") == INTERRUPTED else "failed"
        return "done"

    def result(self) -> dict[str, Any] | None:
        """Return what the command printed with ``--json``; None where it did not come so far."""
        try:
            found = json.loads((self.folder / OUT).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def log(self) -> str:
        """Return what it printed for people, the last of it where that is much."""
        try:
            with open(self.folder / LOG, "rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_BYTES))
                return file.read().decode("utf-8", "replace")
        except OSError:
            return ""

    def save(self) -> None:
        """Write its record."""
        write_json(
            self.folder / RECORD,
            {
                "command": list(self.words),
                "pid": self.pid,
                "started": self.started,
                "begun": self.begun,
                "stopped_by": self.stopped_by,
            },
        )


def read_job(folder: Path) -> Job | None:
    """Return the job of a folder; None where there is none, or its record is damaged."""
    try:
        found = read_json(folder / RECORD)
        words = tuple(str(word) for word in found["command"])
        int(folder.name)
        if not words:
            return None
        return Job(
            folder, words, found["pid"], found["started"], found["begun"], found["stopped_by"]
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def let_interrupts_through() -> None:
    """Have processes that begin from here on end at SIGINT, by which they are stopped.

    A shell that runs a program in the background has it ignore that, and what is ignored is
    inherited. Call it from the main thread.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


class Standby:
    """A process that has loaded what a look at photos takes, before somebody waits for that."""

    def __init__(self, program: Sequence[str]) -> None:
        self.program = tuple(program)
        self.process: subprocess.Popen[bytes] | None = None

    def prepare(self) -> None:
        """Start it, where there is none yet; one that ended by itself is not tried again."""
        if self.process is not None and self.process.poll() is not None:
            self.process, self.program = None, ()
        if self.process is None and self.program:
            with suppress(OSError):
                self.process = subprocess.Popen(
                    self.program, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL, env=job_environment(), start_new_session=True,
                )  # fmt: skip

    def take(self, words: Sequence[str], out: Path, log: Path) -> subprocess.Popen[bytes] | None:
        """Return the process, which runs a command of mcap from here on; None where there is none.

        ``words`` are those behind ``mcap``; it writes what it prints into ``out``, and what it
        says to people behind what is in ``log``.
        """
        process, self.process = self.process, None
        if process is None or process.poll() is not None or process.stdin is None:
            return None
        asked = {"words": [*words], "out": str(out.absolute()), "log": str(log.absolute())}
        try:
            with process.stdin:
                process.stdin.write(json.dumps(asked).encode() + b"\n")
        except OSError:  # it has ended in this moment
            process.wait()
            return None
        return process

    def close(self) -> None:
        """End it."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()  # it has begun nothing
            process.communicate()


def job_environment() -> dict[str, str]:
    """Return the environment of a job's process: what it prints is there at once."""
    return {**os.environ, "PYTHONUNBUFFERED": "1"}


class Jobs:
    """All jobs of a studio, in the order in which they were asked for.

    One server has a studio (its folder is locked), so that these are all there are.
    """

    def __init__(
        self,
        studio: Path,
        options: Sequence[str] = (),
        program: Sequence[str] = PROGRAM,
        standby: Sequence[str] = (),
    ) -> None:
        """``options`` are global ones that each command gets, such as ``--offline``.

        ``standby`` starts a process that waits for the words of a ``mask`` (`STANDBY`).
        """
        self.standby = Standby(standby) if standby else None
        self.studio, self.options, self.program = studio, tuple(options), tuple(program)
        self.changing = threading.RLock()
        self.closed = False
        found = [
            job
            for person in people_of(studio)
            for folder in (studio / PEOPLE / person / JOBS).glob("*")
            if (job := read_job(folder)) is not None
        ]
        self.jobs = sorted(found, key=lambda job: (job.started or time.time(), job.number))

    def of(self, person: str) -> list[Job]:
        """Return a person's jobs, the first first."""
        with self.changing:
            mine = [job for job in self.jobs if job.person == person]
        return sorted(mine, key=lambda job: job.number)

    def line(self, words: Sequence[str]) -> str:
        """Return the line that does the same in a terminal, quoted for a shell."""
        return shlex.join(["mcap", *self.options, *words])

    def run(self, words: Sequence[str]) -> tuple[int, dict[str, Any]]:
        """Run a short command and wait for it; return its exit code and its JSON."""
        command = [*self.program, *self.options, "--json", *words]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        try:
            found = json.loads(done.stdout)
        except ValueError:
            found = {}
        return done.returncode, found if isinstance(found, dict) else {}

    def add(self, person: str, words: Sequence[str]) -> Job:
        """Ask for a command; it begins when the machine is free."""
        with self.changing:
            folder = self.studio / PEOPLE / person / JOBS
            make_folder(folder)
            number = 1 + max((int(path.name) for path in folder.glob("[0-9]*")), default=0)
            job = Job(folder / f"{number:04d}", tuple(words))
            make_folder(job.folder)
            job.save()
            self.jobs.append(job)
            self.advance()
            return job

    def advance(self) -> None:
        """Begin what waits, where nothing of its kind is running."""
        with self.changing:
            for light in (True, False):
                mine = [job for job in self.jobs if job.light == light]
                busy = any(job.state in ("running", "stopping") for job in mine)
                waiting = [job for job in mine if job.state == "waiting"]
                if waiting and not busy and not self.closed:
                    self.begin(waiting[0])
                elif light and self.standby and not busy and not self.closed:
                    self.standby.prepare()

    def advance_or_wait(self) -> None:
        """Do the same; where the disk takes nothing, what waits goes on waiting."""
        with suppress(OSError):
            self.advance()

    def begin(self, job: Job) -> None:
        """Start a job's process, in a session of its own: Ctrl-C and a kill of the server are not
        its business."""
        out, log = job.folder / OUT, job.folder / LOG
        out.unlink(missing_ok=True)
        words = [*self.options, "--json", *job.words]
        process = None
        with (
            open(out, "wb", opener=private_opener) as printed,
            open(log, "ab", opener=private_opener) as said,
        ):
            if self.standby and job.title == "mask":
                process = self.standby.take(words, out, log)
            if process is None:
                process = subprocess.Popen(
                    [*self.program, *words], stdin=subprocess.DEVNULL, stdout=printed, stderr=said,
                    env=job_environment(), start_new_session=True,
                )  # fmt: skip
        job.process, job.pid = process, process.pid
        with suppress(psutil.Error):
            job.started = psutil.Process(process.pid).create_time()
        job.started = job.started or time.time()
        job.begun += 1
        job.stopped_by = None
        job.save()

    def stop(self, job: Job, by: str = "person") -> None:
        """Ask a job to save what it has and end, as Ctrl-C does; one that waits never begins."""
        with self.changing:
            if job.state == "waiting" or (job.state == "running" and job.pid is not None):
                job.stopped_by = by
                job.save()
                if job.pid is not None:
                    with suppress(ProcessLookupError):
                        os.kill(job.pid, signal.SIGINT)

    def again(self, job: Job, begun: int = 0) -> None:
        """Let a job that is over wait for its turn once more; it goes on where it was.

        ``begun`` is how often it was begun by itself before.
        """
        with self.changing:
            if job.state in OPEN:
                return
            if job.pid is not None:  # what it was to replace has gone when it first began
                job.words = tuple(word for word in job.words if word != "--force")
            job.process = job.pid = job.started = job.stopped_by = None
            job.begun = begun
            job.save()
            self.jobs.remove(job)
            self.jobs.append(job)
            self.advance()

    def take_up(self) -> None:
        """Go on with what was stopped with the server or killed with the machine."""
        with self.changing:
            for job in list(self.jobs):
                by_studio = job.state == "stopped" and job.stopped_by == "studio"
                if by_studio or (job.state == "interrupted" and job.begun < MOST_BEGUN):
                    self.again(job, job.begun)
            self.advance()

    def close(self, seconds: float = 60.0) -> list[Job]:
        """Stop all that runs, for `take_up`; return those that are still there after a while."""
        self.closed = True
        if self.standby:
            self.standby.close()
        running = [job for job in self.jobs if job.state in ("running", "stopping")]
        for job in running:
            self.stop(job, by="studio")
        until = time.monotonic() + seconds
        while time.monotonic() < until and any(job.alive() for job in running):
            time.sleep(0.1)
        return [job for job in running if job.alive()]

    def drop(self, person: str) -> None:
        """Forget the jobs of a person whose folder is gone."""
        with self.changing:
            self.jobs = [job for job in self.jobs if job.person != person]
