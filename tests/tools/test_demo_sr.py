"""The tools that make demo-sr, on made pictures and networks that stand in for others."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests.support import ROOT
from tests.support.tools import tool_modules

MODEL = ROOT / "plugins/mcap_plugins/demo/model"
NAMES = ("draw_large", "judges", "network", "pairs", "prepare_pairs", "read_ncnn", "refit", "seen",
         "sharpen_sr")  # fmt: skip
POINTS = np.array([[193.0, 240], [319, 240], [257, 314], [201, 371], [313, 371]])


@pytest.fixture(scope="module")
def tools():
    with tool_modules(("demo_sr", "demo_backbone"), NAMES) as modules:
        yield modules


class Eyes(nn.Module):
    """Stands in for the image network: maps of its sizes, by fixed random kernels."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            sizes = ((3, 16), (16, 24), (24, 40), (40, 112))
            self.layers = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in sizes)
        self.requires_grad_(False)

    def maps(self, x):
        found = []
        for layer in self.layers:
            x = torch.relu(layer(x))
            found.append(x)
        return found


class Recogniser:
    """Stands in for SFace."""

    def __init__(self, path):
        pass

    def distances(self, made, wanted, points):
        apart = (made - wanted).abs().mean()
        return apart, apart


@pytest.fixture
def strangers(tools, monkeypatch):
    """The networks that come in packages of their own are stood in for."""
    monkeypatch.setattr(tools.judges, "Features", Eyes)
    monkeypatch.setattr(tools.sharpen_sr, "FaceFeatures", Recogniser)


