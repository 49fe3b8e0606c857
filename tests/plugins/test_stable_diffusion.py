"""Loading backbones: what they say of themselves, and what is wrong with a folder."""

import json
import shutil

import pytest
import torch

from mcap.contracts import Backbone
from mcap.errors import MissingResourceError, UsageError
from mcap.weights.model_source import describe, find_model
from mcap_plugins import demo, stable_diffusion
from mcap_plugins.stable_diffusion.folder import hash_folder
from mcap_plugins.stable_diffusion.load import load
from tests.support.tiny import tiny_backbone, tiny_folder


def _registered(plugin):
    found = {}
    plugin.register_backbones(lambda name, factory, **facts: found.update({name: (factory, facts)}))
    return found


def test_it_meets_the_contract():
    backbone = tiny_backbone()
    assert isinstance(backbone, Backbone)
    assert backbone.info.native_size == 64
    assert backbone.info.attention_divisor == 4  # 16 x 16 maps
    assert backbone.info.prediction_type == "epsilon"
    assert tiny_backbone(prediction_type="v_prediction").info.prediction_type == "v_prediction"
    for module in (backbone.unet, backbone.vae, *backbone.text_encoders):
        assert not module.training
        assert not any(parameter.requires_grad for parameter in module.parameters())


def test_prompts_are_encoded_as_plain_diffusers_does():
    backbone = tiny_backbone()
    ids = backbone.tokenizers[0](["a photo"], padding="max_length", return_tensors="pt").input_ids
    ours = backbone.encode_prompt([ids])
    theirs, _ = backbone.pipeline().encode_prompt("a photo", "cpu", 1, False)
    assert torch.equal(ours.hidden, theirs)
    assert ours.pooled is None
    assert backbone.added_conditions(ours, (64, 64)) is None


def test_the_pipeline_shares_the_modules_and_not_the_scheduler():
    backbone = tiny_backbone()
    pipeline = backbone.pipeline()
    assert pipeline.unet is backbone.unet
    assert pipeline.vae is backbone.vae
    assert pipeline.text_encoder is backbone.text_encoders[0]
    assert pipeline.scheduler is not backbone.scheduler


def test_every_part_has_the_asked_precision(tmp_path):
    """From a half-precision folder too, which diffusers otherwise loads half in single."""
    half = tmp_path / "half"
    pipeline = tiny_backbone(dtype=torch.float16).pipeline()
    pipeline.save_pretrained(half)
    for dtype in (torch.float32, torch.bfloat16):
        backbone = load("cpu", dtype, half)
        for module in (backbone.unet, backbone.vae, *backbone.text_encoders):
            assert {parameter.dtype for parameter in module.parameters()} == {dtype}


def test_the_hash_is_of_the_weights(tmp_path):
    first = tiny_backbone().info.sha256
    assert len(first) == 64
    assert tiny_backbone(tmp_path).info.sha256 == first
    assert tiny_backbone(seed=1).info.sha256 != first
    weights = tmp_path / "tiny" / "unet" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    assert hash_folder(tmp_path / "tiny") != first


def test_progress_bars_are_put_back(capfd):
    from diffusers.utils import logging

    tiny_backbone()
    assert logging.is_progress_bar_enabled()
    assert "Loading" not in capfd.readouterr().err


def test_a_folder_can_stand_in_for_sd15_and_demo():
    for plugin, name in ((stable_diffusion, "sd15"), (demo, "demo")):
        factory, facts = _registered(plugin)[name]
        assert facts["summary"]
        assert facts["licence"]
        backbone = factory("cpu", torch.float32, tiny_folder())
        assert backbone.info.native_size == 64
        assert backbone.info.id == str(tiny_folder())
    assert backbone.info.square_only
    assert backbone.info.face_height == 0.742


def test_the_packaged_demo_weights(monkeypatch, tmp_path):
    factory, _ = _registered(demo)["demo"]
    monkeypatch.setattr(demo, "MODEL", tmp_path / "nothing")
    with pytest.raises(MissingResourceError, match="install mcap again"):
        factory("cpu", torch.float32)
    monkeypatch.setattr(demo, "MODEL", tiny_folder())
    assert factory("cpu", torch.float32).info.id == "demo"


def test_a_folder_that_is_not_there():
    with pytest.raises(MissingResourceError, match="no such folder"):
        load("cpu", torch.float32, "/nowhere/at/all")


