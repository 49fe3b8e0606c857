"""Jobs: one process each that outlives the server, stops as at Ctrl-C, and is taken up again."""

from __future__ import annotations

import os
import signal
import sys
import time

import psutil
import pytest

from mcap.studio.jobs import MOST_BEGUN, Jobs, Standby, let_interrupts_through


def until(condition, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.02)


def wait_for(jobs: Jobs, job, state: str) -> None:
    def there() -> bool:
        jobs.advance()
        return job.state == state

    until(there)


def test_a_command_runs_and_what_it_prints_is_kept(jobs):
    job = jobs.add("Anna", ["mask", "--out", "x y"])
    wait_for(jobs, job, "done")
    assert job.result() == {"words": ["--json", "mask", "--out", "x y"]}
    assert jobs.line(job.words) == "mcap mask --out 'x y'"
    assert (job.number, job.person, job.title, job.light) == (1, "Anna", "mask", True)
    assert job.folder.stat().st_mode & 0o777 == 0o700
    failed = jobs.add("Anna", ["mask", "--fail"])
    wait_for(jobs, failed, "failed")
    assert failed.number == 2 and failed.result()["error"] == "No usable photo"


def test_work_waits_for_its_turn_and_photos_do_not(jobs, tmp_path):
    long = jobs.add("Anna", ["train", "--wait", str(tmp_path / "go")])
    second = jobs.add("Anna", ["generate"])
    looked = jobs.add("Anna", ["mask"])
    wait_for(jobs, looked, "done")
    assert (long.state, second.state) == ("running", "waiting")
    (tmp_path / "go").touch()
    wait_for(jobs, second, "done")
    assert long.state == "done"


def test_stop_is_ctrl_c_and_again_goes_on(jobs, tmp_path):
    job = jobs.add("Anna", ["train", "--wait", str(tmp_path / "go"), "--force"])
    waiting = jobs.add("Anna", ["generate"])
    until(lambda: "3/10" in job.log())
    jobs.stop(waiting)
    jobs.stop(job)
    wait_for(jobs, job, "stopped")
    assert job.result()["exit_code"] == 130 and waiting.state == "stopped"
    (tmp_path / "go").touch()
    jobs.again(job)
    wait_for(jobs, job, "done")
    assert "--force" not in job.words  # what it was to replace went when it first began


def test_a_studio_in_the_background_of_a_shell_can_stop_its_jobs(studio, program, tmp_path):
    """There SIGINT is ignored, by whatever is begun too, until that sets a handler of its own."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        let_interrupts_through()
        jobs = Jobs(studio, program=program)
        job = jobs.add("Anna", ["train", "--wait", str(tmp_path / "go")])
        jobs.stop(job)
        until(lambda: job.state == "stopped")
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        signal.signal(signal.SIGINT, handler := lambda *_: None)
        let_interrupts_through()  # whoever has a handler keeps it
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_process_outlives_a_killed_server_and_is_followed(studio, program, tmp_path):
    first = Jobs(studio, program=program)
    job = first.add("Anna", ["train", "--wait", str(tmp_path / "go")])
    until(lambda: "3/10" in job.log())
    assert os.getsid(job.pid) == job.pid  # Ctrl-C in the server's terminal does not reach it
    second = Jobs(studio, program=program)
    second.take_up()
    (found,) = second.of("Anna")
    assert found.state == "running" and found.pid == job.pid and found.begun == 1
    (tmp_path / "go").touch()
    until(lambda: job.process.poll() is not None)  # the first server's child is its own to reap
    assert found.state == "done"


def test_what_was_cut_off_is_begun_again_but_not_for_ever(studio, program, tmp_path):
    jobs = Jobs(studio, program=program)
    job = jobs.add("Anna", ["train", "--wait", str(tmp_path / "go")])
    for begun in range(1, MOST_BEGUN + 1):
        (job,) = jobs.of("Anna")
        until(lambda now=job: now.state == "running" and "3/10" in now.log())
        assert job.begun == begun
        os.kill(job.pid, signal.SIGKILL)
        job.process.wait()
        assert job.state == "interrupted"
        jobs = Jobs(studio, program=program)
        jobs.take_up()
    (job,) = jobs.of("Anna")
    assert job.state == "interrupted"
    (tmp_path / "go").touch()
    jobs.again(job)
    wait_for(jobs, job, "done")


def test_closing_saves_and_the_next_start_goes_on(studio, program, tmp_path):
    jobs = Jobs(studio, program=program)
    job = jobs.add("Anna", ["train", "--wait", str(tmp_path / "go")])
    until(lambda: "3/10" in job.log())
    by_hand = jobs.add("Anna", ["generate"])
    jobs.stop(by_hand)
    assert jobs.close(20) == [] and job.state == "stopped"
    (tmp_path / "go").touch()
    after = Jobs(studio, program=program)
    after.take_up()
    found = {each.title: each for each in after.of("Anna")}
    wait_for(after, found["train"], "done")
    assert found["generate"].state == "stopped"  # somebody wanted it so


def test_another_process_of_that_number_is_not_it(studio, program):
    jobs = Jobs(studio, program=program)
    job = jobs.add("Anna", ["generate"])
    wait_for(jobs, job, "done")
    (job.folder / "out.json").unlink()
    job.process, job.pid, job.started = None, os.getpid(), psutil.Process().create_time() - 60
    assert job.state == "interrupted"


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"command": [], "pid": 1}', "\0"])
def test_a_damaged_record_is_none(studio, program, text):
    folder = studio / "people" / "Anna" / "jobs" / "0001"
    folder.mkdir(parents=True)
    (folder / "job.json").write_text(text)
    jobs = Jobs(studio, program=program)
    assert jobs.of("Anna") == []
    assert jobs.add("Anna", ["mask"]).number == 2
    jobs.close(10)


def test_photos_are_looked_at_by_the_process_that_waits(studio, program, standby, tmp_path):
    jobs = Jobs(studio, ["--offline"], program, standby)
    jobs.advance()
    waiting = jobs.standby.process
    job = jobs.add("Anna", ["mask", "--wait", str(tmp_path / "go")])
    assert job.pid == waiting.pid and job.started == psutil.Process(job.pid).create_time()
    jobs.advance()
    assert jobs.standby.process is None  # not beside it: it would take its time
    until(lambda: "3/10" in job.log())
    jobs.stop(job)
    wait_for(jobs, job, "stopped")
    (tmp_path / "go").touch()
    until(lambda: jobs.advance() or jobs.standby.process is not None)
    jobs.again(job)
    wait_for(jobs, job, "done")
    words = ["--offline", "--json", "mask", "--wait", str(tmp_path / "go"), "from standby"]
    assert job.result() == {"words": words}
    jobs.advance()
    other = jobs.add("Anna", ["generate"])
    wait_for(jobs, other, "done")
    assert "from standby" not in other.result()["words"]
    last = jobs.standby.process
    jobs.close(10)
    assert last.poll() is not None


def test_a_process_that_waits_ends_with_its_server(standby):
    made = Standby(standby)
    made.prepare()
    made.process.stdin.close()  # as the system does when the server is killed
    assert made.process.wait(20) == 0
    made.prepare()
    assert made.process is None  # it is not tried again and again


def test_without_it_the_command_is_started_as_any_other(studio, program):
    jobs = Jobs(studio, (), program, (sys.executable, "-c", "raise SystemExit(1)"))
    jobs.advance()
    jobs.standby.process.wait(20)
    job = jobs.add("Anna", ["mask"])
    wait_for(jobs, job, "done")
    assert job.result() == {"words": ["--json", "mask"]}
    jobs.close(10)
