"""Real backbones' pictures are looked at by a classifier: in these tests by a tiny one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mcap.registry import registry
from tests.support.safety import write_classifier


@pytest.fixture(scope="session")
def tiny_classifier(tmp_path_factory):
    """The folder of a network of the published form that lets every picture pass."""
    return write_classifier(tmp_path_factory.mktemp("nsfw"))


@pytest.fixture(autouse=True)
def tiny_safety(request, monkeypatch):
    """The classifier ``nsfw`` with that network, so that no test fetches the published one."""
    entries = registry().entries["safety"]

    def load():
        from mcap_plugins.stable_diffusion.nudity import NudityClassifier

        return NudityClassifier(request.getfixturevalue("tiny_classifier"))

    monkeypatch.setitem(entries, "nsfw", replace(entries["nsfw"], factory=load, needs=()))
