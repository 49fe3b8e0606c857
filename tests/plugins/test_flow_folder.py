"""A transformer in a single file, as makers and ComfyUI keep it, with the other parts beside."""

from __future__ import annotations

import json
import shutil
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mcap.errors import MissingResourceError, UsageError
from mcap.registry import Registry
from mcap.training.backbone_facts import backbone_facts
from mcap.weights.model_source import describe, file_architecture, find_model
from mcap_plugins.klein.load import load as load_klein
from mcap_plugins.zimage.load import load as load_zimage
from tests.support.original_transformers import original_state
from tests.support.tiny import SIZE, sample
from tests.support.tiny_transformers import tiny_klein_folder, tiny_zimage_folder

LOADS = {"klein": load_klein, "zimage": load_zimage}
FOLDERS = {"klein": tiny_klein_folder, "zimage": tiny_zimage_folder}
FACTS = {"licence": "none", "commercial": True}
FORMS = ("makers", "ComfyUI", "diffusers")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(params=["klein", "zimage"])
def kind(request):
    return request.param


def published(kind: str, place: Path, form: str = "makers") -> Path:
    """A file in the folder of the model, whose own transformer has no weights."""
    folder = Path(shutil.copytree(FOLDERS[kind](), place / "model"))
    (weights,) = (folder / "transformer").glob("*.safetensors")
    state = load_file(weights)
    weights.unlink()
    if form != "diffusers":
        state = original_state(kind, state)
    if form == "ComfyUI":
        state = {f"model.diffusion_model.{key}": value for key, value in state.items()}
    file = folder / f"{kind}.safetensors"
    save_file({key: value.contiguous() for key, value in state.items()}, file)
    return file


@pytest.mark.parametrize("form", FORMS)
def test_it_is_the_same_model(kind, form, tmp_path):
    file = published(kind, tmp_path, form)
    assert file_architecture(file) == kind
    facts = describe(find_model(file))
    assert (facts.architecture, facts.native_size, facts.distilled) == (kind, SIZE, False)
    ours = LOADS[kind]("cpu", torch.float32, file, **FACTS)
    whole = LOADS[kind]("cpu", torch.float32, FOLDERS[kind](), **FACTS)
    assert ours.info.id == str(file) and ours.info.sha256 != whole.info.sha256
    ours_state, state = ours.unet.state_dict(), whole.unet.state_dict()
    assert ours_state.keys() == state.keys()
    assert all(torch.equal(ours_state[key], state[key]) for key in state)
    pictures = [sample(each, "a photo of a person", [2], steps=2)[0] for each in (ours, whole)]
    # Where the weights lie in memory changes the last bits of sums.
    assert np.abs(pictures[0].astype(int) - pictures[1]).max() <= 1


def test_the_plan_knows_it(kind, tmp_path):
    found = Registry([EntryPoint(kind, f"mcap_plugins.{kind}", "mcap")])
    file = published(kind, tmp_path)
    facts = backbone_facts(found.get("backbone", kind), str(file))
    whole = backbone_facts(found.get("backbone", kind), str(FOLDERS[kind]()))
    assert facts.unet_mb == pytest.approx(whole.unet_mb)
    assert facts.weights_bytes == pytest.approx(whole.weights_bytes, rel=0.02)  # headers differ
    backbone = found.create("backbone", kind, "cpu", torch.bfloat16, source=str(file))
    assert backbone.unet.dtype == torch.bfloat16
    before = facts.weights_key
    state = load_file(file)
    first = min(state)
    save_file({**state, first: state[first] + 1}, file)
    assert backbone_facts(found.get("backbone", kind), str(file)).weights_key != before


