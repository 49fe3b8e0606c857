"""The tools that make a face restorer for the demo, on made pictures and random weights."""

from __future__ import annotations

import sys
from argparse import Namespace

import numpy as np
import pytest
import torch

from mcap.contracts import Face, Restorer
from mcap.enhancement.face_restoration import FFHQ_512
from mcap.faces.masks import LandmarkMasker
from tests.support.tools import tool_modules
from tests.tools.test_demo_sr import POINTS, Eyes, Recogniser, pairs  # noqa: F401

NAMES = ("aligned", "export_face", "face_network", "face_restorer", "judges", "train_face")


@pytest.fixture(scope="module")
def tools():
    with tool_modules(("demo_face", "demo_sr", "demo_backbone"), NAMES) as modules:
        yield modules


@pytest.fixture
def restorer(tools):
    torch.manual_seed(0)
    network = tools.face_network.FaceNetwork()
    torch.nn.init.normal_(network.leave.weight, std=0.05)
    return tools.face_restorer.DemoFaceRestorer(network)


def face(count: int = 1) -> torch.Tensor:
    return torch.rand(count, 3, 512, 512, generator=torch.Generator().manual_seed(0))


def test_a_network_that_has_learned_nothing_changes_nothing(tools):
    image = face()
    network = tools.face_network.FaceNetwork()
    made = tools.face_restorer.DemoFaceRestorer(network)
    assert isinstance(made, Restorer)
    assert torch.equal(made.restore(image), image)


def test_only_the_window_changes_and_runs_out_at_its_edge(tools, restorer):
    image = face() * 0.5 + 0.25
    made = restorer.restore(image)
    x0, y0, x1, y1 = tools.face_restorer.WINDOW
    changed = (made != image).any(1)[0]
    assert changed[y0:y1, x0:x1].float().mean() > 0.99
    changed[y0:y1, x0:x1] = False
    assert not changed.any()
    size, rim = (made - image).abs().mean(1)[0], tools.face_restorer.RIM
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


def test_the_mask_of_a_face_ends_within_the_window(tools):
    whole = Face((140.0, 110.0, 370.0, 470.0), 1.0, FFHQ_512.template.astype(np.float32))
    mask = LandmarkMasker().mask(np.zeros((512, 512, 3), np.uint8), whole)
    rows, columns = np.nonzero(mask > 0.02)
    x0, y0, x1, y1 = tools.face_restorer.WINDOW
    assert x0 <= columns.min() < columns.max() < x1
    assert y0 <= rows.min() < rows.max() < y1


def test_places_of_a_part_are_those_of_the_whole(tools):
    places = tools.face_network.places
    whole = places(0, 0, 512, 512, 512)
    assert whole[0, 0, 0, 0] == pytest.approx(-1 + 4 / 512)
    assert torch.equal(places(96, 104, 320, 384, 512), whole[..., 26:122, 24:104])


def test_given_and_wanted_faces_lie_in_one_place(tools, pairs):  # noqa: F811
    faces = tools.aligned.AlignedFaces(pairs)
    for name in ("half", "full"):
        row = int(faces.pictures.train[name][0])
        pair = faces.pair(name, row, np.asarray(faces.pictures.seen[name][0, row]))
        assert pair.given.shape == pair.wanted.shape == (384, 320, 3)
        # The same blocks of one colour, enlarged by 2 or 4: alike but for their edges.
        assert np.abs(pair.given - pair.wanted).mean() < 0.06
        np.testing.assert_allclose(pair.points + np.array([96, 104]), POINTS, atol=2)
    drawn = faces.draw(np.random.default_rng(3))
    assert drawn.given.min() >= 0 and drawn.given.max() <= 1


def test_a_training_that_was_cut_goes_on_and_its_file_is_read(
    tools,
    pairs,  # noqa: F811
    tmp_path,
    monkeypatch,
    capsys,
):
    module = tools.train_face
    monkeypatch.setattr(tools.judges, "Features", Eyes)
    monkeypatch.setattr(module, "FaceFeatures", Recogniser)
    options = Namespace(
        pairs=pairs, sface="", start=None, out=tmp_path, steps=3, batch=1, alone=1, muon_lr=0.01,
        lr=1e-3, critic_lr=1e-3, flat=0.5, coarse=1.0, fine=0.3, features=0.1, contrast=0.5,
        adversarial=0.01, identity=0.1, seen_by_face=0.02,
    )  # fmt: skip
    torch.manual_seed(0)
    whole = module.Training(options)
    terms = whole.step()
    assert all(np.isfinite(value) for value in terms.values())
    whole.keep()
    whole.step()
    torch.manual_seed(0)
    cut = module.Training(options)
    cut.resume()
    assert cut.at == 1
    cut.step()
    for name, value in whole.network.state_dict().items():
        assert torch.equal(cut.network.state_dict()[name], value), name
    to = tmp_path / "model.safetensors"
    monkeypatch.setattr(sys, "argv", ["export_face.py", "--out", str(tmp_path), "--to", str(to)])
    tools.export_face.main()
    assert "after 1 steps" in capsys.readouterr().out
    assert to.stat().st_size < tools.export_face.LARGEST
