"""FLUX.2 klein on tiny random parts of its own classes, beside diffusers' own pipeline."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import Flux2KleinPipeline
from safetensors.torch import load_file
from torch.nn.functional import mse_loss

from mcap.contracts import ID_TOKEN, STYLE_TOKEN
from mcap.diffusion import schedulers
from mcap.diffusion.latents import encode, scaled, unscaled, vae_factor
from mcap.diffusion.lora import add_lora, save_lora
from mcap.diffusion.rectified_flow import time_of_fraction
from mcap.diffusion.tokens import install
from mcap.diffusion.window_decode import FullDecoder, WindowDecoder
from mcap.errors import MissingResourceError, UsageError
from mcap.subjects.subject import read_subject
from mcap.training.backbone_facts import backbone_facts
from mcap.training.batches import Example, Row
from mcap.training.events import TrainingFinished
from mcap.training.phases import Phase, frozen, phase_optimizer, step_terms
from mcap.training.recipe import Layer, recipe
from mcap.training.step import NoisedRows, StepModels, StepTerms, training_step
from mcap_plugins.klein.load import load
from tests.support.tiny import sample, stream, tiny_folder
from tests.support.tiny_run import run, tiny_data, tiny_recipe
from tests.support.tiny_transformers import LATENT, SIZE, tiny_klein, tiny_klein_folder

DOUBLE = torch.float64
PROMPTS = ["a photo of a person", "portrait, studio light: 2 people!", ""]
PLAIN = {
    "tokens": False,
    "id_words": "person",
    "phase1_steps": 0,
    "attention": False,
    "identity": False,
}
RESULTS = (
    "adapter.safetensors",
    "embeddings/mcap-id.safetensors",
    "embeddings/mcap-style.safetensors",
)


pytestmark = pytest.mark.usefixtures("one_thread")


def theirs(dtype: torch.dtype = torch.float32):
    """The same parts in diffusers' own pipeline."""
    pipeline = Flux2KleinPipeline.from_pretrained(tiny_klein_folder(), dtype=dtype)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_prompts_are_embedded_as_the_pipeline_does():
    backbone, plain = tiny_klein(), theirs()
    ids = backbone.tokenizers[0](
        PROMPTS, padding="max_length", max_length=512, return_tensors="pt"
    ).input_ids
    ours = backbone.encode_prompt([ids]).hidden
    expected, _ = plain.encode_prompt(PROMPTS, device=torch.device("cpu"))
    assert ours.shape == (3, 512, 48)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


def test_latents_are_those_of_the_pipeline():
    backbone, plain = tiny_klein(), theirs()
    images = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    expected = plain._encode_vae_image(images * 2 - 1, generator=None)
    latents = encode(backbone, images)
    assert latents.shape == (2, 16, LATENT, LATENT)
    assert vae_factor(backbone.vae) == SIZE // LATENT
    torch.testing.assert_close(latents, expected, rtol=1e-5, atol=1e-5)
    own = unscaled(backbone.vae, latents)
    assert own.shape == (2, 4, 2 * LATENT, 2 * LATENT)
    torch.testing.assert_close(scaled(backbone.vae, own), latents, rtol=1e-5, atol=1e-5)


def test_a_window_of_everything_is_the_full_decode():
    backbone = tiny_klein()
    latent = torch.randn(1, 16, LATENT, LATENT, generator=torch.Generator().manual_seed(0))
    full = FullDecoder(backbone.vae)(latent, (0.0, 0.0, 0.0, 0.0)).image
    window = WindowDecoder(backbone.vae)(latent, (0.0, 0.0, float(SIZE), float(SIZE)))
    torch.testing.assert_close(window.image, full, rtol=1e-5, atol=1e-5)
    part = WindowDecoder(backbone.vae, margin=0)(latent, (16.0, 24.0, 40.0, 48.0))
    assert (part.left, part.top) == (16, 24)
    assert part.image.shape[-2:] == (24, 24)


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_pictures_are_those_of_the_pipeline(guidance):
    drawn = sample(tiny_klein(), PROMPTS[0], [3], steps=3, guidance_scale=guidance)
    expected = theirs()(
        prompt=[PROMPTS[0]],
        num_inference_steps=3,
        guidance_scale=guidance,
        height=SIZE,
        width=SIZE,
        generator=[torch.Generator("cpu").manual_seed(3)],
        output_type="np",
    ).images[0]
    difference = np.abs(drawn[0] / 255.0 - expected).max()
    assert difference <= 1.01 / 255


