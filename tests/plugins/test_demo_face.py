"""The restorer demo-face: its window, its frame, and what its weights make of soft faces."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from mcap.contracts import Face, Restorer
from mcap.enhancement.face_restoration import FFHQ_512, warp
from mcap.faces.masks import LandmarkMasker
from mcap.faces.measure import embed
from mcap.geometry.similarity_transform import Similarity
from mcap.images.photo import read_photo
from mcap.registry import registry
from mcap.weights.locate import local_path
from mcap.weights.verify import verify_weight
from mcap_plugins.demo_face.network import FaceNetwork, places
from mcap_plugins.demo_face.restorer import RIM, SIDE, WINDOW, DemoFaceRestorer
from tests.support import ROOT


@pytest.fixture
def restorer():
    torch.manual_seed(0)
    network = FaceNetwork()
    torch.nn.init.normal_(network.leave.weight, std=0.05)
    return DemoFaceRestorer(network)


def face(count: int = 1) -> torch.Tensor:
    return torch.rand(count, 3, 384, 384, generator=torch.Generator().manual_seed(0))


def test_a_network_that_has_learned_nothing_changes_nothing():
    image = face()
    network = FaceNetwork()
    made = DemoFaceRestorer(network)
    assert isinstance(made, Restorer)
    assert torch.equal(made.restore(image), image)


def test_only_the_window_changes_and_runs_out_at_its_edge(restorer):
    image = face() * 0.5 + 0.25
    made = restorer.restore(image)
    x0, y0, x1, y1 = WINDOW
    changed = (made != image).any(1)[0]
    assert changed[y0:y1, x0:x1].float().mean() > 0.99
    changed[y0:y1, x0:x1] = False
    assert not changed.any()
    size, rim = (made - image).abs().mean(1)[0], RIM
    inside = size[y0 + rim : y1 - rim, x0 + rim : x1 - rim].mean()
    assert size[y0, x0:x1].mean() < 2 / rim * inside


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


def test_the_mask_of_a_face_ends_within_the_window():
    side = SIDE
    template, box = (
        np.float32(value) * (side / 512) for value in (FFHQ_512.template, (140, 110, 370, 470))
    )
    whole = Face(tuple(map(float, box)), 1.0, template)
    mask = LandmarkMasker().mask(np.zeros((side, side, 3), np.uint8), whole)
    rows, columns = np.nonzero(mask > 0.02)
    x0, y0, x1, y1 = WINDOW
    assert x0 <= columns.min() < columns.max() < x1
    assert y0 <= rows.min() < rows.max() < y1


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
    """Of a portrait that nobody trained with, as soft as the demo backbone draws."""
    image = read_photo(ROOT / "profiles/refs/passport/01.jpg").image
    found = max(registry().create("detector", "yunet").detect(image), key=lambda face: face.area)
    to_frame = Similarity.estimate(found.landmarks, FFHQ_512.template * (SIDE / 512))
    sharp = warp(image, to_frame, SIDE, cv2.BORDER_REFLECT_101)
    soft = cv2.GaussianBlur(sharp, (0, 0), 4)
    network = registry().create("restorer", "demo-face")
    made = network.restore(torch.from_numpy(soft).permute(2, 0, 1)[None])[0]
    made = made.permute(1, 2, 0).numpy()

    x0, y0, x1, y1 = WINDOW

    def edges(picture: np.ndarray) -> float:
        grey = picture[y0 + RIM : y1 - RIM, x0 + RIM : x1 - RIM].mean(2)
        return float(np.hypot(*np.gradient(grey)).mean())

    assert edges(made) > 1.15 * edges(soft)
    assert abs(made.mean() - soft.mean()) < 0.01
    sface = registry().create("identity", "sface")
    points = to_frame.apply(found.landmarks).astype(np.float32)
    face = Face((78.0, 80.0, 305.0, 361.0), 1.0, points)
    original, before, after = (
        embed(sface, (picture.clip(0, 1) * 255).round().astype(np.uint8), face)
        for picture in (sharp, soft, made)
    )
    assert after @ original > before @ original - 0.03
