"""Weights by name, and the command."""

from __future__ import annotations

import json

import pytest

from mcap import cli
from mcap.errors import UsageError
from mcap.weights import catalogue
from mcap.weights.catalogue import HttpsSource
from mcap.weights.fetch import fetch
from tests.support.weight_servers import (
    DATA,
)


def test_an_unknown_name_lists_the_names():
    with pytest.raises(UsageError, match="yunet"):
        fetch("yunnet")


def test_the_default_detector_can_be_had(weights_cached):
    assert weights_cached("yunet").stat().st_size == catalogue.WEIGHTS["yunet"].bytes


def test_the_command_lists_pulls_verifies_and_says_where(server, known, capsys):
    path = known(HttpsSource(f"{server.url}/weight.bin"))

    def run(*args):
        code = cli.run(["--json", "models", *args])
        return code, json.loads(capsys.readouterr().out)

    code, result = run("list")
    assert (code, result["weights"][0]["here"]) == (0, False)
    assert result["weights"][0]["licence"] == "MIT"
    assert run("path", "probe")[0] == 4
    assert run("pull", "probe") == (0, {"weights": [{"name": "probe", "path": str(path)}]})
    assert run("path", "probe") == (0, {"name": "probe", "path": str(path)})
    assert run("verify", "probe")[0] == 0
    path.write_bytes(b"tampered")
    code, result = run("verify")
    assert code == 1
    assert "sha256" in result["weights"][0]["problem"]
    assert run("pull", "probe")[0] == 0
    assert path.read_bytes() == DATA
    assert run("pull", "nosuch")[0] == 2
