"""Files of other programs mean the same picture here as there, in float32."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file

from mcap.errors import UsageError
from mcap.generation import generate
from mcap.generation.extra_networks import ExtraNetworks, read_extra_networks, weighted
from mcap.generation.settings import GenerateSettings
from mcap.images import provenance
from mcap.subjects.lora_keys import layers_by_flat_name, layers_per_block, sgm_names
from mcap_plugins.stable_diffusion import single_file
from tests.support.foreign_files import (
    PROMPT,
    chosen,
    difference,
    flat_layers,
    kohya,
    merged,
    picture,
    pipeline,
    write,
)
from tests.support.subjects import make_profile, make_subject, models
from tests.support.tiny import tiny_backbone, tiny_folder

ATTENTION = ("attn2_to", "attn1_to", "self_attn")
EVERYTHING = ("",)


# Between pictures that differ in the order of float32 sums alone; 1.1e-5 was seen on a CPU with
# AVX2. What a file adds is a hundred times as much.
SAME = 3e-5


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    return make_subject(tmp_path_factory.mktemp("subject") / "jane.mcap")


@pytest.fixture(scope="module")
def bare(subject):
    """A subject that adds nothing, so that a picture shows the file alone."""
    return replace(
        subject, adapter=None, manifest=subject.manifest.model_copy(update={"tokens": []})
    )


def drawn(bare, networks: ExtraNetworks, prompt: str = PROMPT, negative=None, kind: str = "sd"):
    found = pipeline(kind)
    networks.load_into(found, bare)
    return picture(found, networks.expand(prompt), negative and networks.expand(negative))


# LoRA files


@pytest.mark.parametrize(
    ("words", "rank", "alpha"),
    [
        pytest.param(ATTENTION, lambda i: 4, lambda i: 1.0, id="alpha 1, rank 4"),
        pytest.param(ATTENTION, lambda i: 4, lambda i: 1.0 + i % 3, id="alphas differ"),
        pytest.param(ATTENTION, lambda i: 2 + i % 3, lambda i: 2.0, id="ranks differ"),
        pytest.param(ATTENTION, lambda i: 2 + i % 3, lambda i: 1.0 + i % 2, id="both differ"),
        pytest.param(ATTENTION, lambda i: 4, lambda i: None, id="no alpha"),
        pytest.param(ATTENTION, lambda i: 4, lambda i: i % 2 or None, id="some without alpha"),
        pytest.param(("lora_te_",), lambda i: 4, lambda i: 1.0 + i % 3, id="text encoder alone"),
        pytest.param(EVERYTHING, lambda i: 2, lambda i: 1.0, id="every layer, convolutions too"),
    ],
)
def test_kohyas_files(bare, tmp_path, words, rank, alpha):
    layers = chosen(flat_layers(pipeline()), words)
    assert len(layers) > 8
    state = kohya(layers, rank=rank, alpha=alpha)
    path = write(tmp_path / "theirs.safetensors", state, {"ss_network_alpha": "1"})
    expected = picture(merged(pipeline(), state, 0.7))
    found = drawn(bare, read_extra_networks(loras=[f"{path}:0.7"]))
    assert difference(found, expected) < SAME
    assert difference(picture(pipeline()), expected) > 1e-2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_files(bare, tmp_path, dtype):
    """They mean their rounded values, computed in single precision."""
    layers = chosen(flat_layers(pipeline()), ["attn2_to", "lora_te_"])
    state = {key: value.to(dtype) for key, value in kohya(layers, alpha=lambda i: 2.0).items()}
    path = write(tmp_path / "half.safetensors", state)
    expected = picture(merged(pipeline(), {key: value.float() for key, value in state.items()}))
    assert difference(drawn(bare, read_extra_networks(loras=[str(path)])), expected) < SAME
    found = tiny_backbone(dtype=torch.bfloat16).pipeline()
    read_extra_networks(loras=[str(path)]).load_into(found, bare)
    assert {p.dtype for n, p in found.unet.named_parameters() if "lora_" not in n} == {
        torch.bfloat16
    }


def test_other_names_for_the_same_layers(bare, tmp_path):
    """OneTrainer calls SD1.5's text encoder te1; some files have SDXL's blocks as diffusers does,
    or SD1.5's as the original code does."""
    state = kohya(chosen(flat_layers(pipeline()), ["attn2_to", "lora_te_"]), alpha=lambda i: 1.0)
    expected = picture(merged(pipeline(), state))
    original = sgm_names(dict(pipeline().unet.named_modules()), 1)
    flat_original = {
        "lora_unet_" + name.replace(".", "_"): "lora_unet_" + other.replace(".", "_")
        for name, other in original.items()
    }
    renamed = {
        flat_original.get(key.split(".")[0], key.split(".")[0].replace("lora_te_", "lora_te1_"))
        + key[key.index(".") :]: value
        for key, value in state.items()
    }
    assert any("input_blocks" in key for key in renamed)
    path = write(tmp_path / "theirs.safetensors", renamed)
    assert difference(drawn(bare, read_extra_networks(loras=[str(path)])), expected) < SAME

    sdxl = pipeline("sdxl")
    state = kohya(chosen(flat_layers(sdxl), ["attn2_to"]), alpha=lambda i: 1.0)
    path = write(tmp_path / "theirs.safetensors", _named_as_in_diffusers(state, sdxl))
    expected = picture(merged(sdxl, state))
    assert (
        difference(drawn(bare, read_extra_networks(loras=[str(path)]), kind="sdxl"), expected)
        < SAME
    )


