"""The tools that make demo-face, on made pictures and random weights."""

from __future__ import annotations

import json
import sys
from argparse import Namespace

import numpy as np
import pytest
import torch

from mcap.enhancement.face_restoration import FFHQ_512
from mcap_plugins.demo_face import FFHQ_SIDE
from tests.support.tools import tool_modules
from tests.tools.test_demo_sr import Eyes, Recogniser

NAMES = ("aligned", "export_face", "judges", "redraw", "train_face")


@pytest.fixture(scope="module")
def tools():
    with tool_modules(("demo_face", "demo_sr", "demo_backbone"), NAMES) as modules:
        yield modules


@pytest.fixture
def redrawn(tools, tmp_path):
    """Three people, the first held out, of the last of whom there is no pair yet."""
    folder, aligned = tmp_path / "pairs", tools.aligned
    folder.mkdir()
    side = FFHQ_SIDE + 2 * aligned.MARGIN
    wanted = np.random.default_rng(0).integers(30, 220, (3, side, side, 3), np.uint8)
    wanted[..., 0] = np.arange(wanted.shape[2]) // 2 + 40
    given = wanted.copy()
    given[2] = 0
    template = FFHQ_512.template * (FFHQ_SIDE / 512) + aligned.MARGIN
    np.save(folder / "given.npy", given)
    np.save(folder / "wanted.npy", wanted)
    np.save(folder / "points.npy", np.float32([template] * 3))
    (folder / "table.json").write_text(json.dumps([0, 16, 32]))
    return folder


def test_given_and_wanted_faces_lie_in_one_place(tools, redrawn):
    faces = tools.aligned.AlignedFaces(redrawn)
    assert list(faces.held_out) == [0] and list(faces.train) == [1]
    plain = faces.pair(1)
    assert plain.given.shape == plain.wanted.shape == (FFHQ_SIDE, FFHQ_SIDE, 3)
    template = FFHQ_512.template * (FFHQ_SIDE / 512)
    np.testing.assert_allclose(plain.points, template, atol=1e-3)
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


@pytest.fixture
def head():
    """A person, dark with stripes, before green, and the matte: a disc with a soft edge."""
    y, x = np.mgrid[:256, :256].astype(np.float32)
    matte = np.clip((80 - np.hypot(x - 128, y - 128)) / 4 + 0.5, 0, 1)
    stripes = (0.25 + 0.1 * (x % 8 < 4))[..., None].repeat(3, 2).astype(np.float32)
    green = np.float32([0.1, 0.8, 0.1])
    return stripes * matte[..., None] + green * (1 - matte[..., None]), matte


def test_a_person_before_a_plain_colour_has_next_to_nothing_of_what_stood_behind(tools, head):
    picture, matte = head
    cut = tools.redraw.Cutout(tools.redraw.filled(picture, matte), matte)
    colour = np.float32([0.95, 0.9, 1.0])
    made = cut.before(colour)
    np.testing.assert_allclose(made[matte == 0], np.tile(colour, ((matte == 0).sum(), 1)))
    np.testing.assert_allclose(made[matte == 1], picture[matte == 1], atol=1e-6)
    edge = (matte > 0) & (matte < 1)
    # As much of the background's colour as the matte says; the rest is grey as the person is.
    rest = made[edge] - colour * (1 - matte[edge])[:, None]
    green = picture[edge] * matte[edge][:, None]
    tint, plain = (np.abs(i - i.mean(1, keepdims=True)).max() for i in (rest, green))
    assert tint < 0.05 < 0.1 < plain


def test_a_ragged_outline_changes_the_outline_alone(tools, head):
    picture, matte = head
    cut = tools.redraw.Cutout(tools.redraw.filled(picture, matte), matte)
    ragged = cut.ragged(np.random.default_rng(0))
    apart = np.abs(ragged.before(np.ones(3)) - cut.before(np.ones(3))).max(-1)
    y, x = np.mgrid[:256, :256]
    off = np.abs(np.hypot(x - 128, y - 128) - 80)
    assert apart[off < 6].mean() > 0.03
    assert apart[off > 40].max() < 1e-3


def test_what_is_wanted_takes_colours_from_its_own_side_of_the_outline(tools, head):
    """A given person who is redder, before a background as it was: that stays without red."""
    picture, matte = head
    cut = tools.redraw.Cutout(tools.redraw.filled(picture, matte), matte)
    wanted = cut.before(np.full(3, 0.9, np.float32))
    given = wanted + matte[..., None] * np.float32([0.2, 0, 0])
    bent = tools.redraw.bend(wanted, given, matte)
    assert np.abs(bent[matte == 1] - given[matte == 1]).mean() < 0.01
    assert np.abs(bent[matte == 0] - wanted[matte == 0]).mean() < 0.003
    plain = tools.redraw.bend(wanted, given)
    near = (matte == 0) & (np.hypot(*(np.mgrid[:256, :256] - 128)) < 100)
    assert np.abs(bent[near] - 0.9).mean() < np.abs(plain[near] - 0.9).mean() / 3


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
