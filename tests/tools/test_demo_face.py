"""The tools that make a face restorer for the demo, on made pictures and random weights."""

from __future__ import annotations

import json
import sys
from argparse import Namespace

import numpy as np
import pytest
import torch

from mcap.contracts import Face, Restorer
from mcap.enhancement.face_restoration import FFHQ_512
from mcap.faces.masks import LandmarkMasker
from tests.support.tools import tool_modules
from tests.tools.test_demo_sr import Eyes, Recogniser

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
    return torch.rand(count, 3, 384, 384, generator=torch.Generator().manual_seed(0))


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
    side = tools.face_restorer.SIDE
    template, box = (
        np.float32(value) * (side / 512) for value in (FFHQ_512.template, (140, 110, 370, 470))
    )
    whole = Face(tuple(map(float, box)), 1.0, template)
    mask = LandmarkMasker().mask(np.zeros((side, side, 3), np.uint8), whole)
    rows, columns = np.nonzero(mask > 0.02)
    x0, y0, x1, y1 = tools.face_restorer.WINDOW
    assert x0 <= columns.min() < columns.max() < x1
    assert y0 <= rows.min() < rows.max() < y1


def test_places_of_a_part_are_those_of_the_whole(tools):
    places = tools.face_network.places
    whole = places(0, 0, 512, 512, 512)
    assert whole[0, 0, 0, 0] == pytest.approx(-1 + 4 / 512)
    assert torch.equal(places(96, 104, 320, 384, 512), whole[..., 26:122, 24:104])


@pytest.fixture
def redrawn(tools, tmp_path):
    """Three people, the first held out, of the last of whom there is no pair yet."""
    folder, aligned = tmp_path / "pairs", tools.aligned
    folder.mkdir()
    (x0, y0, x1, y1), margin = tools.face_restorer.WINDOW, aligned.MARGIN
    wanted = np.random.default_rng(0).integers(
        30, 220, (3, y1 - y0 + 2 * margin, x1 - x0 + 2 * margin, 3), np.uint8
    )
    wanted[..., 0] = np.arange(wanted.shape[2]) // 2 + 40
    given = wanted.copy()
    given[2] = 0
    template = FFHQ_512.template * (tools.face_restorer.SIDE / 512) - [x0 - margin, y0 - margin]
    np.save(folder / "given.npy", given)
    np.save(folder / "wanted.npy", wanted)
    np.save(folder / "points.npy", np.float32([template] * 3))
    (folder / "table.json").write_text(json.dumps([0, 16, 32]))
    return folder


def test_given_and_wanted_faces_lie_in_one_place(tools, redrawn):
    faces = tools.aligned.AlignedFaces(redrawn)
    assert list(faces.held_out) == [0] and list(faces.train) == [1]
    plain = faces.pair(1)
    x0, y0, x1, y1 = tools.face_restorer.WINDOW
    assert plain.given.shape == plain.wanted.shape == (y1 - y0, x1 - x0, 3)
    template = FFHQ_512.template * (tools.face_restorer.SIDE / 512)
    np.testing.assert_allclose(plain.points + np.array([x0, y0]), template, atol=1e-3)
    ways = set()
    for seed in range(12):
        moved = faces.pair(1, np.random.default_rng(seed))
        assert np.array_equal(moved.given, moved.wanted)
        # Red says where a column of the array lies: landmarks move and turn with the picture.
        red = moved.wanted[100, :, 0] * 255
        for point, own in zip(moved.points[[2]], plain.points[[2]], strict=True):
            column = np.interp(point[0], np.arange(len(red)), red)
            own_red = np.interp(own[0], np.arange(len(red)), plain.wanted[100, :, 0] * 255)
            assert abs(column - own_red) <= 1
        ways.add(bool(red[0] < red[-1]))
    assert ways == {True, False}
    drawn = faces.draw(np.random.default_rng(3))
    assert drawn.given.min() >= 0 and drawn.given.max() <= 1


def test_pairs_of_another_frame_are_refused(tools, redrawn):
    for name in ("given", "wanted"):
        np.save(redrawn / f"{name}.npy", np.ones((3, 64, 64, 3), np.uint8))
    with pytest.raises(SystemExit, match="another frame"):
        tools.aligned.AlignedFaces(redrawn)


def test_a_training_that_was_cut_goes_on_and_its_file_is_read(
    tools, redrawn, tmp_path, monkeypatch, capsys
):
    module = tools.train_face
    monkeypatch.setattr(tools.judges, "Features", Eyes)
    monkeypatch.setattr(module, "FaceFeatures", Recogniser)
    options = Namespace(
        pairs=redrawn, sface="", start=None, out=tmp_path, steps=3, batch=1, alone=1, muon_lr=0.01,
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
