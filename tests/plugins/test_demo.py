"""The packaged demo backbone: loads as any diffusers folder, fits its size, draws a picture."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from transformers import CLIPTokenizer

from tests.support import ROOT

DEMO = ROOT / "plugins" / "mcap_plugins" / "demo"
MODEL = DEMO / "model"
LONG = (
    "a close-up portrait photo of a smiling person with long dark hair, wearing a business suit, "
    "looking to the left, soft window light, plain light grey background, black and white, "
    "high quality, sharp focus"
)


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    made = StableDiffusionPipeline.from_pretrained(MODEL, torch_dtype=torch.float32)
    made.set_progress_bar_config(disable=True)
    return made


def test_size_stays_within_the_wheels_budget():
    files = [path for path in MODEL.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 32_000_000
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".txt"}


def test_model_card_stands_beside_the_weights():
    card = (DEMO / "MODEL_CARD.md").read_text(encoding="utf-8")
    for word in ("PSNR", "YuNet", "non-commercial", "must not"):
        assert word in card


def test_model_card_gives_the_sizes_of_the_weights_beside_it(pipeline):
    card = (DEMO / "MODEL_CARD.md").read_text(encoding="utf-8")
    size = sum(path.stat().st_size for path in MODEL.rglob("*") if path.is_file())
    assert f"Weights: {size:,} bytes" in card
    side = pipeline.vae.config.sample_size
    assert f"{side} x {side} pixels" in card
    for part in (pipeline.vae, pipeline.unet, pipeline.text_encoder):
        count = sum(parameter.numel() for parameter in part.parameters())
        assert f"{count / 1e6:.2f} M" in card


def test_tokenizer_survives_save_and_load(pipeline, tmp_path):
    pipeline.tokenizer.save_pretrained(tmp_path)
    again = CLIPTokenizer.from_pretrained(tmp_path)
    for text in ("a photo of a person", LONG, "", "Zoë's naïve café, 写真"):
        assert again(text).input_ids == pipeline.tokenizer(text).input_ids


def test_end_token_is_the_text_encoders_own(pipeline):
    """Not 2, CLIP's historic default, which pools at the wrong place."""
    tokenizer, config = pipeline.tokenizer, pipeline.text_encoder.config
    assert tokenizer.eos_token_id == config.eos_token_id != 2
    assert tokenizer.bos_token_id == config.bos_token_id
    assert len(tokenizer) == config.vocab_size
    ids = tokenizer("a photo of a person").input_ids
    assert ids[0] == config.bos_token_id
    assert ids[-1] == config.eos_token_id


def test_prompts_have_room_for_thirty_words_and_two_new_tokens(pipeline):
    assert len(LONG.split()) >= 30
    tokenizer = pipeline.tokenizer
    assert tokenizer.model_max_length == pipeline.text_encoder.config.max_position_embeddings
    assert len(tokenizer(LONG).input_ids) + 2 <= tokenizer.model_max_length


@pytest.mark.parametrize(
    "word", ["photo", "person", "plain", "white", "background", "black", "studio"]
)
def test_words_of_profiles_are_whole_tokens(pipeline, word):
    assert pipeline.tokenizer.tokenize(word) == [word + "</w>"]


def test_latents_are_standardised(pipeline):
    """scaling_factor 1 is right only when latents of pictures have a deviation of about 1."""
    side = pipeline.vae.config.sample_size
    pictures = torch.rand(2, 3, 1, 1, generator=torch.Generator().manual_seed(0)).expand(
        2, 3, side, side
    )
    with torch.no_grad():
        latent = pipeline.vae.encode(pictures * 2 - 1).latent_dist.mode()
    assert pipeline.vae.config.scaling_factor == 1.0
    assert latent.shape == (2, pipeline.unet.config.in_channels, 16, 16)
    assert latent.abs().mean() < 4


def test_watched_layers_see_the_whole_latent(pipeline):
    """Attention Refocusing needs cross-attention at 16 x 16 in the down and the up blocks."""
    sides = {}

    def remember(name):
        def hook(module, args, kwargs, output):
            sides[name] = math.isqrt(args[0].shape[1])

        return hook

    handles = [
        module.register_forward_hook(remember(name), with_kwargs=True)
        for name, module in pipeline.unet.named_modules()
        if name.endswith("attn2")
    ]
    try:
        pipeline("a photo of a person", num_inference_steps=1, output_type="latent")
    finally:
        for handle in handles:
            handle.remove()
    watched = [name for name, side in sides.items() if side == 16]
    assert any(name.startswith("down_blocks") for name in watched)
    assert any(name.startswith("up_blocks") for name in watched)


def test_four_steps_draw_a_finite_picture_twice_the_same(pipeline):
    def draw():
        return pipeline(
            "a photo of a person, plain white background",
            num_inference_steps=4,
            guidance_scale=3.0,
            generator=torch.Generator().manual_seed(0),
            output_type="np",
        ).images[0]

    picture = draw()
    side = pipeline.vae.config.sample_size
    assert picture.shape == (side, side, 3)
    assert np.isfinite(picture).all()
    assert picture.std() > 0.05
    np.testing.assert_array_equal(picture, draw())


def test_reconstruction_of_a_drawn_picture_is_close(pipeline):
    """A picture of the model's own kind passes through the autoencoder nearly unchanged."""
    picture = pipeline(
        "a photo of a person",
        num_inference_steps=6,
        generator=torch.Generator().manual_seed(1),
        output_type="pt",
    ).images
    with torch.no_grad():
        latent = pipeline.vae.encode(picture * 2 - 1).latent_dist.mode()
        again = pipeline.vae.decode(latent).sample / 2 + 0.5
    psnr = -10 * torch.log10((again.clamp(0, 1) - picture).pow(2).mean())
    assert psnr > 22
