"""Checkpoints in one file, as A1111 and ComfyUI keep them, read without any network."""

import pytest
import torch
from safetensors.torch import save_file

from mcap.cli.backbone import choose_backbone
from mcap.errors import MissingResourceError, UsageError
from mcap.training.backbone_facts import backbone_facts
from mcap.weights.model_source import UNET_INPUT, describe, find_model
from mcap_plugins.clip import clip_tokenizer
from mcap_plugins.shared.model_files import hash_file
from mcap_plugins.stable_diffusion import single_file
from mcap_plugins.stable_diffusion.load import load
from tests.support.original_names import original_state, use_tiny_layouts
from tests.support.tiny import sample, tiny_backbone

# Published sizes of the models whose configuration the package brings.
PARAMETERS = {
    "sd": {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480},
    "sdxl": {
        "unet": 2_567_463_684,
        "vae": 83_653_863,
        "text_encoder": 123_060_480,
        "text_encoder_2": 694_659_840,
    },
}


@pytest.fixture(scope="module")
def states():
    """kind -> the tiny model's tensors under their original names."""
    return {kind: original_state(tiny_backbone(kind=kind).pipeline()) for kind in ("sd", "sdxl")}


@pytest.fixture
def tiny_layouts(monkeypatch, tmp_path):
    use_tiny_layouts(monkeypatch, tmp_path / "layouts")


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("diffusers.loaders.single_file.snapshot_download", refuse)
    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_it_draws_the_same_picture_as_the_folder(states, tiny_layouts, tmp_path, capfd, kind):
    path = tmp_path / "model.safetensors"
    save_file(states[kind], path)
    # In double precision: in single, a value in ten thousand is rounded the other way where weights
    # begin at another place in memory.
    backbone = load("cpu", torch.float64, path)
    assert describe(find_model(str(path))).architecture == kind
    assert backbone.info.revision == "local"
    assert backbone.info.sha256 == hash_file(path)  # what A1111 shows ten digits of
    assert "float32" not in capfd.readouterr().err  # diffusers warns of nothing at all
    folder = tiny_backbone(kind=kind, dtype=torch.float64)
    ours, theirs = (
        sample(model, "a photo of a person", [4], steps=2, negative_prompt="dark", size=(64, 96))
        for model in (backbone, folder)
    )
    assert (ours[0] == theirs[0]).all()
    for module in (backbone.unet, backbone.vae, *backbone.text_encoders):
        assert not any(parameter.requires_grad for parameter in module.parameters())


def test_precision_is_the_one_that_was_asked_for(states, tiny_layouts, tmp_path):
    path = tmp_path / "half.safetensors"
    save_file({key: value.half() for key, value in states["sdxl"].items()}, path)
    backbone = load("cpu", torch.bfloat16, path)
    for module in (backbone.unet, backbone.vae, *backbone.text_encoders):
        assert {parameter.dtype for parameter in module.parameters()} == {torch.bfloat16}
    _, modules = single_file.read_checkpoint(path, torch.float16)
    assert modules["unet"].dtype == torch.float16
    assert modules["vae"].dtype == torch.float32  # overflows in half


