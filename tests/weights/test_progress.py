"""What the user is told."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

import pytest

from mcap.errors import MissingResourceError
from mcap.weights import catalogue, progress
from mcap.weights.catalogue import HttpsSource
from mcap.weights.fetch import fetch


def test_a_licence_that_forbids_commerce_is_told_once_and_first(server, known, monkeypatch):
    path = known(HttpsSource(f"{server.url}/weight.bin"))
    free = catalogue.WEIGHTS["probe"]
    assert free.commercial
    bound = replace(free, name="bound", licence="CC-BY-NC-4.0", commercial=False)
    on_hub = replace(bound, name="on hub", sources=(catalogue.HubFolder("a/b", "main", ()),))
    monkeypatch.setattr(catalogue, "WEIGHTS", MappingProxyType({"probe": free, "bound": bound}))
    told = []
    progress.set_notice(lambda text: told.append((text, path.parent.parent.exists())))
    try:
        fetch("bound")
        fetch("bound")
        assert len(told) == 1 and "'bound'" in told[0][0] and "CC-BY-NC-4.0" in told[0][0]
        assert not told[0][1]  # before anything was fetched
        fetch("probe")
        assert len(told) == 1
        with pytest.raises(MissingResourceError):
            fetch(on_hub, offline=True)
        assert "'on hub'" in told[1][0]
    finally:
        progress.set_notice(None)
    with pytest.warns(UserWarning, match=r"CC-BY-NC-4\.0"):  # to programs that show nothing
        fetch("bound")