def test_a_negative_prompt_is_led_away_from():
    plain, led = (
        sample(tiny_klein(), PROMPTS[0], [3], steps=2, guidance_scale=4, negative_prompt=text)
        for text in ("", "dark background")
    )
    assert not np.array_equal(plain[0], led[0])


class Loss:
    """A DreamBooth-LoRA step: the same row, noise and time for mcap and for the script."""

    prompt = "a photo of a person"

    def __init__(self) -> None:
        random = torch.Generator().manual_seed(1)
        self.latent = torch.randn(16, LATENT, LATENT, generator=random, dtype=DOUBLE)

    @staticmethod
    def shake(parameters) -> None:
        random = torch.Generator().manual_seed(8)
        with torch.no_grad():
            for parameter in parameters:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=random, dtype=DOUBLE))

    def ours(self):
        backbone, found = tiny_klein(dtype=DOUBLE), tiny_recipe(**PLAIN)
        with frozen(backbone, found) as untouched:
            tokens = install(backbone, {})
            optimizer = phase_optimizer(Phase(2, 0, 4), found, untouched, tokens, seed=3)
            parameters = optimizer.groups["lora"]
            self.shake(parameters)
            (ids,) = tokens.encode([self.prompt])
            mask = torch.ones(1, LATENT, LATENT, dtype=DOUBLE)
            row = Row("source", Example("one", self.latent, mask), (ids[0],))
            terms = StepTerms(attention=0, identity=0, composed=0, masked=False)
            random = torch.Generator().manual_seed(0)
            result = training_step(StepModels(backbone, tokens), [row], terms, random)
            result.loss.backward()
            return result, [parameter.grad.clone() for parameter in parameters]

    def script(self, time: float):
        """loss of train_dreambooth_lora_flux2_klein.py, weighting 1, at a time that is given."""
        plain = theirs(DOUBLE)
        plain.transformer.requires_grad_(False)
        parameters = add_lora(plain.transformer, 2, "cross-attention", seed=3)
        self.shake(parameters)
        random = torch.Generator().manual_seed(0)
        torch.rand((), generator=random, dtype=DOUBLE)  # the time's
        noise = torch.randn(self.latent.shape, generator=random).to(DOUBLE)[None]
        latents = self.latent[None]
        sigma = torch.tensor([time], dtype=DOUBLE)
        noisy = (1 - sigma) * latents + sigma * noise
        with torch.no_grad():
            embeds, text_ids = plain.encode_prompt([self.prompt], device=torch.device("cpu"))
        ids = plain._prepare_latent_ids(latents)
        prediction = plain.transformer(
            hidden_states=plain._pack_latents(noisy),
            timestep=sigma,
            guidance=None,
            encoder_hidden_states=embeds,
            txt_ids=text_ids,
            img_ids=ids,
            return_dict=False,
        )[0]
        prediction = plain._unpack_latents_with_ids(prediction, ids)
        loss = mse_loss(prediction, noise - latents)
        loss.backward()
        return loss, [parameter.grad for parameter in parameters]


def test_a_step_is_that_of_the_public_lora_script():
    """Loss and every gradient, in double precision."""
    case = Loss()
    result, gradients = case.ours()
    loss, expected = case.script(result.timesteps[0])
    assert 0 < result.timesteps[0] < 1
    assert result.loss.item() == pytest.approx(loss.item(), rel=1e-5)
    assert len(gradients) == len(expected) == 2 * (2 * 8 + 2 * 2)
    for mine, other in zip(gradients, expected, strict=True):
        assert other.abs().sum() > 0
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5 * other.abs().max().item())


