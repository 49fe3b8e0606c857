"""Z-Image on tiny random parts of its own classes, beside diffusers' own pipeline."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import ZImagePipeline
from torch.nn.functional import mse_loss

from mcap.contracts import ID_TOKEN, STYLE_TOKEN
from mcap.diffusion.latents import encode
from mcap.diffusion.lora import add_lora
from mcap.diffusion.prompt_cache import concatenate, take_row
from mcap.diffusion.tokens import install
from mcap.errors import UsageError
from mcap.subjects.subject import read_subject
from mcap.training.batches import Example, Row
from mcap.training.events import TrainingFinished
from mcap.training.phases import Phase, frozen, phase_optimizer
from mcap.training.step import StepModels, StepTerms, training_step
from mcap_plugins.zimage.load import load
from tests.support.tiny import LATENT, SIZE, sample
from tests.support.tiny_run import run, tiny_data, tiny_recipe
from tests.support.tiny_transformers import (
    tiny_klein_folder,
    tiny_zimage_backbone,
    tiny_zimage_folder,
)

DOUBLE = torch.float64
PROMPTS = ["a photo of a person", "portrait, studio light: 2 people!", "a"]
PLAIN = {
    "tokens": False,
    "id_words": "person",
    "phase1_steps": 0,
    "attention": False,
    "identity": False,
}


pytestmark = pytest.mark.usefixtures("one_thread")


def theirs(dtype: torch.dtype = torch.float32):
    """The same parts in diffusers' own pipeline."""
    pipeline = ZImagePipeline.from_pretrained(tiny_zimage_folder(), dtype=dtype)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_prompts_are_embedded_as_the_pipeline_does():
    backbone = tiny_zimage_backbone()
    ids = backbone.tokenizers[0](
        PROMPTS, padding="max_length", max_length=512, return_tensors="pt"
    ).input_ids
    ours = backbone.encode_prompt([ids])
    expected, _ = theirs().encode_prompt(
        list(PROMPTS), device=torch.device("cpu"), do_classifier_free_guidance=False
    )
    assert ours.lengths.tolist() == [len(row) for row in expected]
    for row, length, other in zip(ours.hidden, ours.lengths, expected, strict=True):
        torch.testing.assert_close(row[:length], other, rtol=1e-5, atol=1e-6)
    again = concatenate([take_row(ours, row) for row in range(3)])
    assert torch.equal(again.lengths, ours.lengths)
    assert torch.equal(again.hidden, ours.hidden)


@pytest.mark.parametrize("guidance", [0.0, 3.0])
def test_pictures_are_those_of_the_pipeline(guidance):
    negative = "dark background"
    drawn = sample(
        tiny_zimage_backbone(),
        PROMPTS[0],
        [3],
        steps=3,
        guidance_scale=guidance,
        negative_prompt=negative,
    )
    expected = theirs()(
        prompt=[PROMPTS[0]],
        negative_prompt=[negative],
        num_inference_steps=3,
        guidance_scale=guidance,
        height=SIZE,
        width=SIZE,
        generator=[torch.Generator("cpu").manual_seed(3)],
        output_type="np",
    ).images[0]
    assert np.abs(drawn[0] / 255.0 - expected).max() <= 1.01 / 255


def shake(parameters) -> None:
    random = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=random, dtype=DOUBLE))


def test_a_step_is_that_of_the_public_lora_script():
    """train_dreambooth_lora_z_image.py, weighting 1: loss and every gradient, double precision."""
    random = torch.Generator().manual_seed(1)
    latent = torch.randn(4, LATENT, LATENT, generator=random, dtype=DOUBLE)
    backbone, found = tiny_zimage_backbone(dtype=DOUBLE), tiny_recipe(**PLAIN)
    with frozen(backbone, found) as untouched:
        tokens = install(backbone, {})
        optimizer = phase_optimizer(Phase(2, 0, 4), found, untouched, tokens, seed=3)
        ours = optimizer.groups["lora"]
        shake(ours)
        (ids,) = tokens.encode([PROMPTS[0]])
        mask = torch.ones(1, LATENT, LATENT, dtype=DOUBLE)
        row = Row("source", Example("one", latent, mask), (ids[0],))
        terms = StepTerms(attention=0, identity=0, composed=0, masked=False)
        random = torch.Generator().manual_seed(0)
        result = training_step(StepModels(backbone, tokens), [row], terms, random)
        result.loss.backward()
        gradients = [parameter.grad for parameter in ours]

    plain = theirs(DOUBLE)
    plain.transformer.requires_grad_(False)
    parameters = add_lora(plain.transformer, 2, "cross-attention", seed=3)
    shake(parameters)
    random = torch.Generator().manual_seed(0)
    torch.rand((), generator=random, dtype=DOUBLE)  # the time's
    noise = torch.randn(latent.shape, generator=random).to(DOUBLE)[None]
    sigma = result.timesteps[0]
    noisy = (1 - sigma) * latent[None] + sigma * noise
    with torch.no_grad():
        embeds, _ = plain.encode_prompt(
            [PROMPTS[0]], device=torch.device("cpu"), do_classifier_free_guidance=False
        )
    time = torch.tensor([(1000 - 1000 * sigma) / 1000], dtype=DOUBLE)
    prediction = plain.transformer(list(noisy.unsqueeze(2)), time, embeds, return_dict=False)[0]
    prediction = -torch.stack(prediction).squeeze(2)
    loss = mse_loss(prediction, noise - latent[None])
    loss.backward()
    assert result.loss.item() == pytest.approx(loss.item(), rel=1e-5)
    assert len(gradients) == len(parameters) == 2 * 2 * 4
    for mine, parameter in zip(gradients, parameters, strict=True):
        other = parameter.grad
        assert other.abs().sum() > 0
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5 * other.abs().max().item())


def test_latents_are_those_of_the_pipeline():
    backbone = tiny_zimage_backbone()
    images = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    vae = theirs().vae
    with torch.no_grad():
        mean = vae.encode(images * 2 - 1).latent_dist.mode()
    expected = (mean - vae.config.shift_factor) * vae.config.scaling_factor
    torch.testing.assert_close(encode(backbone, images), expected)


def test_both_phases_train_and_the_subject_is_drawn(tmp_path):
    folder = tmp_path / "me.mcap"
    backbone = tiny_zimage_backbone()
    keys = {"phase1_steps": 2, "phase2_steps": 2}
    events = list(run(folder, tiny_recipe(**keys), backbone=backbone, data=tiny_data(2, 2)))
    finished = events[-1]
    assert isinstance(finished, TrainingFinished)
    terms = {"source", "reference", "composed", "identity"}
    terms |= {"attention_source", "attention_reference", "attention_composed"}
    assert terms <= set(finished.losses)
    assert all(np.isfinite(value) for value in finished.losses.values())
    subject, fresh = read_subject(folder), tiny_zimage_backbone()
    pipeline = fresh.pipeline()
    prompt = f"a photo of a {ID_TOKEN} person in the {STYLE_TOKEN} style"
    before = sample(fresh, PROMPTS[0], [1], pipeline=pipeline, steps=2)
    subject.load_into(pipeline)
    learned = sample(fresh, prompt, [1], pipeline=pipeline, steps=2)
    subject.unload_from(pipeline)
    after = sample(fresh, PROMPTS[0], [1], pipeline=pipeline, steps=2)
    assert np.array_equal(before[0], after[0])
    assert not np.array_equal(before[0], learned[0])


def test_another_model_is_refused():
    with pytest.raises(UsageError, match="is no Z-Image"):
        load("cpu", torch.float32, tiny_klein_folder(), id="x", licence="", commercial=False)