@pytest.mark.parametrize(
    ("metadata", "extra", "yaml", "expected"),
    [
        ({}, (), "", (False, False)),
        ({"modelspec.prediction_type": "v"}, (), "", (True, False)),
        ({"modelspec.prediction_type": "epsilon"}, (), 'parameterization: "v"', (False, False)),
        ({}, ("v_pred",), "", (True, False)),
        ({}, ("v_pred", "ztsnr"), "", (True, True)),
        ({}, (), 'model:\n  params:\n    parameterization: "v"\n', (True, False)),
        ({}, (), "model:\n  params:\n    parameterization: eps\n", (False, False)),
    ],
)
def test_what_a_file_says_of_its_prediction(
    states, tiny_layouts, tmp_path, metadata, extra, yaml, expected
):
    path = tmp_path / "model.safetensors"
    state = states["sdxl"] | {name: torch.zeros(0) for name in extra}
    save_file(state, path, metadata)
    if yaml:
        path.with_suffix(".yaml").write_text(yaml)
    assert single_file.what_it_predicts(path) == expected
    backbone = load("cpu", torch.float32, path)
    assert backbone.info.prediction_type == ("v_prediction" if expected[0] else "epsilon")
    last = backbone.scheduler.alphas_cumprod[-1].item()
    assert last == pytest.approx(0 if expected[1] else 0.00466, abs=1e-4)
    assert sample(backbone, "a photo", [1], steps=2)[0].std() > 0


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_schedulers_of_the_published_kinds(tmp_path, capfd, kind):
    """From the package's own configuration: SD1.5's scheduler knows no zero terminal SNR."""
    path, layout = tmp_path / "model.safetensors", single_file.LAYOUTS / kind
    save_file({"v_pred": torch.zeros(0)}, path)
    own = single_file.checkpoint_scheduler(path, layout)
    expected = {"sd": "PNDMScheduler", "sdxl": "EulerDiscreteScheduler"}[kind]
    assert type(own).__name__ == expected
    save_file({"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}, path)
    zero = single_file.checkpoint_scheduler(path, layout)
    assert type(zero).__name__ == "EulerDiscreteScheduler"
    assert zero.config.timestep_spacing == "trailing"
    for scheduler in (own, zero):
        assert scheduler.config.prediction_type == "v_prediction"
        assert scheduler.config.beta_schedule == "scaled_linear"
    assert own.alphas_cumprod[-1].item() == pytest.approx(0.00466, abs=1e-4)
    assert zero.alphas_cumprod[-1].item() < 1e-6
    assert "expected" not in capfd.readouterr().err  # diffusers warns of no key


def _without(state, *starts):
    return {key: value for key, value in state.items() if not key.startswith(starts)}


def _only(state, start):
    return {key.removeprefix(start): v for key, v in state.items() if key.startswith(start)}


def _picture(backbone):
    return sample(backbone, "a photo of a person", [4], steps=2)[0]


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
@pytest.mark.parametrize("inside", [True, False])
def test_a_vae_in_a_file_beside_the_model_goes_first(states, tiny_layouts, tmp_path, kind, inside):
    """As in A1111: NAME.vae.safetensors, whatever the tensors begin with.

    In double precision, as above.
    """
    path, beside = tmp_path / "v1.5.safetensors", tmp_path / "v1.5.vae.safetensors"
    state = states[kind]
    save_file(state if inside else _without(state, "first_stage_model."), path)
    if not inside:
        with pytest.raises(UsageError, match=r"no autoencoder.*v1\.5\.vae\.safetensors"):
            describe(find_model(path))
    vae = _only(state, "first_stage_model.")
    save_file(vae, beside)
    plain = _picture(tiny_backbone(kind=kind, dtype=torch.float64))
    first = load("cpu", torch.float64, path)
    assert (_picture(first) == plain).all()
    key = backbone_facts(choose_backbone(str(path))[0], str(path)).weights_key

    brighter = {**vae, "decoder.conv_out.bias": vae["decoder.conv_out.bias"] + 0.5}
    save_file({f"first_stage_model.{name}": value for name, value in brighter.items()}, beside)
    other = load("cpu", torch.float64, path)
    assert _picture(other).mean() > plain.mean() + 20
    assert len({other.info.sha256, first.info.sha256, hash_file(path)}) == 3
    assert backbone_facts(choose_backbone(str(path))[0], str(path)).weights_key != key

    for wrong in ({"emb_params": torch.ones(1, 4)}, _without(vae, "decoder.mid")):
        save_file(wrong, beside)
        with pytest.raises(UsageError, match=r"v1\.5\.vae\.safetensors' (lacks|cannot be read)"):
            load("cpu", torch.float64, path)


def test_of_weights_that_are_there_twice_the_plain_ones_are_read(
    states, tiny_layouts, tmp_path, capfd
):
    """``model_ema.`` as CompVis' trainer writes it, and what A1111 and ComfyUI make of it."""
    state = dict(states["sd"])
    for key, value in _only(states["sd"], "model.").items():
        state["model_ema." + key.replace(".", "")] = torch.zeros_like(value)
    state |= {"model_ema.decay": torch.tensor(0.99), "model_ema.num_updates": torch.tensor(7)}
    assert sum(key.startswith("model_ema.") for key in state) > 100
    save_file(state, tmp_path / "full.safetensors")
    backbone = load("cpu", torch.float32, tmp_path / "full.safetensors")
    assert (_picture(backbone) == _picture(tiny_backbone())).all()
    assert "ema" not in capfd.readouterr().err


def test_a_text_encoder_under_its_older_names(states, tiny_layouts, tmp_path):
    """Without ``text_model``, as some models of 2022 have it."""
    new = "cond_stage_model.transformer.text_model."
    state = {
        key.replace(new, "cond_stage_model.transformer."): v for key, v in states["sd"].items()
    }
    assert not any(key.startswith(new) for key in state)
    save_file(state, tmp_path / "old.safetensors")
    backbone = load("cpu", torch.float32, tmp_path / "old.safetensors")
    assert (_picture(backbone) == _picture(tiny_backbone())).all()


def test_a_half_precision_file_of_each_kind(states, tiny_layouts, tmp_path):
    """What most people have; in single precision it draws what its rounded weights draw."""
    for kind, state in states.items():
        path = tmp_path / f"{kind}.safetensors"
        save_file({k: v.half() if v.is_floating_point() else v for k, v in state.items()}, path)
        backbone = load("cpu", torch.float32, path)
        plain = tiny_backbone(kind=kind)
        with torch.no_grad():
            for module in (plain.unet, plain.vae, *plain.text_encoders):
                for parameter in module.parameters():
                    parameter.copy_(parameter.half())
        difference = _picture(backbone).astype(int) - _picture(plain).astype(int)
        assert abs(difference).max() <= 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: {"lora_unet_x.lora_up.weight": torch.zeros(2)}, "is a LoRA"),
        (lambda s: {"emb_params": torch.zeros(2, 4)}, "is an embedding"),
        (lambda s: _without(s, "model.diffusion_model"), "no UNet"),
        (lambda s: _without(s, "cond_stage_model"), "no text encoder"),
        (lambda s: _without(s, "first_stage_model"), r"has no autoencoder \(VAE\)"),
        (
            lambda s: _without(s, "first_stage_model.decoder.up.0"),
            "lacks .* tensors of its vae|lacks some of the tensors",
        ),
        (
            lambda s: _without(s, "model.diffusion_model.middle_block.1.norm"),
            "lacks some of the tensors of Stable Diffusion 1.5",
        ),
        (
            lambda s: _without(s, "cond_stage_model.transformer.text_model.final_layer_norm"),
            "lacks 2 tensors of its text_encoder, such as final_layer_norm",
        ),
        (
            lambda s: s | {UNET_INPUT: torch.zeros(8, 9, 3, 3)},
            "takes 9 channels",
        ),
        (
            lambda s: {"model.diffusion_model.joint_blocks.0.x_block.mlp.w": s[UNET_INPUT]},
            "another kind: Stable Diffusion 3",
        ),
        (lambda s: {"double_blocks.0.img_attn.qkv.weight": s[UNET_INPUT]}, "another kind: Flux"),
        (lambda s: {**s, "edm_mean": torch.ones(4)}, "EDM"),
        (lambda s: {"control_model.time_embed.0.weight": s[UNET_INPUT]}, "is a ControlNet"),
        (lambda s: _only(s, "first_stage_model."), r"is an autoencoder \(VAE\).*NAME.vae.safet"),
        (lambda s: dict(tiny_backbone().unet.state_dict()), "one part of a model.*model_index"),
        (lambda s: _only(s, "cond_stage_model.transformer."), "is a text encoder"),
        (
            lambda s: _without(s, "cond_stage_model") | {"cond_stage_model.model.x": torch.ones(1)},
            "Stable Diffusion 2's kind",
        ),
        (
            lambda s: _without(s, "cond_stage_model")
            | {"conditioner.embedders.0.model.x": torch.ones(1)},
            "refiner",
        ),
    ],
)  # fmt: skip
def test_what_is_no_whole_model_is_named(states, tiny_layouts, tmp_path, change, words):
    path = tmp_path / "some.safetensors"
    save_file(change(states["sd"]), path)
    with pytest.raises(UsageError, match=words) as raised:
        load("cpu", torch.float32, path)
    assert "some.safetensors" in str(raised.value)


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "cut.safetensors"
    path.write_bytes(b"\x10\0\0\0\0\0\0\0{")
    with pytest.raises(UsageError, match="not a whole"):
        describe(find_model(path))
    with pytest.raises(MissingResourceError, match="no such folder"):
        find_model("nowhere/gone.safetensors")


