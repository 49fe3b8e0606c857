"""Files and folders of a hub."""

from __future__ import annotations

import time

import pytest

from mcap.errors import MissingResourceError
from mcap.weights import hub
from mcap.weights.catalogue import HubSource
from mcap.weights.fetch import fetch
from tests.support.weight_servers import (
    DATA,
    SHA,
    child,
)


def test_a_backbone_that_is_not_here_is_missing_offline():
    with pytest.raises(MissingResourceError, match="offline"):
        hub.hub_snapshot("nobody/nothing", "main", offline=True)


def test_a_file_of_a_hub_repository(server, known, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", server.url)  # the hub's library reads it at import
    server.files["/"] = b""
    server.files["/probe/weights/resolve/main/weight.bin"] = DATA
    server.headers = {"X-Repo-Commit": "0" * 40, "ETag": f'"{SHA}"'}
    path = known()
    process = child(server, "weights.HubSource('probe/weights', 'weight.bin')")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert out.strip() == str(path)
    assert path.read_bytes() == DATA
    assert server.asked[0] == "HEAD /"
    assert "GET /probe/weights/resolve/main/weight.bin" in server.asked
    assert sorted(item.name for item in path.parent.iterdir()) == [
        ".weight.bin.lock",
        "weight.bin",
    ]


def test_no_way_to_the_hub_is_known_at_once(known, monkeypatch, dead):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "ENDPOINT", dead)
    known(HubSource("probe/weights", "weight.bin"))
    started = time.monotonic()
    with pytest.raises(MissingResourceError, match="the connection was refused"):
        fetch("probe")
    with pytest.raises(MissingResourceError, match="the connection was refused"):
        hub.hub_snapshot("probe/weights", "main", ["*.json"])
    assert time.monotonic() - started < 5