def _named_as_in_diffusers(state: dict, sdxl) -> dict:
    modules = {module: name for name, module in sdxl.unet.named_modules()}
    names = {
        name: "lora_unet_" + modules[layer].replace(".", "_")
        for name, layer in flat_layers(sdxl).items()
        if layer in modules
    }
    renamed = {names[key.split(".")[0]] + key[key.index(".") :]: v for key, v in state.items()}
    assert any("down_blocks" in key for key in renamed) and not state.keys() & renamed.keys()
    return renamed


# What kohya's sd-scripts prints that it makes with its default targets: the layers of the UNet's
# transformers, and attention and MLP of the text encoders.
KOHYA_COUNTS = {"sd": {"unet": 192, "te": 72}, "sdxl": {"unet": 722, "te1": 72, "te2": 192}}
_TEXT_NAMES = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}


def full_size(kind: str) -> SimpleNamespace:
    """UNet and text encoders of the published model, without values."""
    from accelerate import init_empty_weights
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    layout = single_file.LAYOUTS / kind
    classes = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
    with init_empty_weights():
        config = UNet2DConditionModel.load_config(layout / "unet")
        parts = {"unet": UNet2DConditionModel.from_config(config)}
        for part, made in classes.items():
            if (layout / part).is_dir():
                parts[part] = made(made.config_class.from_pretrained(layout / part))
    return SimpleNamespace(**parts)


@pytest.mark.parametrize("kind", KOHYA_COUNTS)
def test_names_of_the_published_models(kind):
    """As many as kohya's sd-scripts counts, and diffusers reads each as the layer that it is here.

    Which names AUTOMATIC1111 and ComfyUI look up is written in docs/export.md.
    """
    from diffusers.loaders import StableDiffusionXLLoraLoaderMixin

    model = full_size(kind)
    places = layers_by_flat_name(model)
    pattern = (
        r"lora_te(1?|2)_text_model_encoder_layers_\d+_(self_attn|mlp)_.*"
        r"|lora_unet_(down|up|mid)_blocks?_(\d+_)?attentions_.*"
    )
    if kind == "sdxl":
        pattern = (
            r"lora_te[12]_text_model_encoder_layers_\d+_(self_attn|mlp)_.*"
            r"|lora_unet_(input|output|middle)_blocks?_(\d+_)?1_(proj|transformer)_.*"
        )
    else:
        pattern = pattern.replace("(1?|2)", "")
    names = [name for name in places if re.fullmatch(pattern, name)]
    assert Counter(name.split("_")[1] for name in names) == KOHYA_COUNTS[kind]

    state = {
        f"{name}.{part}.weight": torch.zeros(1, 1)
        for name in names
        for part in ("lora_down", "lora_up")
    }
    read, _ = StableDiffusionXLLoraLoaderMixin.lora_state_dict(state, unet_config=model.unet.config)
    found = set()
    for key in read:
        key = key.replace(".processor", "").replace("to_out_lora", "to_out.0_lora")
        found.add(re.sub(r"(_lora|\.lora|\.lora_linear_layer)\.(down|up)\.weight", "", key))
    expected = set()
    for name in names:
        target = places[name][0]
        if target.startswith("text_encoder"):
            module, _, last = target.rpartition(".")
            target = f"{module}.{_TEXT_NAMES.get(last, last)}".replace("to_out", "to_out.0")
        expected.add(target)
    assert found == expected


def test_sdxls_files(bare, tmp_path):
    """The UNet's layers have their original names, and there are two text encoders."""
    state = kohya(chosen(flat_layers(pipeline("sdxl")), EVERYTHING), alpha=lambda i: 1 + i % 3)
    names = " ".join(state)
    blocks = ("input_blocks_3_1_", "middle_block_1_", "output_blocks_0_1_")
    for word in (*blocks, "lora_te1_text_model_", "lora_te2_text_projection"):
        assert word in names
    expected = picture(merged(pipeline("sdxl"), state, 0.2))
    path = write(tmp_path / "theirs.safetensors", state)
    assert (
        difference(drawn(bare, read_extra_networks(loras=[f"{path}:0.2"]), kind="sdxl"), expected)
        < SAME
    )
    with pytest.raises(UsageError, match="no place in this backbone, such as lora_"):
        drawn(bare, read_extra_networks(loras=[str(path)]))


@pytest.mark.parametrize(
    ("name", "original"),
    [
        ("conv_in", "input_blocks.0.0"),
        ("down_blocks.0.resnets.1.conv2", "input_blocks.2.0.out_layers.3"),
        ("down_blocks.1.attentions.0.proj_in", "input_blocks.4.1.proj_in"),
        ("down_blocks.1.downsamplers.0.conv", "input_blocks.6.0.op"),
        ("down_blocks.2.attentions.1.proj_out", "input_blocks.8.1.proj_out"),
        ("mid_block.attentions.0.proj_in", "middle_block.1.proj_in"),
        ("mid_block.resnets.1.conv1", "middle_block.2.in_layers.2"),
        ("up_blocks.0.attentions.2.proj_in", "output_blocks.2.1.proj_in"),
        ("up_blocks.1.upsamplers.0.conv", "output_blocks.5.2.conv"),
        ("up_blocks.2.resnets.0.conv_shortcut", "output_blocks.6.0.skip_connection"),
        ("down_blocks.0.resnets.0.norm1", "input_blocks.1.0.in_layers.0"),
    ],
)
def test_names_of_the_full_sdxl(name, original):
    """Two layers a block; the tiny model has one. From the published checkpoint's keys."""
    others = ["up_blocks.0.attentions.2.proj_in", "up_blocks.1.attentions.0.proj_in"]
    assert sgm_names([name, *others], 2).get(name) == original
    assert layers_per_block(others) == 2