def test_a_folder_that_is_not_whole(tmp_path):
    folder = shutil.copytree(tiny_folder(), tmp_path / "broken")
    shutil.rmtree(folder / "vae")
    with pytest.raises(MissingResourceError, match="vae is not there"):
        load("cpu", torch.float32, folder)
    (folder / "model_index.json").unlink()
    with pytest.raises(MissingResourceError, match=r"model_index\.json, vae"):
        load("cpu", torch.float32, folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"_class_name": "StableDiffusionInpaintPipeline"}, "another kind"),
        ({"_class_name": "FluxPipeline", "unet": [None, None]}, "another kind .FluxPipeline"),
        (
            {"text_encoder": [None, None], "text_encoder_2": ["transformers", "CLIPTextModel"]},
            "a refiner",
        ),
    ],
)
def test_models_of_another_kind_are_named(tmp_path, changes, words):
    index = json.loads((tiny_folder() / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps(index | changes))
    with pytest.raises(UsageError, match=words):
        load("cpu", torch.float32, tmp_path)


@pytest.mark.parametrize(
    ("kind", "file", "changes", "words"),
    [
        ("sd", "model_index.json", {"vae": ["diffusers", "AutoencoderTiny"]}, "its vae is a Auto"),
        (
            "sd",
            "model_index.json",
            {"_class_name": "KolorsPipeline", "text_encoder": ["kolors", "ChatGLMModel"]},
            "another kind .KolorsPipeline.: its text_encoder is a ChatGLMModel",
        ),
        ("sd", "scheduler/scheduler_config.json", {"prediction_type": "sample"}, "'sample'.*epsi"),
        (
            "sdxl",
            "scheduler/scheduler_config.json",
            {"_class_name": "EDMEulerScheduler"},
            "its scheduler is EDMEulerScheduler",
        ),
        ("sd", "unet/config.json", {"time_cond_proj_dim": 256}, "distilled.*time_cond_proj_dim"),
        ("sd", "unet/config.json", {"class_embed_type": "projection"}, "also told a class"),
        (
            "sdxl",
            "model_index.json",
            {"text_encoder_2": [None, None]},
            "reads text of 40 values, and text_encoder give 16",
        ),
    ],
)
def test_what_cannot_be_trained_is_said_from_the_configuration_alone(
    tmp_path, kind, file, changes, words
):
    """Before any weight is read; of a hub id, before any is fetched."""
    names = ["model_index.json", "scheduler/scheduler_config.json", "unet/config.json"]
    names += ["vae/config.json", "text_encoder/config.json"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(tiny_folder(kind=kind) / name, tmp_path / name)
    found = json.loads((tmp_path / file).read_text())
    (tmp_path / file).write_text(json.dumps({**found, **changes}))
    with pytest.raises(UsageError, match=words) as raised:
        describe(find_model(tmp_path))
    assert str(tmp_path) in str(raised.value)


def test_a_second_text_encoder_that_is_not_there(tmp_path):
    folder = shutil.copytree(tiny_folder(kind="sdxl"), tmp_path / "broken")
    shutil.rmtree(folder / "text_encoder_2")
    with pytest.raises(MissingResourceError, match="text_encoder_2 is not there"):
        load("cpu", torch.float32, folder)


def _copy_weights(folder, name):
    """Rename every weight of a model: ``name`` of the stem and the number of files."""
    for file in folder.glob("*/*.safetensors"):
        file.rename(file.with_name(name(file.name.removesuffix(".safetensors"))))


def test_half_precision_files_are_read_where_there_are_no_others(tmp_path):
    folder = shutil.copytree(tiny_folder(), tmp_path / "half")
    whole = hash_folder(folder)
    _copy_weights(folder, "{}.fp16.safetensors".format)
    backbone = load("cpu", torch.float32, folder)
    plain = tiny_backbone()
    for ours, theirs in zip(backbone.unet.parameters(), plain.unet.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    half = hash_folder(folder)
    assert backbone.info.sha256 == half
    # What lies beside the files that are read is no part of the model.
    for file in tiny_folder().glob("*/*.safetensors"):
        shutil.copy(file, folder / file.parent.name)
    assert hash_folder(folder) == whole != half


def test_shards_are_read_and_hashed(tmp_path):
    folder = tmp_path / "shards"
    tiny_backbone().pipeline().save_pretrained(folder, max_shard_size="20KB")
    assert len(list((folder / "unet").glob("*.safetensors"))) > 1
    backbone = load("cpu", torch.float32, folder)
    before = backbone.info.sha256
    shard = sorted((folder / "unet").glob("*.safetensors"))[-1]
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(bytes(data))
    assert hash_folder(folder) != before


def test_pickles_are_not_read(tmp_path):
    folder = shutil.copytree(tiny_folder(), tmp_path / "pickles")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(
        folder / "unet" / "diffusion_pytorch_model.bin"
    )
    with pytest.raises(MissingResourceError, match=r"unet has no \.safetensors"):
        load("cpu", torch.float32, folder)
    (tmp_path / "model.ckpt").write_bytes(b"")
    with pytest.raises(UsageError, match="can run code"):
        load("cpu", torch.float32, tmp_path / "model.ckpt")
