"""kohya's names: both directions are each other's inverse, and diffusers' where it is right."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers.utils import convert_state_dict_to_kohya

from mcap.errors import UsageError
from mcap.subjects.kohya import from_kohya, model_of, to_kohya
from tests.support.foreign_files import pipeline

LAYERS = {
    "sd": (
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q",
        "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0",
        "text_encoder.text_model.encoder.layers.0.self_attn.q_proj",
    ),
    "sdxl": (
        "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_q",
        "unet.up_blocks.0.attentions.1.transformer_blocks.0.attn1.to_v",
        "text_encoder_2.text_model.encoder.layers.0.self_attn.q_proj",
    ),
}


def lora(found, names, rank: int = 3) -> dict[str, torch.Tensor]:
    """Random factors for layers of a pipeline, in diffusers' names."""
    from mcap.subjects.lora_keys import layers_by_flat_name

    sizes = {path: layer.weight.shape for path, layer in layers_by_flat_name(found).values()}
    random = torch.Generator().manual_seed(3)
    tensors = {}
    for name in names:
        out, into = sizes[name]
        tensors[f"{name}.lora_A.weight"] = torch.randn(rank, into, generator=random)
        tensors[f"{name}.lora_B.weight"] = torch.randn(out, rank, generator=random)
    return tensors


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
@pytest.mark.parametrize("alpha", [None, 1.5])
def test_there_and_back(kind, alpha):
    found = pipeline(kind)
    tensors = lora(found, LAYERS[kind])
    parts = {name.split(".")[0] for name in tensors}
    alphas = {} if alpha is None else dict.fromkeys(parts, alpha)
    state = to_kohya(tensors, alphas, sdxl=kind == "sdxl")
    assert len(state) == 3 * len(LAYERS[kind])
    back = from_kohya(Path("x.safetensors"), state, found)
    assert set(back) == set(tensors)
    for key, tensor in tensors.items():
        scale = (alpha or 3) / 3 if key.endswith("lora_B.weight") else 1
        torch.testing.assert_close(back[key], tensor * scale)


def test_it_is_diffusers_own_conversion_where_alpha_is_the_rank():
    """It writes the rank for every alpha, and SDXL's prefix for SD1.5's text encoder."""
    tensors = lora(pipeline("sd"), LAYERS["sd"])
    theirs = {
        key.replace("lora_te1_", "lora_te_"): tensor
        for key, tensor in convert_state_dict_to_kohya(tensors).items()
    }
    ours = to_kohya(tensors, {}, sdxl=False)
    assert set(ours) == set(theirs)
    for key, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[key], check_dtype=False)


def test_what_is_no_lora_is_refused():
    with pytest.raises(ValueError, match=r"conv_in\.weight"):
        to_kohya({"unet.conv_in.weight": torch.zeros(1)}, {}, sdxl=False)
    found = pipeline("sd")
    state = to_kohya(lora(found, LAYERS["sd"]), {}, sdxl=False)
    first = next(iter(state)).split(".")[0]
    for change, words in (
        ({f"{first}.lora_up.weight": torch.zeros(5, 3)}, "of another size"),
        ({f"{first}.hada_w1_a": torch.zeros(1)}, "of a plain LoRA and LoHa at once"),
        ({f"{first}.bias": torch.zeros(1)}, "none of a plain LoRA's"),
        ({"lora_unet_elsewhere.alpha": torch.ones(())}, "no place in this backbone"),
    ):
        with pytest.raises(UsageError, match=rf"--lora x\.safetensors: .*{words}"):
            from_kohya(Path("x.safetensors"), state | change, found)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lora_unet_double_blocks_0_img_attn_proj", "Flux or one of its relatives"),
        ("lora_te3_encoder_block_0", "Stable Diffusion 3"),
        ("lora_te2_text_model_encoder_layers_0", "SDXL"),
        ("lora_unet_x", "another kind of model"),
    ],
)
def test_other_models_are_named(name, words):
    assert model_of(["lora_unet_y", name]) == words
