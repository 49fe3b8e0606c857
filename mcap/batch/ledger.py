"""The ledger of a batch: its jobs and every attempt at them, in one SQLite file.

One scheduler writes, which holds the folder's lock; anybody may read meanwhile. What lies in the
people's folders is the work itself: a ledger that is lost costs the history, and no picture.
"""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mcap.batch.folder import LEDGER
from mcap.batch.jobs import Job, photos_hash
from mcap.batch.retry import Cause, Next, State
from mcap.errors import McapError, UsageError
from mcap.runtime.files import REASONS, private_opener, try_to_write, why
from mcap.runtime.text import file_stem, json_bytes

SCHEMA = 1
TABLES = """
CREATE TABLE batch (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE jobs (
  id INTEGER PRIMARY KEY,
  person TEXT NOT NULL,
  style TEXT NOT NULL,
  source TEXT NOT NULL,              -- JSON: names need not be UTF-8
  seed INTEGER NOT NULL,
  overrides TEXT NOT NULL,           -- JSON: list of KEY=VALUE
  estimate REAL,                     -- seconds, by the plan
  disk_mb REAL NOT NULL,             -- that it needs while it runs, by the plan
  photos TEXT NOT NULL DEFAULT '',   -- hash over names, sizes and times of the source's files
  state TEXT NOT NULL DEFAULT 'waiting',
  low_memory INTEGER NOT NULL DEFAULT 0,
  since INTEGER NOT NULL DEFAULT 0,  -- attempts up to this id belong to an earlier 'retry'
  cause TEXT NOT NULL DEFAULT '',
  stage TEXT NOT NULL DEFAULT '',
  message TEXT NOT NULL DEFAULT '',
  details TEXT NOT NULL DEFAULT '{}',
  UNIQUE (person, style)
);
CREATE TABLE attempts (
  id INTEGER PRIMARY KEY,
  job INTEGER NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
  worker TEXT NOT NULL,
  started REAL NOT NULL,             -- seconds since 1970
  ended REAL,
  exit_code INTEGER,                 -- NULL: it runs, or its worker was lost
  cause TEXT NOT NULL DEFAULT '',
  stage TEXT NOT NULL DEFAULT '',
  message TEXT NOT NULL DEFAULT '',
  peak_mb REAL,
  loading_seconds REAL,
  saved_seconds REAL,
  low_memory INTEGER NOT NULL
);
CREATE INDEX attempts_of_job ON attempts (job);
"""

OF_THE_DISK = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_IOERR: errno.EIO,
    sqlite3.SQLITE_CANTOPEN: errno.EIO,
    sqlite3.SQLITE_READONLY: errno.EIO,  # it opens for reading what it could not open for writing
}
"""SQLite's code of an error -> what the disk has most likely against it, where the next try finds
nothing: who has no permission has none then either."""

BUSY_SECONDS = 30.0
"""How long a reader or writer waits for another."""


@dataclass(frozen=True)
class Attempt:
    """One try of a worker at a job."""

    id: int
    job: int
    worker: str
    started: float
    """Seconds since 1970."""
    ended: float | None
    exit_code: int | None
    cause: Cause
    stage: str
    message: str
    peak_mb: float | None
    loading_seconds: float | None
    saved_seconds: float | None
    low_memory: bool

    @property
    def seconds(self) -> float:
        """From its start to its end, or to now."""
        return (time.time() if self.ended is None else self.ended) - self.started