@pytest.fixture
def pairs(tmp_path) -> Path:
    """What prepare_pairs.py leaves, of six blobs at each size; the last was not seen yet."""
    folder, rng = tmp_path / "pairs", np.random.default_rng(0)
    folder.mkdir()
    table = {}
    for name, side, first in (("half", 512, 16), ("full", 1024, 8)):
        numbers = [first + 16 * i for i in range(6)]
        small = rng.integers(0, 256, (6, 32, 32, 3), np.uint8)
        large = np.stack(
            [np.kron(i, np.ones((side // 32, side // 32, 1), np.uint8)) for i in small]
        )
        seen = np.stack([np.kron(i, np.ones((8, 8, 1), np.uint8)) for i in small])
        seen[5] = 0
        np.save(folder / f"{name}.npy", large)
        np.save(folder / f"seen_{name}.npy", np.stack([seen, seen // 2]))
        points = (POINTS * side / 512).tolist()
        table[name] = [{"number": number, "points": points} for number in numbers]
    (folder / "table.json").write_text(json.dumps(table))
    return folder


def test_pictures_that_were_not_seen_yet_are_not_trained_on(tools, pairs):
    pictures = tools.pairs.Pictures(pairs)
    # Number 80 of the halves and 40 of the others are held out, as every 20th is.
    assert pictures.train["half"].tolist() == [0, 1, 2, 3]
    assert pictures.held_out["half"].tolist() == [4]
    assert pictures.held_out["full"].tolist() == [2]
    rng = np.random.default_rng(0)
    given, wanted = tools.pairs.generated_pair(pictures, 32, rng)
    assert (given.shape, wanted.shape) == ((32, 32, 3), (128, 128, 3))


def test_only_who_is_among_the_faces_is_drawn_large(tools, tmp_path):
    (tmp_path / "256").mkdir()
    for number in (8, 16, 24, 40, 56, 120, 136):
        (tmp_path / "256" / f"{number:06d}.webp").touch()
    assert tools.draw_large.numbers(tmp_path, 2, 1) == [40, 8, 24]


def test_the_backbone_rebuilds_a_picture_and_redraws_it_close_by(tools):
    import cv2

    image = cv2.imread(str(ROOT / "profiles/refs/passport/01.jpg"))[..., ::-1]
    side = min(image.shape[:2])
    image = np.ascontiguousarray(image[:side, :side])
    image = cv2.resize(image, (256, 256), interpolation=cv2.INTER_AREA)
    backbone = tools.seen.Backbone(MODEL)
    rebuilt, redrawn = backbone.seen(image, np.random.default_rng(0)).astype(np.float32)
    again = backbone.seen(image, np.random.default_rng(0))[1]
    assert np.array_equal(again, redrawn)
    for made in (rebuilt, redrawn):
        assert 0 < np.abs(made - image).mean() < 16
    assert np.abs(redrawn - rebuilt).mean() > 0.5


def test_what_was_seen_is_not_looked_at_again(tools, tmp_path):
    class Counted:
        looked = 0

        def seen(self, picture, rng):
            self.looked += 1
            return np.full((2, 256, 256, 3), 7, np.uint8)

    pictures, backbone = np.zeros((3, 512, 512, 3), np.uint8), Counted()
    for expected in (3, 3):
        tools.prepare_pairs.look([backbone], pictures, [1, 2, 3], tmp_path / "seen.npy")
        assert backbone.looked == expected
    assert (np.load(tmp_path / "seen.npy") == 7).all()


def test_contrast_is_what_smoothing_takes_away(tools):
    torch.manual_seed(0)
    sharp = torch.rand(2, 3, 64, 64)
    soft, softer = (nn.functional.avg_pool2d(sharp, side, 1, side // 2) for side in (3, 7))
    distance = tools.judges.contrast_distance
    assert distance(sharp, sharp) == 0
    assert 0 < distance(soft, sharp) < distance(softer, sharp)


def test_critics_learn_to_tell_soft_pictures_from_sharp_ones(tools, strangers):
    torch.manual_seed(0)
    judges = tools.judges.Judges(2e-3)
    told = []
    for _ in range(25):
        sharp = torch.rand(4, 3, 32, 32)
        soft = nn.functional.avg_pool2d(sharp, 5, 1, 2).requires_grad_(True)
        terms = judges.terms(soft, sharp)
        told.append(terms["told"].item())
    assert told[-1] < 0.8 * told[0]
    with torch.no_grad():
        scores = [judges.scores(judges.features.maps(x), x) for x in (sharp, soft)]
    assert sum((a.mean() - b.mean()).item() for a, b in zip(*scores, strict=True)) > 0.4
    (gradient,) = torch.autograd.grad(terms["fooled"] + terms["features"], soft)
    assert gradient.abs().max() > 0
    assert not any(parameter.requires_grad for parameter in judges.features.parameters())


def sharpening(tools, pairs, out) -> Namespace:
    torch.manual_seed(0)
    weights = tools.network.build(8, 1).state_dict()
    save_file({k: v.contiguous() for k, v in weights.items()}, out / "start.safetensors")
    return Namespace(
        pairs=pairs, sface="", start=out / "start.safetensors", out=out, steps=4, batch=2, side=24,
        face_side=32, lr=1e-3, critic_lr=1e-3, flat=0.5, coarse=1.0, fine=0.3, features=0.1,
        contrast=0.5, adversarial=0.01, identity=0.1, generated=0.5, clean=0.5,
    )  # fmt: skip


def test_a_training_that_was_cut_goes_on_as_if_it_had_not_been(
    tools, strangers, pairs, tmp_path, monkeypatch
):
    monkeypatch.setattr(tools.sharpen_sr, "fine_power", lambda pictures: torch.ones(len(pictures)))
    options = sharpening(tools, pairs, tmp_path)
    torch.manual_seed(0)
    whole = tools.sharpen_sr.Training(options)
    begun = {k: v.clone() for k, v in whole.network.state_dict().items()}
    for _ in range(2):
        terms = whole.step()
    assert all(np.isfinite(value) for value in terms.values())
    whole.keep()
    whole.step()
    torch.manual_seed(0)
    cut = tools.sharpen_sr.Training(options)
    cut.resume()
    assert cut.at == 2
    cut.step()
    for name, value in whole.network.state_dict().items():
        assert torch.equal(cut.network.state_dict()[name], value), name
        assert torch.equal(cut.mean[name], whole.mean[name]), name
    moved = [n for n, v in whole.network.state_dict().items() if not torch.equal(v, begun[n])]
    assert len(moved) > 3


def test_carriers_are_known_by_their_weights(tools):
    network = tools.network.build(8, 1)
    assert tools.network.has_carriers(network)
    with torch.no_grad():
        network.body[0].weight[1, 1, 1, 1] = 0.9
    assert not tools.network.has_carriers(network)


def test_weights_are_read_from_ncnns_files(tools):
    rng = np.random.default_rng(0)
    kernel, bias, slopes = rng.normal(size=(3, 3, 3, 3)), rng.normal(size=3), rng.normal(size=3)
    half = kernel.astype("<f2").tobytes()
    half += b"\0" * (-len(half) % 4)
    data = np.uint32(tools.read_ncnn.HALF).tobytes() + half + bias.astype("<f4").tobytes()
    data += slopes.astype("<f4").tobytes()
    param = (
        "7767517\n3 3\nInput data 0 1 data\n"
        "Convolution a 1 1 data b 0=3 1=3 4=1 5=1 6=81\nPReLU c 1 1 b d 0=3\n"
    )
    weights = tools.read_ncnn.read(param, data)
    np.testing.assert_allclose(weights["body.0.weight"], kernel, atol=2e-3)
    np.testing.assert_allclose(weights["body.0.bias"], bias, atol=1e-6)
    np.testing.assert_allclose(weights["body.1.weight"], slopes, atol=1e-6)
    with pytest.raises(SystemExit, match="bytes"):
        tools.read_ncnn.read(param, data + b"1234")
    with pytest.raises(SystemExit, match="half"):
        tools.read_ncnn.read(param, b"\0" * len(data))


def test_a_pattern_of_the_networks_own_goes_and_what_it_draws_stays(tools):
    torch.manual_seed(0)
    rows, columns = torch.meshgrid(torch.arange(96.0), torch.arange(96.0), indexing="ij")
    drawn = (0.5 + 0.3 * torch.sin(rows / 7) * torch.cos(columns / 11)).expand(1, 3, 96, 96)
    pattern = torch.randn(1, 3, 4, 4).repeat(1, 1, 24, 24) * 0.02
    cleaned = tools.refit.without_pattern(drawn + pattern)
    inner = (..., slice(8, -8), slice(8, -8))
    left = (cleaned - drawn - pattern.mean((2, 3), keepdim=True))[inner].std()
    assert left < 0.15 * pattern.std()

    network = tools.network.build(8, 1)
    with torch.no_grad():
        network.body[-1].bias += torch.randn(48) * 0.02
    given = torch.rand(2, 3, 48, 48)
    given = nn.functional.avg_pool2d(given, 5, 1, 2)
    before = network(given)
    flat = torch.full((1, 3, 24, 24), 0.5)
    grid = network(flat)[..., 32:64, 32:64].std().item()
    tools.refit.refit(network, tools.refit.own(network, [given]), 1e-5)
    assert network(flat)[..., 32:64, 32:64].std().item() < 0.3 * grid
    assert (network(given) - before)[..., 16:-16, 16:-16].std() < 1.5 * grid
