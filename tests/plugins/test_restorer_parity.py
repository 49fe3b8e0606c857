"""The same random weights through the upstream networks' own code and through ours: one picture.

The packages realesrgan, gfpgan and basicsr no longer import, so their single files of network code
are executed, with stand-ins for the little that they import of basicsr. They are looked for in this
environment and in the folder that UPSTREAM_RESTORERS names, with unpacked archives of
basicsr 1.4.2, gfpgan 1.3.8, realesrgan 0.3.0 and, republished by somebody else, codeformer 0.0.11.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from mcap_plugins.spandrel.restorer import load, load_interpolated

TOLERANCE = 1e-3


def upstream(package: str, file: str) -> Path:
    """``package/file`` of an upstream program, or the test is skipped."""
    places = []
    folder = os.environ.get("UPSTREAM_RESTORERS")
    if folder:
        places += [Path(folder) / package, *Path(folder).glob(f"*/{package}")]
    spec = PathFinder.find_spec(package)  # on the disk, whatever stands in for it
    places += [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []
    for place in places:
        if (place / file).is_file():
            return place / file
    pytest.skip(f"the code of {package} is not here: {file} (see this file's head)")


class Version(tuple):
    def __new__(cls, text: str) -> Version:
        return super().__new__(cls, [int(part) for part in text.split("+")[0].split(".")[:3]])


@pytest.fixture
def network_code(monkeypatch):
    """Execute one file of network code as the module of that name; returns the module."""

    def stand_in(name: str, **contents) -> None:
        module = ModuleType(name)
        module.__path__ = []
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)

    def execute(name: str, path: Path) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    def prepare() -> None:
        for name in (
            "basicsr",
            "basicsr.archs",
            "basicsr.ops",
            "gfpgan",
            "gfpgan.archs",
            "distutils",
        ):
            stand_in(name)
        stand_in("basicsr.utils", get_root_logger=logging.getLogger)
        stand_in("basicsr.ops.dcn", ModulatedDeformConvPack=nn.Module, modulated_deform_conv=None)
        stand_in("distutils.version", LooseVersion=Version)  # gone since Python 3.12
        root = upstream("basicsr", "utils/registry.py").parents[1]
        execute("basicsr.utils.registry", root / "utils" / "registry.py")
        execute("basicsr.archs.arch_util", root / "archs" / "arch_util.py")

    prepare()
    return execute


@torch.no_grad()
def shaken(network: nn.Module, amount: float) -> nn.Module:
    """Random weights everywhere, those too that begin as zeros; the result is not just flat."""
    torch.manual_seed(1)
    for parameter in network.parameters():
        parameter.add_(torch.randn_like(parameter) * amount)
    return network.eval()


def photo(side: int) -> torch.Tensor:
    """float32[1, 3, side, side]: a face."""
    from skimage import data, transform

    face = transform.resize(data.astronaut()[0:240, 110:350], (side, side), anti_aliasing=True)
    return torch.from_numpy(face.astype(np.float32)).permute(2, 0, 1)[None]


def assert_same_picture(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert ours.shape == theirs.shape
    assert theirs.std() > 0.005, "a flat picture proves nothing"
    inside = ((theirs > 0) & (theirs < 1)).float().mean()
    assert inside > 0.5, "a picture that is cut off everywhere proves nothing"
    difference = float((ours - theirs).abs().max())
    print(f"largest difference {difference:.1e}")  # for docs/enhance.md: pytest -s
    assert difference <= TOLERANCE


@pytest.mark.parametrize("scale", [4, 2])
@torch.no_grad()
def test_real_esrgan_plus(network_code, tmp_path, scale):
    """RealESRGAN_x4plus and x2plus: RRDBNet, 23 blocks, 64 features, 16.7 million weights."""
    code = network_code("basicsr.archs.rrdbnet_arch", upstream("basicsr", "archs/rrdbnet_arch.py"))
    torch.manual_seed(0)
    network = shaken(code.RRDBNet(3, 3, scale=scale, num_feat=64, num_block=23), 0.002)
    torch.save({"params_ema": network.state_dict()}, tmp_path / "plus.pth")
    image = photo(32)
    restorer = load(tmp_path / "plus.pth")
    assert restorer.info.scale == scale
    assert_same_picture(restorer.restore(image), network(image).clamp(0, 1))


@torch.no_grad()
def test_real_esrgan_general(network_code, tmp_path):
    """realesr-general-x4v3 and its interpolation, as RealESRGANer.dni makes it."""
    code = network_code(
        "realesrgan.archs.srvgg_arch", upstream("realesrgan", "archs/srvgg_arch.py")
    )
    states = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        network = code.SRVGGNetCompact(3, 3, num_feat=64, num_conv=32, upscale=4).eval()
        states.append(network.state_dict())
        torch.save({"params": states[-1]}, tmp_path / f"{seed}.pth")
    restorer = load_interpolated(tmp_path / "0.pth", tmp_path / "1.pth")
    restorer.denoise = 0.7
    network.load_state_dict(
        {name: 0.7 * states[0][name] + 0.3 * states[1][name] for name in states[0]}
    )
    image = photo(64)
    assert_same_picture(restorer.restore(image), network(image).clamp(0, 1))


@torch.no_grad()
def test_gfpgan(network_code, tmp_path):
    """GFPGANv1.3 and 1.4 as GFPGANer calls them, with the file's noise inputs on both sides."""
    network_code(
        "gfpgan.archs.stylegan2_clean_arch", upstream("gfpgan", "archs/stylegan2_clean_arch.py")
    )
    code = network_code(
        "gfpgan.archs.gfpganv1_clean_arch", upstream("gfpgan", "archs/gfpganv1_clean_arch.py")
    )
    torch.manual_seed(0)
    network = code.GFPGANv1Clean(
        out_size=512,
        num_style_feat=512,
        channel_multiplier=2,
        fix_decoder=False,
        num_mlp=8,
        input_is_latent=True,
        different_w=True,
        narrow=1,
        sft_half=True,
    )
    network = shaken(network, 0.01)
    torch.save({"params_ema": network.state_dict()}, tmp_path / "gfpgan.pth")
    face = photo(512)
    theirs = network(face * 2 - 1, return_rgb=False, randomize_noise=False, weight=0.5)[0]
    restorer = load(tmp_path / "gfpgan.pth")
    assert restorer.info.kind == "face"
    assert_same_picture(restorer.restore(face), theirs.clamp(-1, 1) / 2 + 0.5)


@pytest.mark.parametrize("fidelity", [0.0, 0.7])
@torch.no_grad()
def test_codeformer(network_code, tmp_path, fidelity):
    """CodeFormer as its inference_codeformer.py calls it: w=fidelity, adain=True."""
    extra = pytest.importorskip("spandrel_extra_arches")
    folder = upstream("codeformer", "basicsr/archs/codeformer_arch.py").parent
    network_code("basicsr.archs.vqgan_arch", folder / "vqgan_arch.py")
    code = network_code("basicsr.archs.codeformer_arch", folder / "codeformer_arch.py")
    torch.manual_seed(0)
    network = code.CodeFormer(
        dim_embd=512,
        codebook_size=1024,
        n_head=8,
        n_layers=9,
        connect_list=["32", "64", "128", "256"],
    )
    network = shaken(network, 0.005)
    torch.save({"params_ema": network.state_dict()}, tmp_path / "codeformer.pth")
    face = photo(512)
    theirs = network(face * 2 - 1, w=fidelity, adain=True)[0]
    restorer = load(tmp_path / "codeformer.pth", extra.EXTRA_REGISTRY)
    restorer.fidelity = fidelity
    assert_same_picture(restorer.restore(face), theirs.clamp(-1, 1) / 2 + 0.5)