def test_a_lora_file_is_read_by_the_pipeline_itself(tmp_path):
    backbone = tiny_klein()
    parameters = add_lora(backbone.unet, 2)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.2)
    save_lora(tmp_path / "adapter.safetensors", backbone)
    names = list(load_file(tmp_path / "adapter.safetensors"))
    assert len(names) == len(parameters)
    assert all(name.startswith("transformer.") for name in names)
    assert any("single_transformer_blocks.1.attn.to_qkv_mlp_proj" in name for name in names)
    plain = theirs()
    untouched = copy.deepcopy(plain.transformer)
    plain.load_lora_weights(str(tmp_path), weight_name="adapter.safetensors")
    inputs = {
        "hidden_states": torch.randn(1, 4, 16, generator=torch.Generator().manual_seed(0)),
        "encoder_hidden_states": torch.ones(1, 3, 48),
        "timestep": torch.tensor([0.5]),
        "img_ids": torch.zeros(4, 4),
        "txt_ids": torch.zeros(3, 4),
        "return_dict": False,
    }
    with torch.no_grad():
        ours, read, before = (
            network(**inputs)[0] for network in (backbone.unet, plain.transformer, untouched)
        )
    torch.testing.assert_close(read, ours, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(before, ours)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("klein") / "whole.mcap"
    events = list(run(folder, tiny_recipe(), backbone=tiny_klein(), data=tiny_data(2, 2)))
    return folder, events


def test_both_phases_train_with_every_term(trained):
    _, events = trained
    finished = events[-1]
    assert isinstance(finished, TrainingFinished)
    terms = {"source", "reference", "composed", "identity"}
    terms |= {"attention_source", "attention_reference", "attention_composed"}
    assert terms <= set(finished.losses)
    assert all(np.isfinite(value) for value in finished.losses.values())


def test_a_run_that_was_stopped_goes_on_to_the_same_files(trained, tmp_path):
    folder, _ = trained
    seen = []
    halves = run(
        tmp_path / "half.mcap",
        tiny_recipe(),
        backbone=tiny_klein(),
        data=tiny_data(2, 2),
        should_stop=lambda: len(seen) >= 5,
    )
    for event in halves:
        if type(event).__name__ == "StepEvent":
            seen.append(event)
        if type(event).__name__ == "Stopped":
            break
    assert 5 <= len(seen) < 8
    rest = run(
        tmp_path / "half.mcap",
        tiny_recipe(),
        backbone=tiny_klein(),
        data=tiny_data(2, 2),
        resume=True,
    )
    list(rest)
    for name in RESULTS:
        assert (tmp_path / "half.mcap" / name).read_bytes() == (folder / name).read_bytes()


def test_a_subject_is_loaded_drawn_and_taken_out_again(trained):
    folder, _ = trained
    subject, backbone = read_subject(folder), tiny_klein()
    pipeline = backbone.pipeline()
    prompt = f"a photo of a {ID_TOKEN} person in the {STYLE_TOKEN} style"
    table = backbone.text_encoders[0].get_input_embeddings()
    size = len(backbone.tokenizers[0])
    before = sample(backbone, "a photo of a person", [1], pipeline=pipeline, steps=2)
    subject.load_into(pipeline)
    (drawn,) = stream(
        backbone, prompt, [1], pipeline=pipeline, watch=[ID_TOKEN, STYLE_TOKEN], steps=2
    )
    learned = [drawn.image]
    for token in (ID_TOKEN, STYLE_TOKEN):
        assert drawn.attention[token].shape == (LATENT, LATENT)
        assert 0 < drawn.attention[token].max() <= 1
    subject.unload_from(pipeline)
    assert backbone.text_encoders[0].get_input_embeddings() is table
    assert len(backbone.tokenizers[0]) == size
    after = sample(backbone, "a photo of a person", [1], pipeline=pipeline, steps=2)
    assert np.array_equal(before[0], after[0])
    assert not np.array_equal(before[0], learned[0])


def test_it_is_registered_and_chosen_by_its_pipeline(monkeypatch):
    from importlib.metadata import EntryPoint

    from mcap.cli import backbone as chooser
    from mcap.registry import Registry

    found = Registry([EntryPoint("klein", "mcap_plugins.klein", "mcap")])
    assert found.failures == []
    monkeypatch.setattr(chooser, "registry", lambda: found)
    folder = str(tiny_klein_folder())
    entry, source = chooser.choose_backbone(folder)
    assert (entry.name, source) == ("klein", folder)
    facts = backbone_facts(entry, source)
    assert facts.native_size == SIZE
    assert facts.recipe_overrides["gradient_checkpointing"] is True
    counted = sum(p.numel() for p in tiny_klein().unet.parameters()) * 4 / 2**20
    assert facts.unet_mb == pytest.approx(counted)
    recipe("magicapture", [Layer("klein", entry.info.recipe_overrides)])
    backbone = found.create("backbone", "klein", "cpu", torch.float32, source=folder)
    assert backbone.info.id == folder
    with pytest.raises(MissingResourceError, match="no weights of its own"):
        found.create("backbone", "klein", "cpu", torch.float32)


def test_the_times_of_training_are_a_key(tmp_path):
    drawn = []
    for keys in ({}, {"flow_mean": 2.0, "flow_std": 0.5}):
        terms = step_terms(tiny_recipe(**keys), 2)
        example = Example("one", torch.zeros(16, LATENT, LATENT), torch.ones(1, LATENT, LATENT))
        ids = torch.zeros(1, dtype=torch.long)
        rows = [Row(role, example, (ids,)) for role in ("source", "identity")]
        random = torch.Generator().manual_seed(0)
        (batch,) = NoisedRows.draw(tiny_klein(), rows, terms, random)
        drawn.append(batch.timesteps)
    plain, later = (times.logit() for times in drawn)
    assert later[0].item() == pytest.approx(2 + 0.5 * plain[0].item(), rel=1e-9)
    limit = time_of_fraction(terms.identity_timesteps[1])
    assert plain[1] < later[1] < torch.tensor(limit, dtype=DOUBLE).logit()
    with pytest.raises(UsageError, match="is no rectified flow"):
        list(run(tmp_path / "no.mcap", tiny_recipe(flow_mean=1.0)))


def test_what_it_cannot_do_is_refused(tmp_path):
    backbone = tiny_klein()
    with pytest.raises(UsageError, match="scheduler of its own"):
        schedulers.make("euler", backbone.scheduler)
    for keys in ({"learns": "unet"}, {"learns": "key-value"}, {"text_encoder": True}):
        with pytest.raises(UsageError, match="words and LoRA alone"):
            list(run(tmp_path / "no.mcap", tiny_recipe(**keys), backbone=backbone))
        shutil.rmtree(tmp_path / "no.mcap", ignore_errors=True)


def test_the_distilled_variant_is_drawn_with_and_not_trained(tmp_path):
    folder = Path(shutil.copytree(tiny_klein_folder(), tmp_path / "distilled"))
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"is_distilled": True}))
    backbone = load("cpu", torch.float32, folder, id="x", licence="", commercial=False)
    assert backbone.pipeline().config.is_distilled
    sample(backbone, PROMPTS[0], [1], steps=1)
    with pytest.raises(UsageError, match="Base variant"):
        list(run(tmp_path / "no.mcap", tiny_recipe(), backbone=backbone))
    few = tiny_recipe(phase1_steps=1, phase2_steps=1)
    forced = list(run(tmp_path / "yes.mcap", few, backbone=backbone, distilled=True))
    assert isinstance(forced[-1], TrainingFinished)


def test_another_model_and_one_that_is_not_whole_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"is no FLUX\.2 klein"):
        load("cpu", torch.float32, tiny_folder(), id="x", licence="", commercial=False)
    with pytest.raises(MissingResourceError, match="not a whole model"):
        load("cpu", torch.float32, tmp_path, id="x", licence="", commercial=False)
