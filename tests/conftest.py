"""Fixtures for all tests: weights where they can be had, never a surprise from the user's own
settings."""

from __future__ import annotations

import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

SHARED_MODELS = Path(__file__).parents[2] / "shared/models"
"""Where a weight may lie that cannot be fetched; it need not be there."""


@pytest.fixture(autouse=True)
def _no_user_settings(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory):
    """No MCAP_* variable or mcap.toml of the person who runs the tests changes a result."""
    for name in list(os.environ):
        if name.startswith("MCAP_") and name not in {"MCAP_CACHE_DIR", "MCAP_OFFLINE"}:
            monkeypatch.delenv(name)
    # pytest-xdist gives its workers the terminal's size; tables have room where there is none.
    for name in ("COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MCAP_CONFIG_DIR", str(tmp_path_factory.mktemp("config")))


@pytest.fixture
def one_thread():
    """Runs that are compared bit for bit have the same number of threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def weights() -> Callable[[str], Path]:
    """``weights("yunet")`` -> the verified file; the test is skipped where it cannot be had."""
    from mcap.errors import McapError
    from mcap.weights.catalogue import WEIGHTS
    from mcap.weights.fetch import fetch

    failed: dict[str, str] = {}  # no second wait for a source that cannot be reached

    def get(name: str) -> Path:
        if name not in failed:
            beside = SHARED_MODELS / WEIGHTS[name].file
            if beside.is_file() and sha256(beside.read_bytes()).hexdigest() == WEIGHTS[name].sha256:
                return beside
            try:
                return fetch(name)
            except McapError as error:
                failed[name] = str(error)
        pytest.skip(f"weight '{name}' is not here: {failed[name]}")

    return get
