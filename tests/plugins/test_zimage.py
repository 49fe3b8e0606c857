"""Z-Image on tiny random parts of its own classes, beside diffusers' own pipeline."""

from __future__ import annotations

import json
import shutil
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import ZImagePipeline
from safetensors.torch import load_file, save_file
from torch.nn.functional import mse_loss

from mcap.cli import backbone as chooser
from mcap.contracts import ID_TOKEN, STYLE_TOKEN
from mcap.diffusion.latents import encode
from mcap.diffusion.lora import add_lora
from mcap.diffusion.prompt_cache import concatenate, take_row
from mcap.diffusion.tokens import install
from mcap.errors import MissingResourceError, UsageError
from mcap.registry import Registry
from mcap.subjects.subject import read_subject
from mcap.training.backbone_facts import backbone_facts
from mcap.training.batches import Example, Row
from mcap.training.events import StepEvent, Stopped, TrainingFinished
from mcap.training.phases import Phase, frozen, phase_optimizer
from mcap.training.recipe import Layer, recipe
from mcap.training.step import StepModels, StepTerms, training_step
from mcap.weights import cache
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
FEW = tiny_recipe(phase1_steps=2, phase2_steps=2)
RESULTS = (
    "adapter.safetensors",
    "embeddings/mcap-id.safetensors",
    "embeddings/mcap-style.safetensors",
)


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


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("zimage") / "me.mcap"
    events = list(run(folder, FEW, backbone=tiny_zimage_backbone(), data=tiny_data(2, 2)))
    return folder, events


def test_both_phases_train_with_every_term(trained):
    finished = trained[1][-1]
    assert isinstance(finished, TrainingFinished)
    terms = {"source", "reference", "composed", "identity"}
    terms |= {"attention_source", "attention_reference", "attention_composed"}
    assert terms <= set(finished.losses)
    assert all(np.isfinite(value) for value in finished.losses.values())


def test_a_run_that_was_stopped_goes_on_to_the_same_files(trained, tmp_path):
    seen: list[StepEvent] = []

    def part(**options):
        return run(
            tmp_path / "half.mcap",
            FEW,
            backbone=tiny_zimage_backbone(),
            data=tiny_data(2, 2),
            **options,
        )

    for event in part(should_stop=lambda: len(seen) >= 3):
        if isinstance(event, StepEvent):
            seen.append(event)
        if isinstance(event, Stopped):
            break
    assert len(seen) == 3
    list(part(resume=True))
    for name in RESULTS:
        ours, whole = tmp_path / "half.mcap" / name, trained[0] / name
        assert ours.read_bytes() == whole.read_bytes()


def test_the_subject_is_drawn_and_taken_out_again(trained):
    subject, fresh = read_subject(trained[0]), tiny_zimage_backbone()
    pipeline = fresh.pipeline()
    prompt = f"a photo of a {ID_TOKEN} person in the {STYLE_TOKEN} style"
    before = sample(fresh, PROMPTS[0], [1], pipeline=pipeline, steps=2)
    subject.load_into(pipeline)
    learned = sample(fresh, prompt, [1], pipeline=pipeline, steps=2)
    subject.unload_from(pipeline)
    after = sample(fresh, PROMPTS[0], [1], pipeline=pipeline, steps=2)
    assert np.array_equal(before[0], after[0])
    assert not np.array_equal(before[0], learned[0])


@pytest.fixture
def registered(monkeypatch):
    found = Registry([EntryPoint("zimage", "mcap_plugins.zimage", "mcap")])
    assert found.failures == []
    monkeypatch.setattr(chooser, "registry", lambda: found)
    return found


def test_it_is_registered_and_chosen_by_its_pipeline(registered):
    folder = str(tiny_zimage_folder())
    entry, source = chooser.choose_backbone(folder)
    assert (entry.name, source) == ("zimage", folder)
    facts = backbone_facts(entry, source)
    assert (facts.native_size, facts.architecture, facts.distilled) == (SIZE, "zimage", False)
    assert facts.recipe_overrides["gradient_checkpointing"] is True
    counted = sum(p.numel() for p in tiny_zimage_backbone().unet.parameters()) * 4 / 2**20
    assert facts.unet_mb == pytest.approx(counted)
    found = recipe("magicapture", [Layer("zimage", entry.info.recipe_overrides)])
    assert (found.attention_depth, found.attention_among) == ((0.15, 0.5), "prompt")
    backbone = registered.create("backbone", "zimage", "cpu", torch.float32, source=folder)
    assert backbone.info.id == folder
    assert backbone.info.generate_defaults["steps"] == 50
    with pytest.raises(MissingResourceError, match="no weights of its own"):
        registered.create("backbone", "zimage", "cpu", torch.float32)


def scheduler_of(folder: Path, **changes) -> None:
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("name", "shift", "distilled"),
    [("Z-Image", 6.0, False), ("Z-Image-Turbo", 6.0, True), ("model", 3.0, True)],
)
def test_turbo_is_known_by_its_name_or_its_schedule(name, shift, distilled, registered, tmp_path):
    folder = Path(shutil.copytree(tiny_zimage_folder(), tmp_path / name))
    scheduler_of(folder, use_dynamic_shifting=False, shift=shift)
    assert backbone_facts(*chooser.choose_backbone(str(folder))).distilled == distilled
    backbone = registered.create("backbone", "zimage", "cpu", torch.float32, source=folder)
    assert backbone.info.distilled == distilled
    assert backbone.info.generate_defaults["steps"] == (9 if distilled else 50)
    if distilled:
        with pytest.raises(UsageError, match="Base variant"):
            list(run(tmp_path / "no.mcap", FEW, backbone=backbone))


COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_a_download_that_was_interrupted_is_gone_on_with(registered, tmp_path, monkeypatch):
    """Of a part in several files one was not fetched."""
    repo = tmp_path / "hub" / "models--owner--tiny"
    folder = Path(shutil.copytree(tiny_zimage_folder(), repo / "snapshots" / COMMIT))
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(cache, "_offline", True)
    part = folder / "text_encoder"
    state = load_file(part / "model.safetensors")
    (part / "model.safetensors").unlink()
    names = [f"model-{i:05d}-of-00002.safetensors" for i in (1, 2)]
    keys = sorted(state)
    shards = dict(zip(names, (keys[::2], keys[1::2]), strict=True))
    for name, its in shards.items():
        save_file({key: state[key] for key in its}, part / name, {"format": "pt"})
    where = {key: name for name, its in shards.items() for key in its}
    index = {"metadata": {"total_size": 1}, "weight_map": where}
    (part / "model.safetensors.index.json").write_text(json.dumps(index))
    entry, source = chooser.choose_backbone("owner/tiny", ask_the_hub=True)
    assert (entry.name, source) == ("zimage", "owner/tiny")
    backbone = registered.create("backbone", "zimage", "cpu", torch.float32, source="owner/tiny")
    assert (backbone.info.id, backbone.info.revision) == ("owner/tiny", COMMIT)
    (part / names[1]).unlink()
    with pytest.raises(MissingResourceError, match="not wholly"):
        registered.create("backbone", "zimage", "cpu", torch.float32, source="owner/tiny")


def test_another_model_is_refused():
    with pytest.raises(UsageError, match="is no Z-Image"):
        load("cpu", torch.float32, tiny_klein_folder(), id="x", licence="", commercial=False)
