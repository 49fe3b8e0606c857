"""metrics.jsonl and TensorBoard: what a disk that fails in its thread leaves on the screen."""

from __future__ import annotations

import errno
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from mcap.training.log import RunLog


@pytest.fixture
def writer(tmp_path: Path) -> SimpleNamespace:
    return SimpleNamespace(tensorboard=tmp_path / "tensorboard", log=lambda record: None)


@pytest.fixture
def printed(monkeypatch) -> list[BaseException]:
    """What Python would have printed of threads that failed."""
    failures: list[BaseException] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: failures.append(args.exc_value))
    return failures


def event(step: int) -> SimpleNamespace:
    return SimpleNamespace(
        step=step, phase=1, losses={"total": 1.0}, lr={"tokens": 0.1}, skipped={}, seconds=0.1,
        memory_mb=1.0,
    )  # fmt: skip


def worker_of(log: RunLog) -> threading.Thread:
    return log.board.file_writer.event_writer._async_writer._worker


def test_a_disk_that_is_full_under_tensorboard_is_raised_here_and_not_printed_there(
    writer, printed, monkeypatch
):
    shown = threading.excepthook

    def full(data):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"), RunLog(writer, 0) as log:
        monkeypatch.setattr(worker_of(log)._record_writer, "write", full)
        log.write(event(1))
        worker_of(log).join(20)
        log.write(event(2))
    assert not printed
    assert threading.excepthook is shown


def test_a_defect_in_that_thread_is_still_printed(writer, printed, monkeypatch):
    def broken(data):
        raise ValueError("a defect")

    with pytest.raises(ValueError, match="a defect"), RunLog(writer, 0) as log:
        monkeypatch.setattr(worker_of(log)._record_writer, "write", broken)
        log.write(event(1))
        worker_of(log).join(20)
        log.write(event(2))
    assert [str(failure) for failure in printed] == ["a defect"]
