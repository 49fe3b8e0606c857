"""OFT and BOFT turn a weight as LyCORIS, peft and OneTrainer turn it."""

from __future__ import annotations

import pytest
import torch

from mcap.subjects.rotations import (
    InputOft,
    cayley,
    neumann,
    peft_butterfly,
    turned_inputs,
    turned_outputs,
)

LINEAR, KERNEL, POINT = "linear", "3 x 3", "1 x 1"


def layer(kind: str) -> torch.nn.Module:
    """A layer of 12 inputs and 16 outputs, its weight the same each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind == LINEAR:
            return torch.nn.Linear(12, 16)
        return torch.nn.Conv2d(12, 16, 3 if kind == KERNEL else 1)


def noise(*shape: int) -> torch.Tensor:
    return 0.3 * torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


OUTPUT_BLOCKS = {"Diag-OFT": (4, 4, 4), "BOFT": (3, 4, 4, 4)}


@pytest.mark.parametrize("alpha", [0.0, 0.05, 10.0])
@pytest.mark.parametrize("rescaled", [False, True])
@pytest.mark.parametrize("kind", [LINEAR, KERNEL])
@pytest.mark.parametrize("algo", OUTPUT_BLOCKS)
def test_lycoris(algo, kind, rescaled, alpha):
    pytest.importorskip("lycoris", reason="lycoris-lora is not installed")
    from lycoris.modules.boft import ButterflyOFTModule
    from lycoris.modules.diag_oft import DiagOFTModule

    base = layer(kind)
    weight = base.weight.detach().clone()
    maker = DiagOFTModule if algo == "Diag-OFT" else ButterflyOFTModule
    module = maker("x", base, lora_dim=4, constraint=alpha, rescaled=rescaled)
    with torch.no_grad():
        module.oft_blocks.copy_(noise(*OUTPUT_BLOCKS[algo]))
        if rescaled:
            module.rescale.copy_(1 + noise(*module.rescale.shape))
    parts = {key: module.state_dict()[key] for key in module.state_dict() if "." not in key}
    assert parts.keys() == {"oft_blocks", "alpha", *(["rescale"] if rescaled else [])}
    expected = module.get_merged_weight()[0].detach()
    found = turned_outputs(parts, weight)
    assert (found - expected).abs().max() < 1e-5
    assert (expected - weight).abs().max() > 1e-2


@pytest.mark.parametrize("kind", [LINEAR, KERNEL])
def test_rotations_that_are_written_themselves(kind):
    """LyCORIS 2.0 wrote ``oft_diag``: R, a rescale in its rows."""
    weight = layer(kind).weight.detach()
    blocks = noise(4, 4, 4)
    rotations = cayley(blocks - blocks.mT)
    expected = turned_outputs({"oft_blocks": blocks}, weight)
    assert (turned_outputs({"oft_diag": rotations}, weight) - expected).abs().max() < 1e-6


PEFT_OFT = {
    "as by default": {},
    "exact": {"use_cayley_neumann": False},
    "three terms": {"num_cayley_neumann_terms": 3},
    "seven terms": {"num_cayley_neumann_terms": 7},
    "one block for all": {"block_share": True},
}


@pytest.mark.parametrize("kind", [LINEAR, POINT])
@pytest.mark.parametrize("options", PEFT_OFT)
def test_peft(options, kind):
    from peft import OFTConfig, get_peft_model, get_peft_model_state_dict

    base = torch.nn.Sequential(layer(kind))
    weight = base[0].weight.detach().clone()
    config = OFTConfig(oft_block_size=4, target_modules=["0"], **PEFT_OFT[options])
    model = get_peft_model(base, config)
    oft = model.base_model.model[0]
    with torch.no_grad():
        row = oft.oft_R["default"].weight
        row.copy_(0.4 * noise(*row.shape))
    parts = {
        key.removeprefix("base_model.model.0."): value
        for key, value in get_peft_model_state_dict(model).items()
    }
    assert parts.keys() == {"oft_R.weight"}
    picture = noise(2, 12) if kind == LINEAR else noise(2, 12, 5, 5)
    drawn = model(picture)
    terms = None if options == "exact" else PEFT_OFT[options].get("num_cayley_neumann_terms", 5)
    found = turned_inputs(parts, weight, InputOft(terms, by_pixels=True))
    plain = layer(kind)
    before = plain(picture)
    with torch.no_grad():
        plain.weight.copy_(found)
    assert (plain(picture) - drawn).abs().max() < 1e-5
    assert (before - drawn).abs().max() > 1e-2
    oft.merge()
    assert (found - oft.base_layer.weight).abs().max() < 1e-5


@pytest.mark.parametrize("kind", [LINEAR, KERNEL])
def test_pefts_butterfly(kind, monkeypatch):
    from peft import BOFTConfig, get_peft_model, get_peft_model_state_dict
    from peft.tuners.boft import layer as boft_layer

    monkeypatch.setattr(boft_layer, "get_fbd_cuda", lambda: None)  # it would compile a program

    base = torch.nn.Sequential(layer(kind))
    weight = base[0].weight.detach().clone()
    config = BOFTConfig(boft_block_size=4, target_modules=["0"], init_weights=False)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = get_peft_model(base, config)
    parts = {
        key.removeprefix("base_model.model.0."): value.clone()
        for key, value in get_peft_model_state_dict(model).items()
    }
    assert parts.keys() == {"boft_R", "boft_s"}
    boft = model.base_model.model[0]
    boft.merge()
    found = peft_butterfly(parts, weight)
    assert (found - boft.base_layer.weight).abs().max() < 1e-5
    assert (found - weight).abs().max() > 1e-2
    parts["boft_R"] = parts["boft_R"].expand(2, -1, -1, -1)
    with pytest.raises(ValueError, match="2 butterfly factors"):
        peft_butterfly(parts, weight)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("kind", [LINEAR, KERNEL])
def test_onetrainer(kind, scaled):
    """Its OFTModule, once more: pixels are turned before a linear layer, weights of a kernel."""
    weight = layer(kind).weight.detach()
    blocks, side = weight.flatten(1).shape[1] // 6, 6
    above = 0.4 * noise(blocks, 15)
    factor = 15**-0.5 if scaled else 1.0
    whole = torch.zeros(blocks * side, blocks * side)
    for number in range(blocks):
        q = torch.zeros(side, side)
        place = 0
        for row in range(side):
            for column in range(row + 1, side):
                q[row, column], q[column, row] = above[number, place], -above[number, place]
                place += 1
        q = factor * q
        r = torch.eye(side) + 2 * q + 2 * q @ q + 2 * q @ q @ q + q @ q @ q @ q
        here = slice(number * side, (number + 1) * side)
        whole[here, here] = r
    flat = weight.flatten(1)
    expected = (flat @ whole.T if kind == LINEAR else flat @ whole).reshape(weight.shape)
    parts = {"oft_R.weight": above} | ({"oft_R.scaled_oft": torch.tensor(1)} if scaled else {})
    assert (turned_inputs(parts, weight, InputOft()) - expected).abs().max() < 1e-5


def test_pixels_under_a_kernel_are_no_weights():
    weight = layer(KERNEL).weight.detach()
    with pytest.raises(ValueError, match="pixels under a kernel"):
        turned_inputs({"oft_R.weight": noise(27, 6)}, weight, InputOft(by_pixels=True))


# Recorded from LyCORIS 4.1.3, for where it is not installed: the change of
# W[i, j] = (i + 2 j) / 10 by blocks whose numbers
# are 0, 1, 4, 9 ... hundredths.
RECORDED = {
    "Diag-OFT": (
        (2, 2, 2),
        0.0,
        [
            [0.005995, 0.017624, 0.029254],
            [-0.000180, -0.012529, -0.024878],
            [0.060429, 0.099121, 0.137813],
            [-0.050647, -0.098903, -0.147159],
        ],
    ),
    "Diag-OFT, constrained": (
        (2, 2, 2),
        0.002,
        [
            [0.000298, 0.000892, 0.001487],
            [0.0, -0.000597, -0.001193],
            [0.003262, 0.005434, 0.007605],
            [-0.002201, -0.004396, -0.006591],
        ],
    ),
    "BOFT": (
        (2, 2, 2, 2),
        0.0,
        [
            [-0.053258, -0.134337, -0.215416],
            [-0.183008, -0.320273, -0.457538],
            [-0.081251, -0.071258, -0.061266],
            [0.040840, 0.153610, 0.266381],
        ],
    ),
}


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_figures(name):
    shape, alpha, expected = RECORDED[name]
    weight = (torch.arange(4)[:, None] + 2.0 * torch.arange(3)) / 10
    blocks = torch.arange(float(torch.Size(shape).numel())).reshape(shape).square() / 100
    parts = {"oft_blocks": blocks, "alpha": torch.tensor(alpha)}
    found = turned_outputs(parts, weight) - weight
    assert torch.allclose(found, torch.tensor(expected), atol=2e-6)


def test_cayley_and_its_series():
    skew = noise(3, 5, 5) * 0.2
    skew = skew - skew.mT
    rotation = cayley(skew)
    one = torch.eye(5)
    assert (rotation @ rotation.mT - one).abs().max() < 1e-6
    assert ((one - skew) @ rotation - (one + skew)).abs().max() < 1e-6  # they commute
    errors = [(neumann(skew, terms) - rotation).abs().max().item() for terms in (2, 4, 6, 30)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 1e-6
    assert torch.equal(neumann(skew, 1), one.expand(3, 5, 5))
