"""The ledger: jobs and attempts, through crashes, damage and forgetting."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from mcap.batch.folder import LEDGER
from mcap.batch.jobs import Job
from mcap.batch.ledger import Ledger, Planned
from mcap.batch.retry import Next
from mcap.errors import McapError, UsageError


def planned(*people: str, **more) -> list[Planned]:
    return [Planned(Job(name, Path(f"/photos/{name}"), "passport"), **more) for name in people]


@pytest.fixture
def ledger(tmp_path):
    with closing(Ledger(tmp_path, create=True)) as made:
        yield made


def test_attempts_are_kept_with_their_jobs(ledger):
    (row,) = ledger.add(planned("anna", estimate=60.0, disk_mb=5.0))
    first = ledger.begin(row, "worker 1")
    assert ledger.rows()[0].state == "running"
    ledger.finish(first, "memory", Next("waiting", low_memory=True), {"exit_code": 5})
    (row,) = ledger.rows()
    assert (row.state, row.low_memory, row.estimate, row.disk_mb) == ("waiting", True, 60.0, 5.0)
    second = ledger.begin(row, "worker 2")
    outcome = {"exit_code": 0, "peak_mb": 1.5, "details": {"refused": [["a.jpg", "blurred"]]}}
    ledger.finish(second, "done", Next("done"), outcome)
    (row,) = ledger.rows()
    assert [(one.worker, one.exit_code, one.low_memory) for one in row.attempts] == [
        ("worker 1", 5, False),
        ("worker 2", 0, True),
    ]
    assert row.attempts[1].peak_mb == 1.5 and row.attempts[1].ended is not None
    assert row.details == {"refused": [["a.jpg", "blurred"]]}


def test_what_a_dead_scheduler_left_waits_again_and_counts_for_nothing(tmp_path):
    with closing(Ledger(tmp_path, create=True)) as ledger:
        ledger.begin(ledger.add(planned("anna"))[0], "1")
    with closing(Ledger(tmp_path)) as ledger:
        assert ledger.recover() == 1
        (row,) = ledger.rows()
        assert (row.state, row.attempts[0].cause) == ("waiting", "stopped")
        assert ledger.recover() == 0


def test_other_photos_are_another_job(ledger, tmp_path):
    jobs = [Planned(Job("anna", tmp_path / "anna", "passport"))]
    (tmp_path / "anna").mkdir()
    (row,) = ledger.add(jobs)
    ledger.finish(ledger.begin(row, "1"), "done", Next("done"), {"exit_code": 0})
    assert ledger.add(jobs)[0].state == "done"
    (tmp_path / "anna" / "1.jpg").write_bytes(b"photo")
    again = ledger.add(jobs)[0]
    assert (again.state, again.counted) == ("waiting", ())


def test_a_job_with_another_seed_is_refused(ledger):
    ledger.add(planned("anna"))
    other = Planned(
        Job("anna", Path("/photos/anna"), "passport", seed=1, origin="jobs.csv, line 2")
    )
    with pytest.raises(UsageError, match=r"jobs.csv, line 2: 'anna'.*seed was 0 and is 1"):
        ledger.add([other])
    ledger.add(planned("bob"))  # the transaction before left nothing behind
    assert [row.job.person for row in ledger.rows()] == ["anna", "bob"]


def test_retry_takes_what_failed_and_what_waits(ledger):
    anna, *_ = ledger.add(planned("anna", "bob", "carl"))
    ledger.finish(ledger.begin(anna, "1"), "refused", Next("failed"), {"exit_code": 3})
    bob = ledger.rows()[1]
    ledger.finish(ledger.begin(bob, "1"), "done", Next("done"), {"exit_code": 0})
    assert [row.job.person for row in ledger.retry(failed_only=True)] == ["anna"]
    assert ledger.rows()[0].counted == ()
    assert [row.job.person for row in ledger.retry(failed_only=False)] == ["anna", "carl"]


def test_a_person_is_gone_to_the_last_byte(tmp_path):
    with closing(Ledger(tmp_path, create=True)) as ledger:
        rows = ledger.add(planned("Zebulon Quasar", "anna"))
        for row in rows:
            ledger.finish(ledger.begin(row, "1"), "failed", Next("failed"),
                          {"message": f"{row.job.person} failed"})  # fmt: skip
        assert any(b"Quasar" in path.read_bytes() for path in tmp_path.glob(f"{LEDGER}*"))
        assert ledger.forget("zebulon quasar") == 1
        assert not any(b"Quasar" in path.read_bytes() for path in tmp_path.glob(f"{LEDGER}*"))
        (row,) = ledger.rows()
        assert (row.job.person, len(row.attempts)) == ("anna", 1)


def test_names_that_are_no_utf_8_are_kept(ledger):
    source = Path("/photos/\udcff")
    ledger.add([Planned(Job("anna", source, "passport"))])
    assert ledger.rows()[0].job.source == source


def test_a_folder_without_a_ledger_is_none_of_ours(tmp_path):
    with pytest.raises(UsageError, match="is no folder of mcap batch"):
        Ledger(tmp_path)


@pytest.mark.parametrize("content", [b"no database at all, however long the text may be " * 40])
def test_a_damaged_ledger_says_so(tmp_path, content):
    (tmp_path / LEDGER).write_bytes(content)
    with pytest.raises(McapError, match="is damaged, or no ledger"):
        Ledger(tmp_path)


def test_another_versions_ledger_is_left_alone(tmp_path):
    with closing(sqlite3.connect(tmp_path / LEDGER)) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(UsageError, match="its schema is 99"):
        Ledger(tmp_path, create=True)


def test_a_full_disk_is_told_as_one(ledger):
    ledger.db.execute("PRAGMA max_page_count = 12")
    with pytest.raises(McapError, match=r"the disk is full.*the same command goes on"):
        for number in range(2000):
            ledger.add(planned(f"person {number}"))


@pytest.mark.parametrize("code", [sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY])
def test_a_file_that_cannot_be_opened_is_told_by_what_the_disk_says(ledger, monkeypatch, code):
    cannot_open = sqlite3.OperationalError("unable to open database file")
    cannot_open.sqlite_errorcode = code
    assert "the disk failed" in str(ledger.failure(cannot_open))  # and takes what is written now
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "no permission" in str(ledger.failure(cannot_open))