def test_two_files_each_at_its_strength(bare, tmp_path):
    """One of them is for the text encoder alone, the other for the UNet."""
    layers = flat_layers(pipeline())
    first = kohya(chosen(layers, ["attn2_to"]), alpha=lambda i: 1 + i % 2)
    second = kohya(chosen(layers, ["lora_te_"]), alpha=lambda i: 2.0, seed=2)
    paths = [write(tmp_path / f"{i}.safetensors", s) for i, s in enumerate((first, second))]
    expected = picture(merged(merged(pipeline(), first, -0.5), second, 0.25))
    found = drawn(bare, read_extra_networks(loras=[f"{paths[0]}:-0.5", f"{paths[1]}:0.25"]))
    assert difference(found, expected) < SAME


def _diffusers_names(state: dict, style: str, alphas: bool = False) -> dict:
    """A kohya-named file of the UNet's attention as diffusers has named it over the years."""
    down, up = {
        "peft": (".lora_A.weight", ".lora_B.weight"),
        "diffusers": (".lora.down.weight", ".lora.up.weight"),
    }[style]
    modules = {
        "lora_unet_" + name.replace(".", "_"): f"unet.{name}"
        for name, _ in pipeline().unet.named_modules()
    }
    parts = {"lora_down.weight": down, "lora_up.weight": up}
    if alphas:
        parts["alpha"] = ".alpha"
    return {
        modules[name] + parts[part]: value
        for (name, _, part), value in ((key.partition("."), value) for key, value in state.items())
        if part in parts
    }


@pytest.mark.parametrize("style", ["peft", "diffusers"])
def test_diffusers_files(bare, tmp_path, style):
    """Without metadata alpha is the rank; with it, what it says."""
    state = kohya(chosen(flat_layers(pipeline()), ["attn2_to"]), alpha=lambda i: None)
    path = write(tmp_path / "theirs.safetensors", _diffusers_names(state, style))
    found = drawn(bare, read_extra_networks(loras=[str(path)]))
    assert difference(found, picture(merged(pipeline(), state))) < SAME
    if style == "peft":
        targets = ["attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0"]
        config = {"unet.r": 4, "unet.lora_alpha": 1, "unet.target_modules": targets}
        write(path, _diffusers_names(state, style), {"lora_adapter_metadata": json.dumps(config)})
        expected = picture(merged(pipeline(), state, 1 / 4))
        assert difference(drawn(bare, read_extra_networks(loras=[str(path)])), expected) < SAME


def test_alphas_beside_diffusers_names(bare, tmp_path):
    """diffusers refuses such a file; here it means what kohya's alphas mean."""
    state = kohya(
        chosen(flat_layers(pipeline()), ["attn2_to"]),
        alpha=lambda i: 1.0 + i % 3,
        rank=lambda i: 2 + i % 2,
    )
    expected = picture(merged(pipeline(), state))
    for style in ("peft", "diffusers"):
        whole = _diffusers_names(state, style, alphas=True)
        path = write(tmp_path / "theirs.safetensors", whole)
        assert difference(drawn(bare, read_extra_networks(loras=[str(path)])), expected) < SAME
    for extra, metadata, words in (
        ({"unet.nowhere.alpha": torch.tensor(1.0)}, None, "nowhere.alpha belongs to no layer"),
        ({}, {"lora_adapter_metadata": "{}"}, "alphas twice"),
    ):
        write(path, {**whole, **extra}, metadata)
        with pytest.raises(UsageError, match=words):
            read_extra_networks(loras=[str(path)]).load_into(pipeline(), bare)


# Formulas as in comfy/weight_adapter and A1111's extensions-builtin/Lora, once more, on one layer:
# shape of a weight -> (the file's parts, the change of the weight from them and the weight).


def _random(*shape: int) -> torch.Tensor:
    return 0.5 * torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def _loha(out: int, *inside: int):
    width, r = int(np.prod(inside)), 2
    a, b, c, d = _random(out, r), _random(r, width), 2 * _random(out, r), _random(r, width) + 0.1
    parts = {"hada_w1_a": a, "hada_w1_b": b, "hada_w2_a": c, "hada_w2_b": d}
    whole = (a @ b) * (c @ d) * 3 / r
    return parts | {"alpha": torch.tensor(3.0)}, lambda _: whole.reshape(out, *inside)