@dataclass(frozen=True)
class JobRow:
    """A job and how it stands."""

    id: int
    job: Job
    state: State
    estimate: float | None = None
    """Seconds."""
    disk_mb: float = 0.0
    photos: str = ""
    """Hash over the source's files (`photos_hash`) when the job was begun last, or came."""
    low_memory: bool = False
    cause: str = ""
    stage: str = ""
    message: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Of the last attempt: refused photos, remarks, seconds a stage."""
    attempts: tuple[Attempt, ...] = ()
    """All of them, the oldest first."""
    since: int = 0

    @property
    def counted(self) -> tuple[Attempt, ...]:
        """The attempts since the last ``mcap batch retry``."""
        return tuple(attempt for attempt in self.attempts if attempt.id > self.since)

    @property
    def seconds(self) -> float:
        """Of all attempts."""
        return sum(attempt.seconds for attempt in self.attempts)


@dataclass(frozen=True)
class Planned:
    """A job with what its plan says of it."""

    job: Job
    estimate: float | None = None
    """Seconds; None where it is not known."""
    disk_mb: float = 0.0


class Ledger:
    """The open ledger of a studio folder."""

    def __init__(self, studio: Path, *, create: bool = False) -> None:
        """Open it; `UsageError` where there is none, or it is another version's or damaged."""
        self.path = studio / LEDGER
        if not create and not self.path.is_file():
            raise UsageError(
                f"{studio}: is no folder of mcap batch ({LEDGER} is not there); give the folder "
                "that --out named."
            )
        try:
            if create:  # SQLite would make it by the umask; -wal and -shm take its permissions
                os.close(private_opener(str(self.path), os.O_CREAT | os.O_WRONLY))
            self.db = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
            self.db.row_factory = sqlite3.Row
            # Disks of a network have no shared memory for WAL; SQLite then keeps the mode it has.
            self.db.execute("PRAGMA journal_mode = WAL")
            # A power cut may take the last moments, of which the folders know; nothing is torn.
            self.db.execute("PRAGMA synchronous = NORMAL")
            self.db.execute("PRAGMA foreign_keys = ON")
            self.db.execute("PRAGMA secure_delete = ON")
            version = self.db.execute("PRAGMA user_version").fetchone()[0]
            if version == 0 and create:
                with self.transaction():
                    for statement in TABLES.split(";\n"):
                        self.db.execute(statement)
                    self.db.execute(f"PRAGMA user_version = {SCHEMA}")
                version = SCHEMA
        except sqlite3.DatabaseError as error:
            raise self.failure(error) from error
        if version != SCHEMA:
            self.close()
            raise UsageError(
                f"{self.path}: its schema is {version}, and this version of mcap knows {SCHEMA}; "
                "use the version that made it, or another --out."
            )

    def close(self) -> None:
        """Close it; the files beside it (-wal, -shm) are gone with the last one who has it open."""
        self.db.close()

    def failure(self, error: sqlite3.Error) -> McapError:
        """Return the error to raise for what SQLite has against the file."""
        text = str(error)
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the rest says where it was met
        if code in OF_THE_DISK:
            reason = REASONS[OF_THE_DISK[code]]
            try:  # SQLite keeps to itself what the disk has told it; the disk tells us, too
                try_to_write(self.path.parent)
                for file in self.path.parent.glob(f"{LEDGER}*"):
                    if not os.access(file, os.R_OK | os.W_OK):  # closing it would drop locks
                        reason = REASONS[errno.EACCES]
            except OSError as refused:
                reason = why(refused)
            return McapError(f"{self.path}: {reason}; the same command goes on.")
        if "not a database" in text or "malformed" in text:
            return UsageError(
                f"{self.path}: is damaged, or no ledger of mcap batch ({text}). Move it away: the "
                "same command then finds what is done in the people's folders."
            )
        return McapError(f"{self.path}: cannot be used ({text}).")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All statements inside are done, or none."""
        try:
            self.db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                if self.db.in_transaction:  # a full disk has ended it already
                    self.db.execute("ROLLBACK")
                raise
            self.db.execute("COMMIT")
        except sqlite3.Error as error:
            raise self.failure(error) from error

    def get(self, key: str, default: Any = None) -> Any:
        """Return a value of the batch: ``settings``, ``threads``."""
        row = self.db.execute("SELECT value FROM batch WHERE key = ?", (key,)).fetchone()
        return default if row is None else json.loads(row["value"])

    def put(self, key: str, value: Any) -> None:
        """Keep a JSON-serialisable value of the batch."""
        with self.transaction():
            self.db.execute(
                "INSERT INTO batch VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = ?2",
                (key, as_json(value)),
            )

    def add(self, planned: Sequence[Planned]) -> list[JobRow]:
        """Add jobs that are new, and let those wait again whose photos are others than when they
        were begun last; return the rows of all that were asked for.

        Raises `UsageError` for a job that is there with another seed or other overrides.
        """
        there = {row.job.key: row for row in self.rows()}
        # Once a person, and before others are kept from the ledger.
        hashes = {source: photos_hash(source) for source in {plan.job.source for plan in planned}}
        with self.transaction():
            for plan in planned:
                job, photos = plan.job, hashes[plan.job.source]
                values = (plan.estimate, plan.disk_mb, photos)
                row = there.get(job.key)
                if row is None:
                    self.db.execute(
                        "INSERT INTO jobs (person, style, source, seed, overrides, estimate,"
                        " disk_mb, photos) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                        (job.person, job.style, as_json(str(job.source)), job.seed,
                         as_json(list(job.overrides)), *values),
                    )  # fmt: skip
                    continue
                require_same(row.job, job)
                self.db.execute(
                    "UPDATE jobs SET source = ?, estimate = ?, disk_mb = ?, photos = ?"
                    " WHERE id = ?",
                    (as_json(str(job.source)), *values, row.id),
                )
                if photos != row.photos and row.state in ("done", "failed"):
                    self.wait_again(row)
        wanted = {plan.job.key for plan in planned}
        return [row for row in self.rows() if row.job.key in wanted]

    def wait_again(self, row: JobRow) -> None:
        """Let a job wait, its attempts until now forgiven; inside a transaction."""
        last = row.attempts[-1].id if row.attempts else 0
        self.db.execute(
            "UPDATE jobs SET state = 'waiting', since = ?, low_memory = 0, cause = '', stage = '',"
            " message = '' WHERE id = ?",
            (last, row.id),
        )

    def look_again(self, rows: Sequence[JobRow]) -> None:
        """Let all of these jobs wait, since something else is asked of them now."""
        with self.transaction():
            for row in rows:
                self.wait_again(row)

    def recover(self) -> int:
        """Let jobs wait again that a scheduler was at which is no more; return their number."""
        with self.transaction():
            self.db.execute(
                "UPDATE attempts SET ended = started, cause = 'stopped',"
                " message = 'the scheduler ended' WHERE ended IS NULL"
            )
            found = self.db.execute("UPDATE jobs SET state = 'waiting' WHERE state = 'running'")
        return found.rowcount

    def begin(self, row: JobRow, worker: str) -> int:
        """Write that a worker begins a job, with the row's photos; return the attempt's id."""
        with self.transaction():
            self.db.execute(
                "UPDATE jobs SET state = 'running', photos = ? WHERE id = ?", (row.photos, row.id)
            )
            made = self.db.execute(
                "INSERT INTO attempts (job, worker, started, low_memory) VALUES (?, ?, ?, ?)",
                (row.id, worker, time.time(), row.low_memory),
            )
        assert made.lastrowid is not None
        return made.lastrowid

    def finish(
        self, attempt: int, cause: Cause, following: Next, outcome: Mapping[str, Any]
    ) -> None:
        """Write how an attempt ended, and what follows for its job."""
        stage, message = str(outcome.get("stage", "")), str(outcome.get("message", ""))
        with self.transaction():
            self.db.execute(
                "UPDATE attempts SET ended = ?, exit_code = ?, cause = ?, stage = ?, message = ?,"
                " peak_mb = ?, loading_seconds = ?, saved_seconds = ? WHERE id = ?",
                (time.time(), outcome.get("exit_code"), cause, stage, message,
                 outcome.get("peak_mb"), outcome.get("loading_seconds"),
                 outcome.get("saved_seconds"), attempt),
            )  # fmt: skip
            self.db.execute(
                "UPDATE jobs SET state = ?, low_memory = ?, cause = ?, stage = ?, message = ?,"
                " details = ? WHERE id = (SELECT job FROM attempts WHERE id = ?)",
                (following.state, following.low_memory, cause, stage, message,
                 as_json(outcome.get("details", {})), attempt),
            )  # fmt: skip

    def take_over(self, row: JobRow, attempts: Sequence[Mapping[str, Any]]) -> None:
        """Write attempts that were made elsewhere (`mcap.batch.emit.run_task`); the last says how
        the job stands."""
        with self.transaction():
            for one in attempts:
                self.db.execute(
                    "INSERT INTO attempts (job, worker, started, ended, exit_code, cause, stage,"
                    " message, peak_mb, loading_seconds, saved_seconds, low_memory)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (row.id, *(one.get(key) for key in ("worker", "started", "ended", "exit_code",
                     "cause")), one.get("stage", ""), one.get("message", ""),
                     *(one.get(key) for key in ("peak_mb", "loading_seconds", "saved_seconds",
                     "low_memory"))),
                )  # fmt: skip
            last = attempts[-1]
            self.db.execute(
                "UPDATE jobs SET state = ?, cause = ?, stage = ?, message = ?, details = ?"
                " WHERE id = ?",
                (last["state"], last["cause"], last.get("stage", ""), last.get("message", ""),
                 as_json(last.get("details", {})), row.id),
            )  # fmt: skip

    def rows(self) -> list[JobRow]:
        """Return all jobs with their attempts, in the order in which they came."""
        try:
            jobs = self.db.execute("SELECT * FROM jobs ORDER BY id").fetchall()
            tries = self.db.execute("SELECT * FROM attempts ORDER BY id").fetchall()
        except sqlite3.Error as error:
            raise self.failure(error) from error
        attempts: dict[int, list[Attempt]] = {}
        for row in tries:
            values = {**row, "low_memory": bool(row["low_memory"])}
            attempts.setdefault(row["job"], []).append(Attempt(**values))
        return [
            JobRow(
                id=row["id"],
                job=Job(
                    row["person"],
                    Path(json.loads(row["source"])),
                    row["style"],
                    row["seed"],
                    tuple(json.loads(row["overrides"])),
                ),
                state=row["state"],
                estimate=row["estimate"],
                disk_mb=row["disk_mb"],
                photos=row["photos"],
                low_memory=bool(row["low_memory"]),
                cause=row["cause"],
                stage=row["stage"],
                message=row["message"],
                details=json.loads(row["details"]),
                attempts=tuple(attempts.get(row["id"], ())),
                since=row["since"],
            )
            for row in jobs
        ]

    def retry(self, *, failed_only: bool) -> list[JobRow]:
        """Let jobs wait again that were given up; return them, and without ``failed_only`` those
        that wait anyway."""
        with self.transaction():
            again = [row for row in self.rows() if row.state == "failed"]
            for row in again:
                self.wait_again(row)
        wanted = {row.id for row in again}
        return [
            row
            for row in self.rows()
            if row.id in wanted or (row.state == "waiting" and not failed_only)
        ]

    def forget(self, person: str) -> int:
        """Take a person's jobs and attempts out, and the name out of the file's bytes.

        ``person`` is the name, or that of the person's folder. Returns the number of jobs.
        """
        with self.transaction():
            ids = [
                row.id
                for row in self.rows()
                if file_stem(row.job.person).casefold() == file_stem(person).casefold()
            ]
            for id in ids:
                self.db.execute("DELETE FROM jobs WHERE id = ?", (id,))
        # Deleted rows live on in free pages, and in the write-ahead log until it is cut off.
        try:
            self.db.execute("VACUUM")
            self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:
            raise self.failure(error) from error
        return len(ids)


def require_same(before: Job, now: Job) -> None:
    """Raise `UsageError` where a job is in the ledger with other settings."""
    changed = [
        f"{name} was {getattr(before, name)!r} and is {getattr(now, name)!r}"
        for name in ("seed", "overrides")
        if getattr(before, name) != getattr(now, name)
    ]
    if changed:
        raise UsageError(
            f"{now.origin or now.person}: '{now.person}' in the style '{now.style}' is in this "
            f"--out already, and {'; '.join(changed)}. Put it back, or give another --out."
        )


def as_json(value: Any) -> str:
    """Return JSON in which names that are not UTF-8 are escaped, as SQLite's text needs it."""
    return json_bytes(json.dumps(value, ensure_ascii=False, allow_nan=False)).decode()
