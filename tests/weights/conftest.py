"""Weights of the tests' own, and the places that they come from."""

from __future__ import annotations

import os
import socket
import threading
from types import MappingProxyType

import pytest

from mcap.weights import cache, catalogue
from tests.support.weight_servers import (
    DATA,
    USERS_CACHE,
    Server,
    entry,
)


@pytest.fixture(scope="session")
def loopback() -> None:
    """Skip where this machine cannot even talk to itself (an empty network namespace)."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        try:
            socket.create_connection(listener.getsockname(), timeout=2).close()
        except OSError as error:
            pytest.skip(f"no loopback network: {error}")


@pytest.fixture
def server(loopback):
    server = Server()
    server.files["/weight.bin"] = DATA
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("MCAP_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("MCAP_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    cache.set_offline(None)


@pytest.fixture
def known(monkeypatch):
    """Make ``probe`` the weight with these sources; returns the path where it belongs."""

    def install(*sources, data: bytes = DATA):
        item = entry(*sources, data=data)
        monkeypatch.setattr(catalogue, "WEIGHTS", MappingProxyType({"probe": item}))
        return cache.cache_dir() / "weights" / "probe" / "weight.bin"

    return install


@pytest.fixture
def dead(loopback) -> str:
    """An address on this machine where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def find_links(tmp_path, monkeypatch):
    """A package index of one folder, through pip's own settings, as a user would have it."""
    folder = tmp_path / "wheels"
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def weights_cached(monkeypatch, weights):
    """The `weights` fixture looks into the user's real cache, not into this file's own."""
    if USERS_CACHE is None:
        monkeypatch.delenv("MCAP_CACHE_DIR")
    else:
        monkeypatch.setenv("MCAP_CACHE_DIR", USERS_CACHE)
    return weights
