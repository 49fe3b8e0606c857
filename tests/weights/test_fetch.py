"""The downloader against servers and package folders on this very machine."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from contextlib import contextmanager

import pytest

from mcap.errors import McapError, MissingResourceError
from mcap.weights import cache, verify
from mcap.weights.catalogue import HttpsSource
from mcap.weights.fetch import fetch
from tests.support.weight_servers import (
    DATA,
    SHA,
    child,
    nothing_left,
)


def test_https_is_fetched_once_and_verified(server, known):
    path = known(HttpsSource(f"{server.url}/weight.bin"))
    amounts: list[float] = []

    @contextmanager
    def progress(title, total):
        assert "probe" in title and "MIT" in title
        assert total == len(DATA)

        class Bar:
            def advance(self, n=1, **fields):
                amounts.append(n)

        yield Bar()

    assert fetch("probe", progress=progress) == path
    assert path.read_bytes() == DATA
    assert sum(amounts) == len(DATA)
    assert fetch("probe") == path
    assert server.asked == ["GET /weight.bin"]
    assert verify.verify_weight("probe").ok


def test_wrong_bytes_are_refused(server, known):
    wrong = bytes([1]) + DATA[1:]
    server.files["/weight.bin"] = wrong
    path = known(HttpsSource(f"{server.url}/weight.bin"))
    with pytest.raises(
        MissingResourceError, match=f"sha256 is {hashlib.sha256(wrong).hexdigest()}"
    ):
        fetch("probe")
    assert nothing_left(path)


@pytest.mark.parametrize("length", [0, 10, len(DATA) + 1])
def test_wrong_sizes_are_refused(server, known, length):
    server.files["/weight.bin"] = (DATA + DATA)[:length]
    path = known(HttpsSource(f"{server.url}/weight.bin"))
    with pytest.raises(MissingResourceError, match=f"offers {length} bytes"):
        fetch("probe")
    assert nothing_left(path)


def test_a_connection_that_ends_early_is_refused(server, known):
    server.cut_after = 1000
    path = known(HttpsSource(f"{server.url}/weight.bin"))
    with pytest.raises(MissingResourceError):
        fetch("probe")
    assert nothing_left(path)


def test_sources_are_tried_in_order_and_every_failure_is_told(server, known, dead):
    path = known(HttpsSource(f"{dead}/a"), HttpsSource(f"{server.url}/nosuch"))
    with pytest.raises(MissingResourceError) as raised:
        fetch("probe")
    message = str(raised.value)
    assert message.index(f"{dead}/a: the connection was refused") < message.index("404")
    assert str(path) in message and SHA in message and "models pull probe" in message
    assert len(raised.value.details["failures"]) == 2

    known(HttpsSource(f"{dead}/a"), HttpsSource(f"{server.url}/weight.bin"))
    started = time.monotonic()
    assert fetch("probe").read_bytes() == DATA
    assert time.monotonic() - started < 5


def test_a_damaged_cached_file_is_fetched_again(server, known):
    path = known(HttpsSource(f"{server.url}/weight.bin"))
    path.parent.mkdir(parents=True)
    path.write_bytes(bytes(len(DATA)))
    assert not verify.verify_weight("probe").ok
    assert fetch("probe").read_bytes() == DATA


def test_a_cache_that_cannot_be_written_is_named(known, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    known(HttpsSource("http://127.0.0.1:9/weight.bin"))
    monkeypatch.setenv("MCAP_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(McapError, match="MCAP_CACHE_DIR"):
        fetch("probe")


@pytest.mark.parametrize("how", ["argument", "flag", "MCAP_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_asks_nobody(server, known, monkeypatch, how):
    path = known(HttpsSource(f"{server.url}/weight.bin"))
    option = None
    if how == "argument":
        option = True
    elif how == "flag":
        cache.set_offline(True)
    else:
        monkeypatch.setenv(how, "1")
    try:
        with pytest.raises(MissingResourceError, match="models pull probe") as raised:
            fetch("probe", offline=option)
        assert str(path) in str(raised.value)
        assert server.asked == []
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(DATA[:-1])
        with pytest.raises(MissingResourceError, match="is damaged"):
            fetch("probe", offline=option)
        path.write_bytes(DATA)
        assert fetch("probe", offline=option) == path
        assert server.asked == []
    finally:
        cache.set_offline(None)


def test_two_processes_fetch_once(server, known):
    path = known(HttpsSource(f"{server.url}/weight.bin"))
    server.pause = 0.5
    children = [child(server), child(server)]
    for process in children:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert out.strip() == str(path)
    assert server.asked == ["GET /weight.bin"]
    assert path.read_bytes() == DATA


def test_a_killed_download_leaves_no_file_and_harms_no_later_one(server, known):
    path = known(HttpsSource(f"{server.url}/weight.bin"))
    server.pause = 30
    process = child(server)
    deadline = time.monotonic() + 30
    while not list(path.parent.glob(".part-*/*/file")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert list(path.parent.glob(".part-*")), "it was killed in the middle"
    assert not path.exists()
    server.pause = 0
    assert fetch("probe").read_bytes() == DATA
    assert not list(path.parent.glob(".part-*"))