def _lokr(out: int, *inside: int):
    first, (a, b) = _random(2, 2), (_random(out // 2, 3), _random(3, inside[0] // 2, *inside[1:]))
    parts = {"lokr_w1": first, "lokr_w2_a": a, "lokr_w2_b": b, "alpha": torch.tensor(1.0)}
    second = torch.einsum("or,r...->o...", a, b)
    blocks = [torch.cat([first[i, j] * second for j in (0, 1)], dim=1) for i in (0, 1)]
    return parts, lambda _: torch.cat(blocks) / 3


def _plain(out: int, *inside: int):
    up, down = _random(out, 3), _random(3, *inside) + 0.1
    parts = {"lora_up.weight": up, "lora_down.weight": down, "alpha": torch.tensor(2.0)}
    return parts, lambda _: torch.einsum("or,r...->o...", up, down) * 2 / 3


def _dora(out: int, *inside: int, by_output: bool):
    parts, plain = _plain(out, *inside)
    size = out if by_output else inside[0]
    ones = [1] * len(inside[1:])
    shape = (out, 1, *ones) if by_output else (1, inside[0], *ones)
    scale = (_random(size).abs() + 0.5).reshape(shape)

    def change(weight: torch.Tensor) -> torch.Tensor:
        whole = (weight + plain(weight)).clone()
        for index in range(size):
            row = whole[index] if by_output else whole[:, index]
            row *= scale.flatten()[index] / row.pow(2).sum().sqrt()
        return whole - weight

    return parts | {"dora_scale": scale}, change


def _ia3(out: int, *inside: int):
    factors = _random(inside[0])
    parts = {"weight": factors, "on_input": torch.tensor(True)}
    return parts, lambda weight: weight * factors.reshape(1, -1, *[1] * len(inside[1:]))


def _full(out: int, *inside: int):
    change = _random(out, *inside)
    return {"diff": change}, lambda _: change


def _tucker(out: int, *inside: int):
    kernel = inside[1:]
    up, down, mid = _random(out, 3), _random(3, inside[0]) + 0.1, _random(3, 3, *kernel)
    ones = [1] * len(kernel)
    parts = {
        "lora_up.weight": up.reshape(out, 3, *ones),
        "lora_down.weight": down.reshape(3, inside[0], *ones),
        "lora_mid.weight": mid,
    }
    change = sum(
        up[:, a].reshape(-1, 1, *ones) * mid[a, b] * down[b].reshape(1, -1, *ones)
        for a in range(3)
        for b in range(3)
    )
    return parts, lambda _: change


def _rotation(q: torch.Tensor) -> torch.Tensor:
    one = torch.eye(len(q))
    return (one + q) @ torch.inverse(one - q)


def _oft(out: int, *inside: int):
    blocks = 0.3 * _random(out // 4, 4, 4)

    def change(weight: torch.Tensor) -> torch.Tensor:
        turned = [
            torch.einsum("nm,n...->m...", _rotation(q), rows)
            for q, rows in zip(blocks - blocks.mT, weight.split(4), strict=True)
        ]
        return torch.cat(turned) - weight

    return {"oft_blocks": blocks, "alpha": torch.tensor(0.0)}, change


def _boft(out: int, *inside: int):
    """Two factors over pairs of outputs: next to each other, and two apart."""
    blocks = 0.3 * _random(2, out // 2, 2, 2)
    scale = 1 + 0.2 * _random(out).reshape(-1, *[1] * len(inside))

    def change(weight: torch.Tensor) -> torch.Tensor:
        turned = weight.clone()
        for level, factors in enumerate(blocks - blocks.mT):
            first = [row for row in range(out) if not row & 2**level]
            for q, row in zip(factors, first, strict=True):
                pair = [row, row + 2**level]
                turned[pair] = torch.einsum("ij,j...->i...", _rotation(q), turned[pair])
        return scale * turned - weight

    return {"oft_blocks": blocks, "rescale": scale, "alpha": torch.tensor(0.0)}, change


def _onetrainers_oft(out: int, *inside: int):
    """One block for all; with kernels it turns the weights, else what comes in."""
    above = 0.3 * _random(1, 6)
    q = torch.zeros(4, 4)
    q[tuple(torch.triu_indices(4, 4, 1))] = above[0]
    q = q - q.T
    r = torch.eye(4) + 2 * q + 2 * q @ q + 2 * q @ q @ q + q @ q @ q @ q

    def change(weight: torch.Tensor) -> torch.Tensor:
        turn = r.T if weight.ndim == 2 else r
        return (weight.reshape(-1, 4) @ turn).reshape(weight.shape) - weight

    return {"oft_R.weight": above}, change


OTHER_KINDS = {
    "Diag-OFT": _oft,
    "BOFT": _boft,
    "OneTrainer's OFT": _onetrainers_oft,
    "LoHa": _loha,
    "LoKr": _lokr,
    "DoRA, a magnitude an input": lambda *size: _dora(*size, by_output=False),
    "DoRA, a magnitude an output": lambda *size: _dora(*size, by_output=True),
    "Tucker": _tucker,
    "IA3": _ia3,
    "full difference": _full,
}


@pytest.mark.parametrize("kind", OTHER_KINDS)
@pytest.mark.parametrize("words", [("attn2_to_q", "self_attn_q"), ("resnets_0_conv1",)])
def test_other_kinds_of_files_are_applied(bare, tmp_path, kind, words):
    layers = chosen(flat_layers(pipeline()), words)
    if kind == "Tucker":  # of kernels alone
        layers = chosen(flat_layers(pipeline()), ["resnets_0_conv1"])
    state, changes = {}, {}
    for name, layer in layers.items():
        parts, changes[name] = OTHER_KINDS[kind](*layer.weight.shape)
        state |= {f"{name}.{part}": value for part, value in parts.items()}
    path = write(tmp_path / "theirs.safetensors", state)
    found = drawn(bare, read_extra_networks(loras=[f"{path}:0.5"]))
    plain = pipeline()
    with torch.no_grad():
        for name, layer in flat_layers(plain).items():
            if name in changes:
                layer.weight += 0.5 * changes[name](layer.weight.clone())
    expected = picture(plain)
    assert difference(found, expected) < SAME
    assert difference(picture(pipeline()), expected) > 1e-3


@pytest.mark.parametrize("prefix", ["oft_unet_", "lycoris_"])
def test_other_prefixes_of_the_unet(bare, tmp_path, prefix):
    """sd-scripts' OFT and LyCORIS' own wrapper."""
    layers = chosen(flat_layers(pipeline()), ["attn2_to_q"])
    state = {
        f"{name}.{part}": value
        for name, layer in layers.items()
        for part, value in _oft(*layer.weight.shape)[0].items()
    }
    pictures = [
        drawn(
            bare, read_extra_networks(loras=[str(write(tmp_path / f"{index}.safetensors", keys))])
        )
        for index, keys in enumerate(
            (state, {key.replace("lora_unet_", prefix): value for key, value in state.items()})
        )
    ]
    assert np.array_equal(*pictures)


PEFTS = {
    "OFT": ("OFTConfig", {"oft_block_size": 4}),
    "OFT, exact": ("OFTConfig", {"oft_block_size": 4, "use_cayley_neumann": False}),
    "BOFT": ("BOFTConfig", {"boft_block_size": 4}),
}


@pytest.mark.parametrize("kind", PEFTS)
def test_files_that_peft_writes(bare, tmp_path, kind, monkeypatch):
    """A folder of peft's own with its configuration, and the same tensors in diffusers' names."""
    import peft
    from peft.tuners.boft import layer as boft_layer

    monkeypatch.setattr(boft_layer, "get_fbd_cuda", lambda: None)  # it would compile a program
    name, options = PEFTS[kind]
    theirs = pipeline()
    config = getattr(peft, name)(target_modules=["to_q", "to_k", "proj_in"], **options)
    model = peft.get_peft_model(theirs.unet, config)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if "oft_" in key and "boft_s" not in key:
                weight.copy_(0.3 * _random(*weight.shape))
    model.save_pretrained(tmp_path)
    expected = picture(theirs)
    path = tmp_path / "adapter_model.safetensors"
    found = drawn(bare, read_extra_networks(loras=[str(path)]))
    assert difference(found, expected) < SAME
    assert difference(picture(pipeline()), expected) > 1e-3
    if kind != "OFT, exact":  # which only the configuration says
        state = {
            key.replace("base_model.model.", "unet."): value
            for key, value in load_file(path).items()
        }
        (tmp_path / "alone").mkdir()
        alone = write(tmp_path / "alone" / "theirs.safetensors", state)
        assert difference(drawn(bare, read_extra_networks(loras=[str(alone)])), expected) < SAME
    if kind == "OFT":
        facts = json.loads((tmp_path / "adapter_config.json").read_text())
        for text, words in (
            (json.dumps(facts | {"coft": True}), "is COFT"),
            ("[]", "adapter_config.json cannot be read"),
            ("{", "adapter_config.json cannot be read"),
        ):
            (tmp_path / "adapter_config.json").write_text(text)
            with pytest.raises(UsageError, match=f"adapter_model.safetensors: .*{words}"):
                drawn(bare, read_extra_networks(loras=[str(path)]))


@pytest.mark.parametrize("down", [2, 4])
@pytest.mark.parametrize("up", [2, 4])
@pytest.mark.parametrize("words", [("attn2_to_q",), ("resnets_0_conv1",), ("proj_in",)])
def test_pairs_of_two_and_four_dimensions(bare, tmp_path, words, up, down):
    """DyLoRA writes a convolution's up with two; 1 x 1 kernels and linear layers either way."""
    state = kohya(chosen(flat_layers(pipeline()), words))
    expected = picture(merged(pipeline(), state))
    for key, value in state.items():
        flat = value.flatten(2) if value.ndim == 4 else value
        if ("lora_up" in key and up == 2) or ("lora_down" in key and down == 2):
            if value.ndim == 2 or flat.shape[2] == 1:
                state[key] = value.flatten(1)
        elif value.ndim == 2:
            state[key] = value[:, :, None, None]
    path = write(tmp_path / "theirs.safetensors", state)
    assert difference(drawn(bare, read_extra_networks(loras=[str(path)])), expected) < SAME


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_comfyuis_names_which_onetrainer_writes(bare, tmp_path, kind):
    """``model_lora_keys_unet`` and ``model_lora_keys_clip`` of its lora.py: module names of the
    original code with dots, ``diffusion_model.`` or ``text_encoders.clip_l.transformer.`` first."""
    state = kohya(chosen(flat_layers(pipeline(kind)), ["attn2_to", "self_attn", "resnets_0_conv1"]))
    expected = picture(merged(pipeline(kind), state, 0.3))
    dotted = {
        name.replace(".", "_"): name
        for part in ("unet", "text_encoder", "text_encoder_2")
        for name, _ in getattr(pipeline(kind), part, torch.nn.Module()).named_modules()
    }
    unet = pipeline(kind).unet
    original = sgm_names(dict(unet.named_modules()), unet.config.layers_per_block)
    renamed = {}
    for key, value in state.items():
        name, _, part = key.partition(".")
        if name.startswith("lora_unet_"):
            flat = name.removeprefix("lora_unet_")
            known = {other.replace(".", "_"): other for other in original.values()}
            begin = "diffusion_model." + (original[dotted[flat]] if flat in dotted else known[flat])
        else:
            number, flat = re.fullmatch(r"lora_te(\d?)_text_model_(.*)", name).groups()
            clip = "clip_g" if number == "2" else "clip_l"
            bare_name = dotted.get(flat) or dotted[f"text_model_{flat}"].removeprefix("text_model.")
            begin = f"text_encoders.{clip}.transformer.text_model.{bare_name}"
        part = part.replace("lora_down", "lora_A").replace("lora_up", "lora_B")
        renamed[f"{begin}.{part}"] = value
    path = write(tmp_path / "theirs.safetensors", renamed)
    found = drawn(bare, read_extra_networks(loras=[f"{path}:0.3"]), kind=kind)
    assert difference(found, expected) < SAME
    assert difference(picture(pipeline(kind)), expected) > 1e-3


def test_embeddings_in_a_lora_file(bare, tmp_path):
    """``bundle_emb.WORD.KEY`` of AUTOMATIC1111's networks.py; a prompt need not have the word."""
    state = kohya(chosen(flat_layers(pipeline()), ["attn2_to"]))
    layers = write(tmp_path / "layers.safetensors", state)
    word = write(tmp_path / "moody.safetensors", {"emb_params": rows(2)})
    apart = read_extra_networks(loras=[str(layers)], embeddings=[str(word)])
    for key in ("emb_params", "string_to_param.*"):
        both = write(tmp_path / "both.safetensors", state | {f"bundle_emb.moody.{key}": rows(2)})
        together = read_extra_networks(loras=[str(both)])
        text = "a moody photo of a person"
        assert together.expand(text) != text
        assert np.array_equal(drawn(bare, together, text), drawn(bare, apart, text))
        together.require_use(["a photo"], bare)


def test_what_is_refused(bare, tmp_path):
    layers = chosen(flat_layers(pipeline()), ["attn2_to"])
    plain = kohya(layers)
    name = next(iter(layers))
    wide = {**plain, f"{name}.lora_down.weight": torch.zeros(4, 2048)}
    cases = {
        "DoRA": {**plain, "unet.mid_block.x.dora_scale": torch.ones(8, 1)},
        "is not whole .hada_w1_a": {f"{name}.hada_w1_a": torch.ones(8, 4)},
        "is not whole .lokr_w1;": {f"{name}.lokr_w1": torch.ones(8, 4)},
        "another size .*4, 4, 4.* for a weight": {f"{name}.oft_blocks": torch.ones(4, 4, 4)},
        "another size .*for a weight of .8": {f"{name}.oft_blocks": torch.ones(4, 4)},
        "another size .*3, 6.*": {f"{name}.oft_R.weight": torch.ones(3, 6)},
        "OFT as peft wrote it before": {f"{name}.oft_r": torch.ones(2, 4, 4)},
        "OFT of outputs and OFT of inputs at once": {
            f"{name}.oft_blocks": torch.ones(2, 4, 4),
            f"{name}.oft_R.weight": torch.ones(2, 6),
        },
        "3 butterfly factors": {
            "unet.mid_block.attentions.0.proj_in.boft_R": torch.ones(3, 4, 4, 4),
            "unet.mid_block.attentions.0.proj_in.boft_s": torch.ones(16),
        },
        "pixels under a kernel": {
            "unet.conv_out.oft_R.weight": torch.ones(18, 6),
        },
        "peft alone .*": {
            "base_model.model.encoder.layers.0.q_proj.oft_R.weight": torch.ones(4, 6)
        },
        "differences of biases": {**plain, f"{name}.diff_b": torch.ones(8)},
        "another size .*for a weight": {f"{name}.diff": torch.ones(3, 5)},
        "GLoRA": {f"{name}.a1.weight": torch.ones(4, 8), f"{name}.b1.weight": torch.ones(8, 4)},
        "norms": {**plain, "lora_unet_conv_norm_out.w_norm": torch.ones(8)},
        "Flux": {
            "lora_unet_double_blocks_0_img_attn_proj.lora_down.weight": torch.ones(4, 8),
            "lora_unet_double_blocks_0_img_attn_proj.lora_up.weight": torch.ones(8, 4),
        },
        "of another size .*4, 4, 3, 3": {
            **plain,
            f"{name}.lora_mid.weight": torch.ones(4, 4, 3, 3),
        },
        "2 of its .* no place .* lora_te2_": {
            **plain,
            "lora_te2_x.lora_down.weight": torch.ones(4, 4),
            "lora_te2_x.lora_up.weight": torch.ones(4, 4),
            "lora_te2_y.lora_down.weight": torch.ones(4, 4),
            "lora_te2_y.lora_up.weight": torch.ones(4, 4),
        },
        "of another size .*2048": wide,
        "is not whole": {k: v for k, v in plain.items() if k != f"{name}.lora_down.weight"},
        "none of a plain LoRA's": {**plain, f"{name}.bias": torch.ones(8)},
        "peft alone": {"base_model.model.to_q.lora_A.weight": torch.ones(4, 8)},
        "holds no LoRA": {"model.diffusion_model.out.2.weight": torch.ones(4, 8)},
        "another kind of model": {
            "unet.nowhere.to_q.lora_A.weight": torch.ones(4, 8),
            "unet.nowhere.to_q.lora_B.weight": torch.ones(8, 4),
        },
        "does not fit": {
            "unet.mid_block.attentions.0.proj_in.lora_A.weight": torch.ones(4, 3, 1, 1),
            "unet.mid_block.attentions.0.proj_in.lora_B.weight": torch.ones(3, 4, 1, 1),
        },
    }
    found = pipeline()
    before = picture(found)
    for message, state in cases.items():
        path = write(tmp_path / "theirs.safetensors", state)
        with pytest.raises(UsageError, match=f"theirs.safetensors.*{message}"):
            read_extra_networks(loras=[str(path)]).load_into(found, bare)
    assert np.array_equal(picture(found), before)  # nothing of them stayed
    (tmp_path / "note.safetensors").write_text("not tensors")
    with pytest.raises(UsageError, match="cannot be read as"):
        read_extra_networks(loras=[str(tmp_path / "note.safetensors")]).load_into(found, bare)
    with pytest.raises(UsageError, match="there is no such file"):
        read_extra_networks(loras=[str(tmp_path / "nobody.safetensors:0.5")])


def test_weights_after_a_colon(tmp_path):
    (tmp_path / "a:1").touch()
    assert weighted("--lora", "x/film.safetensors:-0.5") == (Path("x/film.safetensors"), -0.5)
    for text in ("film.safetensors", "C:\\film.safetensors", str(tmp_path / "a:1")):
        path, weight = weighted("--lora", text)
        assert (str(path), weight) == (text, 1.0)
    for text in ("film:11", "film:nan"):
        with pytest.raises(UsageError, match="between -10 and 10"):
            weighted("--lora", text)


# Embeddings


def rows(count: int, width: int = 16, seed: int = 3) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("kohya.safetensors", {"emb_params": rows(3)}),
        ("diffusers.safetensors", {"<cat>": rows(3)}),
        ("one.safetensors", {"<cat>": rows(3)[0]}),
        ("a1111.pt", {"string_to_param": {"*": rows(3)}, "string_to_token": {"*": 265}, "step": 9}),
        ("learned.pt", {"string_to_param": {"*": torch.nn.Parameter(rows(3))}, "name": "x"}),
        (
            "first.pt",
            {
                "string_to_token": {"*": torch.tensor(265)},
                "string_to_param": torch.nn.ParameterDict({"*": torch.nn.Parameter(rows(3))}),
            },
        ),
        # Trainers put numpy's numbers beside the vectors.
        (
            "numbers.pt",
            {
                "string_to_param": {"*": rows(3)},
                "step": np.int64(9),
                "loss": np.float32(0.1),
                "losses": np.zeros(3),
            },
        ),
    ],
)
def test_embeddings(bare, tmp_path, name, state):
    """The picture is the one that plain diffusers draws with each vector as a word of its own."""
    path = tmp_path / name
    torch.save(state, path) if path.suffix == ".pt" else write(path, state)
    word = path.stem
    count = 1 if word == "one" else 3
    plain = pipeline()
    for index, row in enumerate(rows(3)[:count]):
        plain.load_textual_inversion({f"<plain{index}>": row})
    words = " ".join(f"<plain{index}>" for index in range(count))
    positive, negative = "a photo of {}, good", "dark, {}"
    expected = picture(plain, positive.format(words), negative.format(words))
    networks = read_extra_networks(embeddings=[str(path)])
    for written in (word, word.upper(), f"<{word}>", f"embedding:{word}"):
        texts = positive.format(written), negative.format(written)
        if written == word:
            assert difference(drawn(bare, networks, *texts), expected) < 1e-6
        assert [networks.expand(text) for text in texts] == [
            text.format(" ".join(networks.embeddings[0].tokens)) for text in (positive, negative)
        ]
    assert networks.expand(f"a {word}s, {word}-x, x{word}") == f"a {word}s, {word}-x, x{word}"
    assert difference(picture(pipeline(), positive.format("cat")), expected) > 1e-3


def test_several_vectors_in_both_of_sdxls_encoders(bare, tmp_path):
    """kohya's clip_l and clip_g, and what is refused where one of them is missing."""
    both = {"clip_l": rows(2, 16).half(), "clip_g": rows(2, 24, seed=4).half()}
    path = write(tmp_path / "moody.safetensors", both)
    plain = DiffusionPipeline.from_pretrained(tiny_folder(kind="sdxl"))
    for encoder, tokenizer, key in (
        (plain.text_encoder, plain.tokenizer, "clip_l"),
        (plain.text_encoder_2, plain.tokenizer_2, "clip_g"),
    ):
        for index, row in enumerate(both[key]):
            plain.load_textual_inversion(
                {f"<plain{index}>": row.float()},
                token=f"<plain{index}>",
                text_encoder=encoder,
                tokenizer=tokenizer,
            )
    # As ComfyUI and AUTOMATIC1111 do; plain diffusers pools at <plain1> unless it is told the end.
    assert plain.text_encoder_2.config.eos_token_id == 2
    elsewhere = picture(plain, "a photo, <plain0> <plain1>", "dark")
    plain.text_encoder_2.text_model.eos_token_id = plain.tokenizer_2.eos_token_id
    expected = picture(plain, "a photo, <plain0> <plain1>", "dark")
    assert difference(expected, elsewhere) > 1e-3
    networks = read_extra_networks(embeddings=[str(path)])
    assert difference(drawn(bare, networks, "a photo, moody", "dark", "sdxl"), expected) < 1e-6
    pivotal = {"text_encoders_0": both["clip_l"], "text_encoders_1": both["clip_g"]}
    other = read_extra_networks(embeddings=[str(write(tmp_path / "other.safetensors", pivotal))])
    for ours, theirs in zip(
        other.embeddings[0].vectors, networks.embeddings[0].vectors, strict=True
    ):
        assert torch.equal(ours, theirs)
    alone = write(tmp_path / "alone.safetensors", {"clip_l": both["clip_l"]})
    with pytest.raises(UsageError, match=r"16 values, .* take 16 and 24"):
        drawn(bare, read_extra_networks(embeddings=[str(alone)]), kind="sdxl")


def test_embeddings_that_are_refused(subject, bare, tmp_path):
    def given(name: str, state: dict) -> str:
        path = tmp_path / name
        torch.save(state, path) if path.suffix == ".pt" else write(path, state)
        return str(path)

    for message, path in {
        "no such file": str(tmp_path / "nothing.pt"),
        "is none of .safetensors, .pt, .bin": __file__,
        r"is not one embedding \(it holds a, b": given(
            "two.safetensors", {"a": rows(1), "b": rows(1)}
        ),
        "no rows": given("flat.safetensors", {"a": torch.ones(())}),
        "unlike numbers": given("xl.safetensors", {"clip_l": rows(1), "clip_g": rows(2)}),
        "cannot be read safely": given("code.pt", {"a": tmp_path}),
    }.items():
        with pytest.raises(UsageError, match=message):
            read_extra_networks(embeddings=[path])
    bad = given("bad.safetensors", {"a": rows(2, 32)})
    with pytest.raises(UsageError, match=r"32 values, .* take 16"):
        drawn(bare, read_extra_networks(embeddings=[bad]))
    (tmp_path / "else").mkdir()
    other = given("else/Bad.pt", {"a": rows(1)})
    with pytest.raises(UsageError, match=r"is that of .*bad"):
        read_extra_networks(embeddings=[bad, other])
    with pytest.raises(UsageError, match="'bad' is in no prompt"):
        read_extra_networks(embeddings=[bad]).require_use(["not bad-ish"], subject)
    own = read_extra_networks(embeddings=[given("mcap-id.safetensors", {"a": rows(1)})])
    with pytest.raises(UsageError, match="a token of the subject"):
        own.require_use(["a <mcap-id> person"], subject)


# Several subjects


def test_two_subjects_with_weights(subject, tmp_path):
    """The second subject's tokens are words of their own, and the LoRA layers add up.

    In double precision: in single, the order of the sums alone is a difference of 1e-6, on some
    processors more and on some less.
    """
    other = make_subject(tmp_path / "john.mcap", scale=0.2, seed=8)
    prompt = "a photo of a <mcap-id> person and a {id2} man, {style2} style"
    networks = read_extra_networks(companions=[f"{other.path}:0.5"])
    assert networks.fill(prompt) == prompt.format(id2="<mcap-id-2>", style2="<mcap-style-2>")
    found = pipeline().to(torch.float64)
    networks.load_into(found, subject, 0.75)
    ours = picture(found, networks.fill(prompt))
    number = found.tokenizer.convert_tokens_to_ids  # SDXL pools at the highest of a prompt
    assert max(map(number, networks.tokens)) < min(map(number, subject.embeddings))
    networks.unload_from(found, subject)
    assert np.array_equal(picture(found), picture(pipeline().to(torch.float64)))
    assert len(found.tokenizer) == len(pipeline().tokenizer)

    plain = pipeline().to(torch.float64)
    tokens = {"<mcap-id>": subject, "<mcap-id-2>": other, "<mcap-style-2>": other}
    for token, person in tokens.items():
        path = person.embeddings[token.replace("-2", "")]
        plain.load_textual_inversion(str(path), token=token)
    for name, person in (("jane", subject), ("john", other)):
        plain.load_lora_weights(
            str(person.path), weight_name="adapter.safetensors", adapter_name=name
        )
    plain.set_adapters(["jane", "john"], [0.75, 0.5])
    theirs = picture(plain, networks.fill(prompt))
    assert difference(ours, theirs) < 1e-7
    with pytest.raises(UsageError, match=r"\{id3\} belongs to no subject.*\{id2\}"):
        networks.fill("{id} and {id3}")


# In pictures


def test_pictures_say_what_they_were_drawn_with(subject, tmp_path):
    state = kohya(chosen(flat_layers(pipeline()), ["attn2_to"]))
    lora = write(tmp_path / "film.safetensors", state)
    word = write(tmp_path / "moody.safetensors", {"emb_params": rows(2)})
    networks = read_extra_networks([f"{subject.path}:0.5"], [f"{lora}:0.5"], [str(word)])

    def run(name: str, networks: ExtraNetworks | None, **settings):
        settings = GenerateSettings(count=1, **settings)
        events = generate(
            subject, make_profile(), models(tiny_backbone()), tmp_path / name, settings,
            extra_networks=networks,
        )  # fmt: skip
        *_, finished = events
        return finished.pictures[0]

    texts = {"prompts": ("{id} and {id2}, moody",), "negative": "dark"}
    first = run("a", networks, **texts)
    record = first.record
    assert record["prompt"] == "<mcap-id> and <mcap-id-2>, moody"
    assert record["loras"] == [{"name": "film", "sha256": networks.loras[0].sha256, "weight": 0.5}]
    assert record["embeddings"][0]["word"] == "moody" and record["embeddings"][0]["vectors"] == 2
    assert record["with"][0]["name"] == "jane" and record["with"][0]["weight"] == 0.5
    assert str(tmp_path).encode() not in first.path.read_bytes()
    loras = "<lora:jane:1> <lora:jane:0.5> <lora:film:0.5>"
    assert f"moody {loras}\n" in provenance.read(first.path).parameters
    assert not run("a", networks, **texts).new
    stronger = replace(networks, loras=(replace(networks.loras[0], weight=1.0),))
    assert run("a", stronger, **texts).new
    plain = run("b", None)
    assert not {"loras", "embeddings", "with"} & set(plain.record)
    with pytest.raises(UsageError, match="'moody' is in no prompt"):
        run("c", replace(networks, companions=()))
    long = "moody " * 40
    with pytest.raises(UsageError, match=r"8\d tokens long, of which 77 fit"):
        run("d", networks, prompts=(f"{{id}} {long}",))
