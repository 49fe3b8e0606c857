"""The tiny autoencoder that a run decodes with."""

from __future__ import annotations

import pytest

from mcap.errors import MissingResourceError
from mcap.training import tiny_autoencoder as module
from mcap.training.tiny_autoencoder import load_tiny_autoencoder, tiny_autoencoder
from tests.support.tiny import tiny_backbone
from tests.support.tiny_run import tiny_recipe


@pytest.fixture
def here(monkeypatch):
    """Names of weights that are on this machine."""
    names: set[str] = set()
    monkeypatch.setattr(module, "local_path", lambda name: name if name in names else None)
    return names


@pytest.mark.parametrize(("kind", "name"), [("sd", "taesd"), ("sdxl", "taesdxl"), (None, None)])
def test_one_that_is_asked_for_is_the_architectures(here, kind, name):
    assert tiny_autoencoder(tiny_recipe(identity_decode="tiny"), kind) == name


def test_auto_takes_one_that_is_here_and_fetches_none(here):
    assert tiny_autoencoder(tiny_recipe(), "sd") is None
    here.add("taesd")
    assert tiny_autoencoder(tiny_recipe(), "sd") == "taesd"
    assert tiny_autoencoder(tiny_recipe(), "sdxl") is None


@pytest.mark.parametrize("keys", [{"identity": False}, {"phase2_steps": 0}])
def test_without_an_identity_term_there_is_nothing_to_decode(here, keys):
    here.add("taesd")
    assert tiny_autoencoder(tiny_recipe(identity_decode="tiny", **keys), "sd") is None


@pytest.mark.parametrize("decode", ["window", "full"])
def test_other_decodes_need_none(here, decode):
    here.add("taesd")
    assert tiny_autoencoder(tiny_recipe(identity_decode=decode), "sd") is None


def test_none_for_these_latents_is_said(here):
    backbone = tiny_backbone()
    assert load_tiny_autoencoder(tiny_recipe(), None, backbone) is None
    with pytest.raises(MissingResourceError, match="identity_decode=window or full"):
        load_tiny_autoencoder(tiny_recipe(identity_decode="tiny"), None, backbone)
