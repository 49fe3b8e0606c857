"""LoRA files of other programs on klein and Z-Image: as they are meant, or refused by name."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mcap.errors import UsageError
from mcap.subjects.lora_file import Lora
from tests.support.tiny import tiny_backbone
from tests.support.tiny_transformers import tiny_klein, tiny_zimage_backbone

RANK = 2
MODELS = {"klein": tiny_klein, "zimage": tiny_zimage_backbone}


def low_rank(rows: int, columns: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(RANK, columns, generator=random), torch.randn(rows, RANK, generator=random)


# Name in a file -> the layers of diffusers' network that its rows are of, and the names of parts.
KOHYA = ("lora_down.weight", "lora_up.weight")
DOTTED = ("lora_A.weight", "lora_B.weight")
FILES = {
    "klein, kohya": (
        "klein",
        KOHYA,
        {
            "lora_unet_double_blocks_1_img_attn_qkv": [
                f"transformer_blocks.1.attn.to_{letter}" for letter in "qkv"
            ],
            "lora_unet_double_blocks_0_txt_attn_proj": ["transformer_blocks.0.attn.to_add_out"],
            "lora_unet_single_blocks_1_linear1": [
                "single_transformer_blocks.1.attn.to_qkv_mlp_proj"
            ],
        },
    ),
    "klein, ai-toolkit": (
        "klein",
        DOTTED,
        {
            "diffusion_model.double_blocks.0.txt_attn.qkv": [
                f"transformer_blocks.0.attn.add_{letter}_proj" for letter in "qkv"
            ],
            "diffusion_model.single_blocks.0.linear2": ["single_transformer_blocks.0.attn.to_out"],
        },
    ),
    "klein, diffusers": (
        "klein",
        DOTTED,
        {"transformer.transformer_blocks.0.attn.to_out.0": ["transformer_blocks.0.attn.to_out.0"]},
    ),
    "Z-Image, ai-toolkit": (
        "zimage",
        DOTTED,
        {"diffusion_model.layers.1.attention.to_v": ["layers.1.attention.to_v"]},
    ),
    "Z-Image, ComfyUI": (
        "zimage",
        DOTTED,
        {
            "diffusion_model.layers.0.attention.qkv": [
                f"layers.0.attention.to_{letter}" for letter in "qkv"
            ],
            "diffusion_model.layers.0.attention.out": ["layers.0.attention.to_out.0"],
        },
    ),
    "Z-Image, kohya": (
        "zimage",
        KOHYA,
        {
            "lora_unet_layers_0_attention_to_k": ["layers.0.attention.to_k"],
            "lora_unet_layers_1_feed_forward_w1": ["layers.1.feed_forward.w1"],
        },
    ),
}


def weights(network) -> dict[str, torch.Tensor]:
    """What each layer computes with, its LoRA in it."""
    found = {}
    for name, module in network.named_modules():
        if hasattr(module, "get_delta_weight"):
            delta = sum(module.get_delta_weight(each) for each in module.active_adapters)
            found[name] = module.base_layer.weight + delta
        elif isinstance(module, torch.nn.Linear) and "lora_" not in name:
            found.setdefault(name.removesuffix(".base_layer"), module.weight)
    return found


def write(path: Path, state: dict[str, torch.Tensor]) -> Lora:
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, path)
    return Lora(path, 1.0, "")


@pytest.mark.parametrize("alpha", [None, 0.5])
@pytest.mark.parametrize("name", FILES)
def test_a_file_means_what_it_means_there(name, alpha, tmp_path):
    kind, parts, layers = FILES[name]
    backbone = MODELS[kind]()
    plain = {key: tensor.clone() for key, tensor in weights(backbone.unet).items()}
    expected, state = copy.deepcopy(plain), {}
    for seed, (key, targets) in enumerate(layers.items()):
        rows = sum(plain[target].shape[0] for target in targets)
        down, up = low_rank(rows, plain[targets[0]].shape[1], seed)
        state |= {f"{key}.{parts[0]}": down, f"{key}.{parts[1]}": up}
        if alpha is not None:
            state[f"{key}.alpha"] = torch.tensor(alpha)
        delta = up @ down * ((alpha or RANK) / RANK)
        sizes = [plain[target].shape[0] for target in targets]
        for target, part in zip(targets, delta.split(sizes), strict=True):
            expected[target] = expected[target] + part
    pipeline = backbone.pipeline()
    write(tmp_path / "theirs.safetensors", state).load_into(pipeline, "extra")
    found = weights(backbone.unet)
    assert found.keys() == expected.keys()
    for key, tensor in found.items():
        torch.testing.assert_close(tensor, expected[key], rtol=1e-5, atol=1e-5)
    changed = {key for key in plain if not torch.equal(plain[key], found[key])}
    assert changed == {target for targets in layers.values() for target in targets}
    pipeline.unload_lora_weights()
    assert all(torch.equal(weights(backbone.unet)[key], plain[key]) for key in plain)


def pair(name: str, rows: int = 32, columns: int = 32, parts=DOTTED) -> dict[str, torch.Tensor]:
    down, up = low_rank(rows, columns, 0)
    return {f"{name}.{parts[0]}": down, f"{name}.{parts[1]}": up}


SD = pair("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_q", parts=KOHYA)
SDXL = pair("lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_q", parts=KOHYA)
KLEIN = pair("transformer.single_transformer_blocks.0.attn.to_qkv_mlp_proj", 4, 4)
FLUX1 = pair("transformer.single_transformer_blocks.0.proj_mlp", 4, 4)
ZIMAGE = pair("diffusion_model.layers.0.attention.to_q")
QWEN = pair("transformer.transformer_blocks.0.img_mlp.net.2")


@pytest.mark.parametrize(
    ("kind", "state", "words"),
    [
        ("klein", SD, "it is for Stable Diffusion"),
        ("zimage", SD, "it is for Stable Diffusion"),
        ("klein", SDXL, "it is for SDXL"),
        ("klein", ZIMAGE, "it is for Z-Image"),
        ("zimage", KLEIN, r"it is for FLUX\.2"),
        ("klein", FLUX1, r"it is for FLUX\.1"),
        ("klein", QWEN, "such as Stable Diffusion 3 or Qwen-Image"),
        ("klein", KLEIN, "of another size"),
        ("klein", {"transformer.x.lora_A.weight": torch.ones(2, 2)}, "is not whole"),
        ("zimage", {"diffusion_model.layers.0.attention.to_q.lokr_w1": torch.ones(2)}, "none of a"),
    ],
)
def test_a_file_of_another_family_is_refused(kind, state, words, tmp_path):
    backbone = MODELS[kind]()
    with pytest.raises(UsageError, match=words):
        write(tmp_path / "theirs.safetensors", state).load_into(backbone.pipeline(), "extra")
    assert not getattr(backbone.unet, "peft_config", None)


@pytest.mark.parametrize("state", [KLEIN, ZIMAGE, FLUX1])
def test_a_transformers_file_is_refused_by_stable_diffusion(state, tmp_path):
    with pytest.raises(UsageError, match="another kind of model"):
        pipeline = tiny_backbone().pipeline()
        write(tmp_path / "theirs.safetensors", state).load_into(pipeline, "extra")


def test_one_layer_that_is_not_read_refuses_the_file(tmp_path):
    known = pair("lora_unet_single_blocks_0_linear1", 288, 32, KOHYA)
    unknown = pair("lora_unet_single_blocks_0_modulation_lin", parts=KOHYA)
    with pytest.raises(UsageError, match=r"1 of its 2 layers .* such as lora_unet_single_blocks_0"):
        pipeline = tiny_klein().pipeline()
        write(tmp_path / "theirs.safetensors", known | unknown).load_into(pipeline, "extra")