def test_the_other_parts_may_lie_in_a_folder_of_its_name(kind, tmp_path):
    file = published(kind, tmp_path)
    moved = tmp_path / "elsewhere" / "film.safetensors"
    moved.parent.mkdir()
    shutil.move(file, moved)
    with pytest.raises(MissingResourceError, match=r"holds the transformer of .* alone"):
        describe(find_model(moved))
    shutil.move(file.parent, moved.with_suffix(""))
    assert describe(find_model(moved)).architecture == kind
    LOADS[kind]("cpu", torch.float32, moved, **FACTS)
    (moved.with_suffix("") / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(MissingResourceError, match="vae is not there"):
        LOADS[kind]("cpu", torch.float32, moved, **FACTS)


def test_a_turbo_is_known_by_the_name_of_its_file(tmp_path):
    file = published("zimage", tmp_path)
    turbo = file.rename(file.with_name("z_image_turbo_bf16.safetensors"))
    assert describe(find_model(turbo)).distilled


def rewrite(file: Path, change) -> None:
    save_file(change(load_file(file)), file)


def test_what_is_no_whole_file_of_the_kind_is_refused(kind, tmp_path):
    file = published(kind, tmp_path)
    plain = file.read_bytes()
    other = "klein" if kind == "zimage" else "zimage"
    with pytest.raises(UsageError, match="but of the kind"):
        LOADS[other]("cpu", torch.float32, file, **FACTS)
    name = "single_blocks.0.linear2.weight" if kind == "klein" else "layers.1.attention.out.weight"
    rewrite(file, lambda state: {key: value for key, value in state.items() if key != name})
    with pytest.raises(UsageError, match="cannot be read as a model"):
        LOADS[kind]("cpu", torch.float32, file, **FACTS)
    file.write_bytes(plain)
    rewrite(file, lambda state: {**state, name: torch.ones(3, 3)})
    with pytest.raises(UsageError, match="cannot be read as a model"):
        LOADS[kind]("cpu", torch.float32, file, **FACTS)
    file.write_bytes(plain)
    scale = name.replace(".weight", ".scale_weight")
    rewrite(file, lambda state: {**state, scale: torch.ones(1)})
    with pytest.raises(UsageError, match="quantised weights"):
        file_architecture(file)
    file.write_bytes(plain[: len(plain) // 2])
    with pytest.raises(UsageError, match="cannot be read as a model"):
        LOADS[kind]("cpu", torch.float32, file, **FACTS)


def test_the_large_sibling_of_klein_and_another_lumina_are_refused(tmp_path):
    file = published("klein", tmp_path)
    guided = {"guidance_in.in_layer.weight": torch.ones(2, 2)}
    rewrite(file, lambda state: {**state, **guided})
    with pytest.raises(UsageError, match="Flux or one of its relatives"):
        file_architecture(file)
    lumina = {"layers.0.adaLN_modulation.1.weight": torch.ones(2, 2)}
    save_file({**lumina, **{f"layers.{i}.x.weight": torch.ones(2) for i in range(4)}}, file)
    with pytest.raises(UsageError, match="has no UNet"):
        file_architecture(file)


def test_the_parts_beside_are_of_the_kind(tmp_path):
    file = published("klein", tmp_path)
    index = file.parent / "model_index.json"
    changed = json.loads(index.read_text()) | {"vae": ["diffusers", "AutoencoderKL"]}
    index.write_text(json.dumps(changed))
    with pytest.raises(UsageError, match="its vae is a AutoencoderKL"):
        describe(find_model(file))


def test_libraries_that_are_too_old_are_named(kind, monkeypatch):
    import diffusers

    from mcap.cli.backbone import choose_backbone
    from mcap.weights.model_source import FLOWS

    name = FLOWS[kind].pipeline
    assert hasattr(diffusers, name)
    monkeypatch.delattr(diffusers, name)
    monkeypatch.delitem(diffusers._class_to_module, name)
    monkeypatch.setattr(diffusers, "__version__", "0.35.1")
    folder = str(FOLDERS[kind]())
    with pytest.raises(MissingResourceError, match=rf"newer diffusers .* 0\.35\.1, .* no {name}"):
        choose_backbone(folder)
    found = Registry([EntryPoint(kind, f"mcap_plugins.{kind}", "mcap")])
    with pytest.raises(MissingResourceError, match="pip install --upgrade diffusers"):
        found.create("backbone", kind, "cpu", torch.float32, source=folder)