@pytest.mark.parametrize("kind", PARAMETERS)
def test_the_packages_configurations_are_those_of_the_published_models(kind):
    from accelerate import init_empty_weights
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    classes = {
        "unet": UNet2DConditionModel,
        "vae": AutoencoderKL,
        "text_encoder": CLIPTextModel,
        "text_encoder_2": CLIPTextModelWithProjection,
    }
    for part, expected in PARAMETERS[kind].items():
        folder, made = single_file.LAYOUTS / kind / part, classes[part]
        with init_empty_weights():
            if part in ("unet", "vae"):
                model = made.from_config(made.load_config(folder))
            else:
                model = made(made.config_class.from_pretrained(folder))
        assert sum(parameter.numel() for parameter in model.parameters()) == expected, part


def test_clips_tokenizer():
    """Ids that every user of CLIP knows; SDXL's second tokenizer pads with another one."""
    tokenizer = clip_tokenizer()
    assert len(tokenizer) == 49408
    ids = tokenizer("a photo of a cat", padding="max_length").input_ids
    assert ids[:8] == [49406, 320, 1125, 539, 320, 2368, 49407, 49407]
    assert len(ids) == tokenizer.model_max_length == 77
    second = clip_tokenizer(pad_token="!")
    assert second("a photo of a cat", padding="max_length").input_ids[6:9] == [49407, 0, 0]
    assert tokenizer("A  Photo\nOF A cat").input_ids == tokenizer("a photo of a cat").input_ids
    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == "a photo of a cat"
