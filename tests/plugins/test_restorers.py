"""The restorers that come with mcap, on random weights: what is read, refused and told."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from spandrel import ImageModelDescriptor
from spandrel.architectures.Compact import Compact, CompactArch
from spandrel.architectures.ESRGAN import ESRGAN
from spandrel.architectures.GFPGAN import GFPGAN, GFPGANArch
from torch import nn

import mcap_plugins.spandrel.restorer as heavy
from mcap.contracts import Restorer
from mcap.enhancement.tiling import Tiling, restore_tiled
from mcap.errors import MissingResourceError, UsageError
from mcap.registry import registry
from mcap.weights.catalogue import WEIGHTS
from mcap.weights.locate import local_path
from mcap.weights.verify import verify_weight
from mcap_plugins.spandrel.restorer import load, load_interpolated

NAMES = {
    "demo-sr": ("image", 4),
    "demo-face": ("face", 1),
    "realesrgan": ("image", 4),
    "realesrgan-x2": ("image", 2),
    "realesrgan-general": ("image", 4),
    "gfpgan": ("face", 1),
    "gfpgan-1.3": ("face", 1),
    "codeformer": ("face", 1),
}


def compact(seed=0, scale=4, channels=3, features=8, layers=2):
    torch.manual_seed(seed)
    return Compact(
        num_in_ch=channels,
        num_out_ch=channels,
        num_feat=features,
        num_conv=layers,
        upscale=scale,
    ).state_dict()


@pytest.fixture
def pth(tmp_path):
    """Save weights as Real-ESRGAN's authors do; returns the path."""

    def save(state, name="network.pth", key="params_ema"):
        path = tmp_path / name
        torch.save({key: state} if key else state, path)
        return path

    return save


