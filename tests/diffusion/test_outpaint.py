"""A border drawn round a picture: what is known stays, the rest is drawn, the same each time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mcap.diffusion import schedulers
from mcap.diffusion.latents import decode, encode_image, vae_factor
from mcap.diffusion.outpaint import Canvas, outpaint
from mcap.diffusion.sampling import SamplingSettings, decode_images
from tests.support.tiny import sample, tiny_backbone
from tests.support.tiny_transformers import tiny_klein, tiny_zimage_backbone

PROMPT = "a photo of a person"


def canvas(backbone, size=(48, 64)):
    """A picture over the upper half, grey below; known is the upper half."""
    factor = vae_factor(backbone.vae)
    width, height = size
    image = np.full((height, width, 3), 128, np.uint8)
    image[: height // 2] = sample(backbone, PROMPT, [1], steps=2)[0][: height // 2, :width]
    known = np.zeros((height // factor, width // factor), bool)
    known[: len(known) // 2] = True
    return image, known


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("scheduler", ["ddim", "euler", "dpm++-2m-karras", "heun"])
def test_what_is_known_comes_back_and_the_rest_is_drawn(kind, prediction, scheduler, monkeypatch):
    backbone = tiny_backbone(prediction_type=prediction, kind=kind)
    image, known = canvas(backbone)
    pipeline = backbone.pipeline()
    pipeline.scheduler = schedulers.make(schedulers.find(scheduler), backbone.scheduler)
    calls, latents = [], []

    def decoded(vae, drawn):
        latents.append(drawn)
        return decode_images(vae, drawn)

    monkeypatch.setattr("mcap.diffusion.outpaint.decode_images", decoded)
    settings = SamplingSettings(steps=3, guidance_scale=3.0, size=(48, 64))
    drawn = outpaint(backbone, pipeline, PROMPT, 5, Canvas(image, known), settings, calls.append)
    assert drawn.shape == image.shape and drawn.dtype == np.uint8
    assert len(calls) == schedulers.calls(pipeline.scheduler, 3)
    there, own = torch.from_numpy(known), encode_image(backbone, image)
    assert torch.equal(latents[0][0][:, there], own[:, there])
    assert (latents[0][0][:, ~there] - own[:, ~there]).abs().mean() > 0.1
    again = outpaint(backbone, pipeline, PROMPT, 5, Canvas(image, known), settings)
    assert np.array_equal(again, drawn)
    other = outpaint(backbone, pipeline, PROMPT, 6, Canvas(image, known), settings)
    assert np.abs(other[40:].astype(int) - drawn[40:]).mean() > 4


@pytest.mark.parametrize("kind", ["klein", "zimage"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_transformer_draws_a_border_too(kind, dtype, monkeypatch):
    made = {"klein": tiny_klein, "zimage": tiny_zimage_backbone}[kind]
    backbone = made(dtype=dtype)
    image, known = canvas(backbone)
    latents = []

    def decoded(vae, drawn):
        latents.append(drawn)
        return decode_images(vae, drawn)

    monkeypatch.setattr("mcap.diffusion.outpaint.decode_images", decoded)
    settings = SamplingSettings(steps=3, guidance_scale=3.0, size=(48, 64))
    pipeline, calls = backbone.pipeline(), []
    drawn = outpaint(backbone, pipeline, PROMPT, 5, Canvas(image, known), settings, calls.append)
    assert drawn.shape == image.shape and calls == [1, 1, 1]
    there, own = torch.from_numpy(known), encode_image(backbone, image)
    near = 1e-5 if dtype == torch.float32 else 0.05  # klein's come back through its statistics
    torch.testing.assert_close(latents[0][0][:, there].float(), own[:, there], rtol=near, atol=near)
    assert (latents[0][0][:, ~there].float() - own[:, ~there]).abs().mean() > 0.1
    again = outpaint(backbone, pipeline, PROMPT, 5, Canvas(image, known), settings)
    assert np.array_equal(again, drawn)
    other = outpaint(backbone, pipeline, PROMPT, 6, Canvas(image, known), settings)
    assert not np.array_equal(other[40:], drawn[40:])


def test_where_all_is_known_the_picture_is_the_autoencoder_s():
    backbone = tiny_backbone()
    image, known = canvas(backbone)
    settings = SamplingSettings(steps=2, guidance_scale=1.0, size=(48, 64))
    before = torch.random.get_rng_state()
    drawn = outpaint(
        backbone, backbone.pipeline(), PROMPT, 0, Canvas(image, np.ones_like(known)), settings
    )
    assert torch.equal(before, torch.random.get_rng_state())
    with torch.no_grad():
        whole = decode(backbone.vae, encode_image(backbone, image)[None])[0]
    expected = (whole.clamp(0, 1) * 255).round().permute(1, 2, 0).numpy()
    assert np.abs(drawn.astype(int) - expected).max() <= 1
