"""A subject of the tiny model and its backbone."""

from __future__ import annotations

import pytest

from tests.support.subjects import make_subject
from tests.support.tiny import tiny_backbone


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    return make_subject(tmp_path_factory.mktemp("subject") / "jane.mcap")


@pytest.fixture
def backbone():
    return tiny_backbone()
