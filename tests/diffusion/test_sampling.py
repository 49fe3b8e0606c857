"""Sampling: reproducible alone, as plain diffusers does it, with attention recorded beside."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mcap.diffusion.sampling import decode_images
from mcap.errors import UsageError
from mcap.style.prompts import fill
from tests.support.generating import close
from tests.support.subjects import make_subject
from tests.support.tiny import sample, stream, tiny_backbone

PROMPT = "a photo of a person"


@pytest.fixture
def backbone():
    return tiny_backbone()


def test_a_picture_can_be_drawn_again_alone(backbone):
    together = sample(backbone, PROMPT, [5, 6, 7], steps=3)
    alone = sample(backbone, PROMPT, [6], steps=3)
    assert close(together[1], alone[0])
    assert not close(together[0], together[1], levels=8)


def test_drawing_leaves_the_global_random_state_alone(backbone):
    before = torch.random.get_rng_state()
    sample(backbone, PROMPT, [1], steps=2)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
@pytest.mark.parametrize("guidance", [1.0, 5.0])
@pytest.mark.parametrize("negative", ["", "dark, black and white"])
def test_drawing_equals_plain_diffusers(kind, guidance, negative):
    """Same prompt, same noise: each picture of a batch of several prompts, not square, is what the
    pipeline gives when it is called by hand for that picture alone."""
    backbone = tiny_backbone(kind=kind)
    pipeline = backbone.pipeline()
    pipeline.set_progress_bar_config(disable=True)
    prompts = [PROMPT, "a portrait of a man, light background"]
    options = {"guidance_scale": guidance}
    ours = sample(
        backbone, prompts, [9, 10], negative_prompt=negative, steps=3, size=(48, 80), **options
    )
    for prompt, seed, image in zip(prompts, [9, 10], ours, strict=True):
        plain = pipeline(
            prompt,
            negative_prompt=negative or None,
            num_inference_steps=3,
            height=80,
            width=48,
            generator=torch.Generator("cpu").manual_seed(seed),
            output_type="np",
            **options,
        ).images[0]
        assert image.shape == (80, 48, 3)
        assert close((plain * 255).round().astype(np.uint8), image)


def test_batches_change_nothing_but_speed(backbone):
    steps: list[int] = []
    one = sample(backbone, PROMPT, [1, 2, 3], steps=2, batch_size=1)
    two = sample(backbone, PROMPT, [1, 2, 3], steps=2, batch_size=2, on_step=steps.append)
    assert all(close(a, b) for a, b in zip(one, two, strict=True))
    assert sum(steps) == 3 * 2


def test_a_half_precision_decoder_runs_in_single_precision(backbone):
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    expected = decode_images(backbone.vae, latents)
    backbone.vae.to(torch.float16)
    found = decode_images(backbone.vae, latents.half())
    assert backbone.vae.dtype == torch.float16  # given back as it was
    assert close(expected[0], found[0], levels=3)


def test_a_prompt_that_is_cut_is_refused(backbone):
    with pytest.raises(UsageError, match="tokens long, of which 77 fit"):
        sample(backbone, "a photo of a person " * 30, [0], steps=1)


def test_as_many_prompts_as_seeds(backbone):
    with pytest.raises(ValueError, match="2 seeds"):
        sample(backbone, [PROMPT], [1, 2], steps=1)


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_attention_is_recorded_without_changing_the_picture(tmp_path, backbone, guidance):
    pipeline = backbone.pipeline()
    make_subject(tmp_path / "jane.mcap").load_into(pipeline)
    prompts = [
        fill("a photo of a {id} {noun} in the {style} style", "person"),
        "a photo of <mcap-id>",
    ]
    options = {"steps": 4, "guidance_scale": guidance}
    watched = list(
        stream(backbone, prompts, [1, 2], watch=("<mcap-id>", "<mcap-style>"), **options)
    )
    plain = sample(backbone, prompts, [1, 2], **options)
    for drawn, image in zip(watched, plain, strict=True):
        assert np.array_equal(drawn.image, image)
        identity = drawn.attention["<mcap-id>"]
        assert identity.shape == (16, 16) and identity.min() > 0 and identity.max() < 1
    assert watched[0].attention["<mcap-style>"].max() > 0
    assert watched[1].attention["<mcap-style>"].max() == 0  # not in that prompt
