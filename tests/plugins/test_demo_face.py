"""The restorer demo-face: its frame, and what its weights make of soft faces."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from mcap.contracts import Face, Restorer
from mcap.enhancement.face_restoration import FFHQ_512, warp
from mcap.faces.measure import embed
from mcap.geometry.similarity_transform import Similarity
from mcap.images.photo import read_photo
from mcap.registry import registry
from mcap.weights.locate import local_path
from mcap.weights.verify import verify_weight
from mcap_plugins.demo_face import FFHQ_SIDE, INFO, LEFT, TOP
from mcap_plugins.demo_face.network import MULTIPLE, FaceNetwork, places
from mcap_plugins.demo_face.restorer import DemoFaceRestorer
from tests.support import ROOT

SIDE = INFO.input_size


@pytest.fixture
def restorer():
    torch.manual_seed(0)
    network = FaceNetwork()
    torch.nn.init.normal_(network.leave.weight, std=0.05)
    return DemoFaceRestorer(network)


def face(count: int = 1) -> torch.Tensor:
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def test_a_network_that_has_learned_nothing_changes_nothing():
    image = face()
    network = FaceNetwork()
    made = DemoFaceRestorer(network)
    assert isinstance(made, Restorer)
    assert torch.equal(made.restore(image), image)


def test_the_whole_frame_changes(restorer):
    image = face() * 0.5 + 0.25
    changed = (restorer.restore(image) != image).any(1)[0]
    assert changed.float().mean() > 0.99
    assert not restorer.info.masked


def test_the_same_face_gives_the_same_picture_beside_others_and_by_any_threads(restorer):
    images, before = face(2), torch.get_num_threads()
    together = restorer.restore(images)
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            alone = restorer.restore(images[1:])
            torch.testing.assert_close(alone, together[1:], atol=1e-6, rtol=0)
    finally:
        torch.set_num_threads(before)


def test_the_template_is_ffhq_s_in_a_larger_frame():
    expected = FFHQ_512.template * (FFHQ_SIDE / 512) + [LEFT, TOP]
    np.testing.assert_allclose(INFO.template, expected)
    assert SIDE % MULTIPLE == 0
    assert min(LEFT, TOP, SIDE - FFHQ_SIDE - LEFT, SIDE - FFHQ_SIDE - TOP) > 0


def test_places_of_a_part_are_those_of_the_whole():
    whole = places(0, 0, 512, 512, 512)
    assert whole[0, 0, 0, 0] == pytest.approx(-1 + 4 / 512)
    assert torch.equal(places(96, 104, 320, 384, 512), whole[..., 26:122, 24:104])


needs_weights = pytest.mark.skipif(
    local_path("demo-face") is None, reason="demo-face's weights are not in this copy"
)


@needs_weights
def test_the_weights_come_with_the_package(monkeypatch, tmp_path):
    monkeypatch.setenv("MCAP_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("MCAP_OFFLINE", "1")
    restorer = registry().create("restorer", "demo-face")
    assert verify_weight("demo-face").ok
    assert local_path("demo-face").stat().st_size < 6_000_000
    assert registry().get("restorer", "demo-face").info.drawn_by == restorer.info.drawn_by


@needs_weights
def test_a_soft_face_becomes_sharper_and_stays_the_same_person():
    """Of a portrait that nobody trained with, as soft as the demo backbone draws. It is a blurred
    photograph, whose own detail is worth more than likely detail: a little is lost."""
    image = read_photo(ROOT / "profiles/refs/passport/01.jpg").image
    found = max(registry().create("detector", "yunet").detect(image), key=lambda face: face.area)
    to_frame = Similarity.estimate(found.landmarks, np.array(INFO.template))
    sharp = warp(image, to_frame, SIDE, cv2.BORDER_REFLECT_101)
    soft = cv2.GaussianBlur(sharp, (0, 0), 4)
    network = registry().create("restorer", "demo-face")
    made = network.restore(torch.from_numpy(soft).permute(2, 0, 1)[None])[0]
    made = made.permute(1, 2, 0).numpy()

    def edges(picture: np.ndarray) -> float:
        return float(np.hypot(*np.gradient(picture.mean(2))).mean())

    assert edges(made) > 1.15 * edges(soft)
    assert abs(made.mean() - soft.mean()) < 0.01
    sface = registry().create("identity", "sface")
    points = to_frame.apply(found.landmarks).astype(np.float32)
    face = Face((110.0, 88.0, 337.0, 369.0), 1.0, points)
    original, before, after = (
        embed(sface, (picture.clip(0, 1) * 255).round().astype(np.uint8), face)
        for picture in (sharp, soft, made)
    )
    assert after @ original > before @ original - 0.06
