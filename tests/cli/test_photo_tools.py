"""Which registered entries look at photos: the second opinion on faces, and maskers of things."""

from __future__ import annotations

import pytest

from mcap.cli.photo_tools import (
    SECOND_OPINION,
    make_photo_tools,
    photo_entries,
    refuse_face_options,
)
from mcap.cli.settings import load_settings
from mcap.contracts import FaceTools, IdentityInfo, ObjectTools
from mcap.errors import UsageError
from mcap.registry import Entry, registry
from tests.support.masked_photos import OneFace
from tests.support.tiny import TinyIdentity


class Judging(TinyIdentity):
    info = IdentityInfo(embeds_images=True, measures_quality=True, face_quality=3.0)

    def embed_images(self, image, face):
        raise AssertionError("not called here")

    embed_with_quality = embed_images


@pytest.fixture
def networks(monkeypatch):
    """Two networks of a stranger's plugin: one that tells what a face is, one that does not."""
    for name, factory in (("a-judge", Judging), ("plain", TinyIdentity)):
        entry = Entry("identity", name, factory, "stranger", info=factory.info)
        monkeypatch.setitem(registry().entries["identity"], name, entry)


@pytest.fixture
def detector(monkeypatch) -> Entry:
    entry = Entry("detector", "one-face", OneFace, "stranger", info=OneFace.info)
    monkeypatch.setitem(registry().entries["detector"], "one-face", entry)
    return entry


def test_a_network_that_states_its_own_scale_is_its_own_second_opinion(networks):
    for name in ("sface", "a-judge"):
        assert SECOND_OPINION not in photo_entries(load_settings(identity=name), None)


@pytest.mark.parametrize("name", ["plain", "dlib", "insightface"])
def test_beside_one_that_does_not_mcaps_own_network_tells(networks, name):
    entries = photo_entries(load_settings(identity=name), None)
    assert entries["identity"].name == name and entries[SECOND_OPINION].name == "sface"


def test_where_mcaps_own_is_not_there_another_that_tells_is_asked(networks, detector, monkeypatch):
    monkeypatch.delitem(registry().entries["identity"], "sface")
    entries = photo_entries(load_settings(identity="plain"), None)
    assert entries[SECOND_OPINION].name == "a-judge"
    tools = make_photo_tools({**entries, "detector": detector})
    assert isinstance(tools, FaceTools)
    assert (
        isinstance(tools.second_opinion, Judging) and tools.quality_network.info.face_quality == 3.0
    )
    monkeypatch.delitem(registry().entries["identity"], "a-judge")
    assert SECOND_OPINION not in photo_entries(load_settings(identity="plain"), None)


def test_whoever_takes_the_detectors_word_alone_loads_no_second_network(networks, monkeypatch):
    monkeypatch.setenv("MCAP_FACES__MIN_QUALITY", "0")
    assert SECOND_OPINION not in photo_entries(load_settings(identity="plain"), None)


def test_of_a_thing_there_is_no_identity_network_and_a_masker_that_finds_things(networks, detector):
    settings = load_settings(subject_kind="object")
    entries = photo_entries(settings, None)
    assert sorted(entries) == ["detector", "masker"] and entries["masker"].info.finds_objects
    tools = make_photo_tools({**entries, "detector": detector})
    assert isinstance(tools, ObjectTools) and tools.masker is not None
    with pytest.raises(UsageError, match="finds no things; those that do: foreground"):
        photo_entries(load_settings(subject_kind="object", masker="landmarks"), "landmarks")


def test_options_of_faces_are_refused_of_things_alone():
    refuse_face_options(load_settings(), subject="me.jpg", identity="sface")
    a_thing = load_settings(subject_kind="object")
    refuse_face_options(a_thing, subject=None, identity=None)
    with pytest.raises(UsageError, match=r"--subject me.jpg: .* \(--subject-kind object\)"):
        refuse_face_options(a_thing, subject="me.jpg", identity=None)