def test_what_is_registered_says_what_it_is():
    entries = registry().entries["restorer"]
    for name, (kind, scale) in NAMES.items():
        entry = entries[name]
        assert (entry.info.kind, entry.info.scale) == (kind, scale)
        assert all(need in WEIGHTS or need == "mcap[codeformer]" for need in entry.needs)
    assert [name for name in NAMES if not entries[name].commercial] == [
        "demo-sr",
        "demo-face",
        "codeformer",
    ]
    assert "non-commercial" in entries["codeformer"].licence
    assert entries["spandrel"].reads == (".safetensors", ".pth")


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"demo-sr", "demo-face"}))
def test_weights_that_are_not_here_are_named_offline(name, monkeypatch, tmp_path):
    monkeypatch.setenv("MCAP_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("MCAP_OFFLINE", "1")
    if name == "codeformer":
        pytest.importorskip("spandrel_extra_arches")
    with pytest.raises(MissingResourceError) as raised:
        registry().create("restorer", name)
    for need in registry().get("restorer", name).needs:
        if need in WEIGHTS:
            assert f"'{need}'" in str(raised.value)


def test_codeformer_asks_for_its_extra_before_its_weights(monkeypatch):
    monkeypatch.setitem(sys.modules, "spandrel_extra_arches", None)
    with pytest.raises(MissingResourceError, match=r"pip install 'mcap\[codeformer\]'"):
        registry().create("restorer", "codeformer")


def test_the_embedded_restorer_works_without_any_download(monkeypatch, tmp_path):
    if local_path("demo-sr") is None:
        pytest.skip("demo-sr has not been trained yet")
    monkeypatch.setenv("MCAP_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("MCAP_OFFLINE", "1")
    restorer = registry().create("restorer", "demo-sr")
    assert (restorer.info.kind, restorer.info.scale) == ("image", 4)
    image = torch.rand(3, 40, 30)
    assert restore_tiled(restorer, image).image.shape == (160, 120, 3)
    assert verify_weight("demo-sr").ok
    path = local_path("demo-sr")
    assert path.stat().st_size < 3_000_000
    # Larger by the pixel, and not another picture: its mean stays.
    assert abs(restorer.restore(image[None]).mean() - image.mean()) < 0.05


# files


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("scale", [1, 2, 4])
def test_a_file_is_read_and_used_as_spandrel_uses_it(tmp_path, pth, suffix, scale):
    state = compact(scale=scale)
    path = tmp_path / f"my network{suffix}"
    if suffix == ".pth":
        path = pth(state, path.name)
    else:
        save_file(state, path)
    restorer = registry().create("restorer", "spandrel", path)
    assert isinstance(restorer, Restorer)
    info = restorer.info
    assert (info.kind, info.scale, info.half_precision) == ("image", scale, True)
    assert (info.reach, info.overlap, info.tileable) == (4, 8, True)
    image = torch.rand(2, 3, 13, 9)
    expected = torch.cat([CompactArch().load(state)(picture[None]) for picture in image])
    made = restorer.restore(image)
    assert torch.equal(made, expected)
    assert made.dtype == torch.float32


def test_the_reach_is_what_a_pixel_is_seen_from(pth):
    restorer = load(pth(compact(features=4, layers=3)))
    torch.manual_seed(0)
    for layer in restorer._descriptor.model.modules():  # so large that every path counts
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight)
    image = torch.full((1, 3, 31, 31), 0.5)
    other = image.clone()
    other[:, :, 15, 15] = 1.0
    model = restorer._descriptor.model
    with torch.no_grad():
        changed = (model(image) != model(other)).any(dim=1)[0]
    rows = torch.nonzero(changed.any(dim=1)).flatten() // 4
    assert (rows.min(), rows.max()) == (15 - restorer.info.reach, 15 + restorer.info.reach)


def test_real_esrgan_folds_pixels_and_says_so(pth):
    torch.manual_seed(0)
    network = ESRGAN(in_nc=12, num_filters=8, num_blocks=2, scale=4, shuffle_factor=2)
    restorer = load(pth(network.state_dict()))
    assert restorer.architecture == "ESRGAN"
    assert (restorer.info.scale, restorer.info.multiple_of, restorer.info.reach) == (2, 4, None)
    made = restore_tiled(restorer, torch.rand(3, 45, 50), Tiling(tile=24))
    assert made.image.shape == (90, 100, 3)


@pytest.mark.parametrize("scene", ["gradient", "photo"])
def test_no_seams_with_real_esrgan(pth, scene):
    """Two of its 23 blocks at an eighth of their width: tiles agree with the whole to 1e-3."""
    from skimage import data

    torch.manual_seed(0)
    network = ESRGAN(num_filters=8, num_blocks=2, scale=4)
    restorer = load(pth(network.state_dict()))
    if scene == "photo":
        image = data.astronaut()[50:190, 150:330]
    else:
        rows, columns = np.mgrid[0:140, 0:180]
        levels = np.stack([rows / 140, columns / 180, (rows + columns) / 320], axis=-1)
        image = levels.astype(np.float32)
    whole = restore_tiled(restorer, image, Tiling(tile=1000, dtype=np.float32)).image
    tiled = restore_tiled(restorer, image, Tiling(tile=128, dtype=np.float32))
    assert tiled.tiles == 4
    assert whole.std() > 0.01
    np.testing.assert_allclose(tiled.image, whole, atol=1e-3)


def test_what_a_network_takes_is_counted_without_computing(pth):
    """Per pixel: 64 channels in and out at 4 x 4 pixels in single precision are 8,192 bytes."""
    network = ESRGAN(num_filters=64, num_blocks=1, scale=4)
    assert load(pth(network.state_dict())).info.bytes_per_pixel == pytest.approx(
        heavy.WORKSPACE * 8192, rel=0.01
    )
    assert load(pth(compact())).info.bytes_per_pixel < 1000


class Evil:
    def __reduce__(self):
        return print, ("this must not be printed",)


def broken_files(tmp_path):
    (tmp_path / "text.pth").write_text("no network")
    (tmp_path / "text.safetensors").write_text("no network")
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    with (tmp_path / "evil.pth").open("wb") as file:
        pickle.dump({"params": Evil()}, file, protocol=2)
    torch.save({"params": Evil()}, tmp_path / "evil-zip.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"epoch": 3}, tmp_path / "number.pth")
    torch.save({"a.weight": torch.zeros(3)}, tmp_path / "other.pth")
    grey = compact(channels=1)
    torch.save(grey, tmp_path / "grey.pth")
    lacking = compact()
    del lacking["body.2.weight"]
    torch.save(lacking, tmp_path / "lacking.pth")
    return {
        "nowhere.pth": "there is no such file",
        "text.pth": "damaged, or holds more than weights",
        "text.safetensors": "cannot be read",
        "empty.pth": "cannot be read",
        "picture.png": "a .safetensors or .pth file",
        "evil.pth": "holds more than weights",
        "evil-zip.pth": "holds more than weights",
        "list.pth": "does not hold the weights",
        "number.pth": "does not hold the weights",
        "other.pth": "no network that spandrel knows",
        "grey.pth": "takes 1 and gives 1 channels",
        "lacking.pth": "cannot be read as one",
    }


def test_files_that_are_no_restorer_are_refused_by_name(tmp_path, capfd):
    for name, told in broken_files(tmp_path).items():
        with pytest.raises(UsageError) as raised:
            load(tmp_path / name)
        assert told in str(raised.value), name
        assert name in str(raised.value)
    assert "must not be printed" not in capfd.readouterr().out


def test_without_a_path_the_reader_of_files_says_what_to_do():
    with pytest.raises(UsageError, match="give its path"):
        registry().create("restorer", "spandrel")


# networks with something to set


def described(network):
    """A network of faces as spandrel hands it over once it has read a file."""
    return ImageModelDescriptor(
        network,
        network.state_dict(),
        GFPGANArch(),
        purpose="FaceSR",
        tags=[],
        supports_half=False,
        supports_bfloat16=True,
        scale=1,
        input_channels=3,
        output_channels=3,
    )


def test_denoise_runs_from_one_set_of_weights_to_the_other(pth):
    strong, weak = compact(1), compact(2)
    files = pth(strong, "a.pth", "params"), pth(weak, "b.pth", "params")
    restorer = load_interpolated(*files)
    assert restorer.denoise == 0.5
    image = torch.rand(1, 3, 12, 12)
    for value, expected in (
        (1.0, strong),
        (0.0, weak),
        (0.25, {name: 0.25 * strong[name] + 0.75 * weak[name] for name in strong}),
    ):
        restorer.denoise = value
        assert restorer.denoise == value
        wanted = CompactArch().load(expected)(image)
        torch.testing.assert_close(restorer.restore(image), wanted, atol=1e-6, rtol=0)
    with pytest.raises(UsageError, match=r"between 0 and 1, not 1\.5"):
        restorer.denoise = 1.5
    with pytest.raises(UsageError, match="not of one network"):
        load_interpolated(files[0], pth(compact(3, layers=3), "c.pth"))


def test_gfpgan_is_given_and_gives_its_own_range():
    """A small one, of 32 pixels: our picture is the network's, shifted from [-1, 1] to [0, 1]."""
    torch.manual_seed(0)
    network = GFPGAN(out_size=32, num_style_feat=16, channel_multiplier=1, narrow=0.125, num_mlp=2)
    with torch.no_grad():
        for parameter in network.parameters():  # the noise inputs begin with a weight of 0
            parameter.add_(torch.randn_like(parameter) * 0.05)
    restorer = heavy.GfpganRestorer(described(network))
    assert restorer.info.kind == "face"
    face = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        wanted = network(face * 2 - 1, randomize_noise=False)[0].clamp(-1, 1) / 2 + 0.5
    made = restorer.restore(face)
    torch.testing.assert_close(made, wanted, atol=1e-6, rtol=0)
    assert torch.equal(made, restorer.restore(face)), "the same picture twice"
    assert made.std() > 0.01
    assert torch.equal(face, face.clamp(0, 1))


class Faithful(nn.Module):
    """Stands in for CodeFormer, whose smallest one has 94 million weights."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, image, weight):
        return image * weight + self.bias, None


def test_codeformer_is_as_faithful_as_it_is_told():
    network = Faithful()
    restorer = heavy.CodeFormerRestorer(described(network))
    face = torch.rand(1, 3, 8, 8)
    assert restorer.fidelity == 0.5
    for value in (0.0, 0.5, 1.0):
        restorer.fidelity = value
        wanted = (face - 0.5) * value + 0.5
        torch.testing.assert_close(restorer.restore(face), wanted, atol=1e-6, rtol=0)
    with pytest.raises(UsageError, match="between 0 and 1"):
        restorer.fidelity = -0.1


def real_esrgan():
    """Two of its 23 blocks, at a quarter of their width."""
    torch.manual_seed(0)
    return ESRGAN(num_filters=16, num_blocks=2, scale=4).state_dict()


@pytest.mark.parametrize("network", [compact, real_esrgan])
def test_half_precision_on_the_cpu_is_bfloat16(pth, network):
    """What goes in and out is single precision all the same, and so is what comes after it."""
    restorer = load(pth(network()))
    assert restorer.info.half_on_cpu == (network is real_esrgan)
    image = torch.rand(1, 3, 16, 20)
    single = restorer.restore(image)
    made = restorer.to("cpu", half=True).restore(image)
    assert {weight.dtype for weight in restorer._descriptor.model.parameters()} == {torch.bfloat16}
    assert made.dtype == torch.float32
    assert 0 < (made - single).square().mean() < 10 ** (-heavy.KEPT / 10)
    assert torch.equal(restorer.to("cpu").restore(image), single)  # with weights as they were


def test_a_network_that_bfloat16_does_not_hold_stays_in_single_precision(pth, monkeypatch):
    restorer = load(pth(real_esrgan()))
    image = torch.rand(1, 3, 16, 20)
    single = restorer.restore(image)
    monkeypatch.setattr(heavy, "KEPT", 150.0)
    assert torch.equal(restorer.to("cpu", half=True).restore(image), single)
    assert {weight.dtype for weight in restorer._descriptor.model.parameters()} == {torch.float32}


def test_the_plugin_imports_neither_torch_nor_spandrel():
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, mcap_plugins.spandrel\n"
            "print([name for name in ('torch', 'numpy', 'spandrel') if name in sys.modules])",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
