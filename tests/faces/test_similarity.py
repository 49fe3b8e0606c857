"""Likeness with the real networks on pictures of people who do not exist."""

from __future__ import annotations

import numpy as np
import pytest

from mcap.faces.similarity import likeness, ranked
from mcap.images.photo import read_photo
from mcap.registry import registry
from tests.support import ROOT

SELFIES = sorted((ROOT / "examples" / "selfies").glob("*.jpg"))
STRANGERS = sorted((ROOT / "profiles" / "refs" / "passport").glob("*.jpg"))


@pytest.fixture(scope="module")
def networks(weights):
    weights("yunet")
    weights("sface")
    return registry().create("detector", "yunet"), registry().create("identity", "sface")


@pytest.fixture(scope="module")
def person(networks):
    """The embedding of the person in the first selfie."""
    import torch

    from mcap.geometry.align import embed_faces

    detector, identity = networks
    image = read_photo(SELFIES[0]).image
    landmarks = torch.tensor(detector.detect(image)[0].landmarks)[None]
    pixels = torch.tensor(image).permute(2, 0, 1)[None].float() / 255
    return embed_faces(identity, pixels, landmarks)[0].numpy()


def test_the_person_ranks_before_strangers_and_no_face_comes_last(networks, person):
    detector, identity = networks
    images = {
        "nobody": np.full((200, 200, 3), 128, np.uint8),
        "stranger": read_photo(STRANGERS[0]).image,
        "the person": read_photo(SELFIES[2]).image,
        "the very photo": read_photo(SELFIES[0]).image,
    }
    found = {name: likeness(image, detector, identity, person) for name, image in images.items()}
    order = ranked(images, lambda name: found[name].similarity)
    assert order == ["the very photo", "the person", "stranger", "nobody"]
    assert found["the very photo"].similarity == pytest.approx(1.0, abs=1e-4)
    # Not "and the stranger below it": now and then a stranger's similarity passes the threshold.
    assert found["the person"].similarity > identity.info.same_person
    assert found["the person"].similarity > found["stranger"].similarity + 0.2
    assert found["nobody"].face is None


def test_an_embedding_of_another_network_is_an_error(networks):
    detector, identity = networks
    image = read_photo(SELFIES[0]).image
    with pytest.raises(ValueError, match="not of the same network"):
        likeness(image, detector, identity, np.ones(7, np.float32))


def test_ranking_puts_none_last_and_keeps_the_order_of_equals():
    items = [("a", 0.1), ("b", None), ("c", 0.9), ("d", 0.1), ("e", -0.5)]
    assert [name for name, _ in ranked(items, lambda item: item[1])] == ["c", "a", "d", "e", "b"]
