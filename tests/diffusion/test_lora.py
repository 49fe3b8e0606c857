"""LoRA files mean the same picture in plain diffusers."""

import json

import pytest
import torch
from safetensors import safe_open

from mcap.diffusion.lora import add_lora, add_text_lora, lora_state, remove_lora, save_lora
from mcap.diffusion.tokens import ID_TOKEN, STYLE_TOKEN, install
from tests.support.tiny import tiny_backbone, tiny_folder

WORDS = {ID_TOKEN: "man", STYLE_TOKEN: "studio light"}
PROMPT = "a photo of a <mcap-id> person in the <mcap-style> style"


def _draw(pipeline, prompt=PROMPT):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        prompt,
        num_inference_steps=3,
        guidance_scale=3.0,
        height=64,
        width=64,
        generator=torch.Generator().manual_seed(3),
        output_type="pt",
    ).images


def _shake(parameters, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize(
    ("targets", "text"), [("cross-attention", False), ("released", False), ("released", True)]
)
def test_saved_and_loaded_in_plain_diffusers_it_draws_the_same_picture(tmp_path, targets, text):
    from diffusers import StableDiffusionPipeline

    backbone = tiny_backbone()
    untrained = _draw(backbone.pipeline(), "a photo of a person")
    tokens = install(backbone, WORDS)
    parameters = add_lora(backbone.unet, 3, targets)
    if text:
        parameters += add_text_lora(backbone.text_encoders[0], 3)
    _shake([*parameters, *tokens.parameters()])
    ours = _draw(backbone.pipeline())
    save_lora(tmp_path / "adapter.safetensors", backbone, {"ss_network_dim": "3"})

    plain = StableDiffusionPipeline.from_pretrained(tiny_folder(), safety_checker=None)
    assert torch.equal(_draw(plain, "a photo of a person"), untrained)
    for token, (vector,) in tokens.vectors().items():
        plain.load_textual_inversion({token: vector})
    without_adapter = _draw(plain)
    plain.load_lora_weights(tmp_path, weight_name="adapter.safetensors")
    theirs = _draw(plain)
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)
    assert (without_adapter - ours).abs().max() > 1e-3  # the adapter does something

    with safe_open(tmp_path / "adapter.safetensors", "pt") as file:
        header = file.metadata()
        keys = list(file.keys())
    assert header["ss_network_dim"] == "3"
    assert json.loads(header["lora_adapter_metadata"])["unet.lora_alpha"] == 3
    assert "mcap-tiny" not in header["lora_adapter_metadata"]  # no folder of this machine
    assert any(key.startswith("text_encoder.text_model.") for key in keys) == text


def test_it_sits_on_cross_attention_alone():
    unet = tiny_backbone().unet
    add_lora(unet, 4)
    names = {name.split(".lora_")[0] for name, _ in unet.named_parameters() if "lora_" in name}
    assert {name.split(".attn2.")[1] for name in names} == {"to_q", "to_k", "to_v", "to_out.0"}
    assert len(names) == 4 * 7  # seven cross-attention layers, the middle block's included


def test_the_released_targets_are_wider():
    unet = tiny_backbone().unet
    add_lora(unet, 4, "released")
    names = {name.split(".lora_")[0] for name, _ in unet.named_parameters() if "lora_" in name}
    assert len(names) == (4 + 4 + 1) * 7
    assert any(name.endswith("ff.net.0.proj") for name in names)


def test_it_starts_as_no_change_and_leaves_the_global_random_state():
    backbone = tiny_backbone()
    before = _draw(backbone.pipeline(), "a photo")
    random = torch.get_rng_state()
    first = [p.detach().clone() for p in add_lora(backbone.unet, 2, seed=7)]
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(_draw(backbone.pipeline(), "a photo"), before)
    remove_lora(backbone.unet)
    second = add_lora(backbone.unet, 2, seed=7)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_removing_restores_the_original():
    backbone = tiny_backbone()
    keys = set(backbone.unet.state_dict())
    text_keys = set(backbone.text_encoders[0].state_dict())
    before = _draw(backbone.pipeline(), "a photo")
    _shake(add_lora(backbone.unet, 2) + add_text_lora(backbone.text_encoders[0], 2))
    assert not torch.equal(_draw(backbone.pipeline(), "a photo"), before)
    for module in (backbone.unet, backbone.text_encoders[0]):
        remove_lora(module)
        remove_lora(module)
    assert set(backbone.unet.state_dict()) == keys
    assert set(backbone.text_encoders[0].state_dict()) == text_keys
    assert torch.equal(_draw(backbone.pipeline(), "a photo"), before)


def test_rows_are_float32_in_a_half_precision_unet():
    backbone = tiny_backbone(dtype=torch.bfloat16)
    parameters = add_lora(backbone.unet, 2)
    assert {parameter.dtype for parameter in parameters} == {torch.float32}
    assert all(parameter.requires_grad for parameter in parameters)
    learning = [p for p in backbone.unet.parameters() if p.requires_grad]
    assert len(learning) == len(parameters)


def test_learned_tokens_go_on_learning_beside_a_text_lora():
    backbone = tiny_backbone()
    tokens = install(backbone, WORDS)
    add_text_lora(backbone.text_encoders[0], 2)
    assert tokens.parameters()[0].requires_grad


def test_an_alpha_other_than_the_rank_is_not_saved(tmp_path):
    backbone = tiny_backbone()
    with pytest.raises(ValueError, match="no LoRA layers"):
        lora_state(backbone)
    add_lora(backbone.unet, 2)
    with pytest.raises(ValueError, match="already"):
        add_lora(backbone.unet, 2)
    backbone.unet.peft_config["default"].lora_alpha = 8
    with pytest.raises(ValueError, match="alpha other than its rank"):
        save_lora(tmp_path / "adapter.safetensors", backbone)
    assert list(tmp_path.iterdir()) == []


def test_unknown_targets_are_refused():
    with pytest.raises(ValueError, match="unknown LoRA targets"):
        add_lora(tiny_backbone().unet, 2, "everything")


def test_the_text_encoder_s_words_are_not_in_its_lora(monkeypatch):
    """Also where a vocabulary was larger for a while, as it is while pictures are drawn."""
    import peft.utils.save_and_load as peft_saving

    monkeypatch.setattr(peft_saving, "check_file_exists_on_hf_hub", None)  # nobody is asked
    backbone = tiny_backbone()
    encoder = backbone.text_encoders[0]
    encoder.resize_token_embeddings(encoder.config.vocab_size + 2)
    add_text_lora(encoder, 2)
    tensors, _ = lora_state(backbone)
    assert tensors and all("lora" in key for key in tensors)
