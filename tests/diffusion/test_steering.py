"""What steers a denoiser is told of in each of its pipelines' calls, until it is released."""

from __future__ import annotations

from types import SimpleNamespace

from mcap.diffusion.steering import call_arguments, release, steer
from tests.support.tiny import sample, tiny_backbone


def pipeline(unet):
    return SimpleNamespace(unet=unet)


class Unet:
    def __init__(self, time_cond_proj_dim=None):
        self.config = {"time_cond_proj_dim": time_cond_proj_dim}


def test_every_pipeline_over_the_unet_is_told_and_others_are_not():
    unet, taken_out = Unet(), []
    first, second = pipeline(unet), pipeline(unet)
    assert call_arguments(first, 7.0) == {}
    steer(first, lambda guided: {"guided": guided}, taken_out.append)
    assert call_arguments(second, 7.0) == {"guided": True}
    assert call_arguments(second, 1.0) == {"guided": False}
    assert call_arguments(pipeline(Unet()), 7.0) == {}
    release(second)
    release(second)
    assert taken_out == [second]
    assert call_arguments(first, 7.0) == {}


def test_a_unet_that_is_told_the_guidance_scale_has_no_second_row():
    unet = Unet(time_cond_proj_dim=256)
    steer(pipeline(unet), lambda guided: {"guided": guided}, lambda _: None)
    assert call_arguments(pipeline(unet), 7.0) == {"guided": False}


def test_sampling_passes_the_arguments_on():
    backbone = tiny_backbone()
    plain = sample(backbone, "a person", [0], steps=2)[0]
    pipe = backbone.pipeline()
    asked = []
    steer(pipe, lambda guided: asked.append(guided) or {"guidance_rescale": 0.9}, lambda _: None)
    assert (sample(backbone, "a person", [0], pipeline=pipe, steps=2)[0] != plain).any()
    assert asked == [True]
    release(pipe)
