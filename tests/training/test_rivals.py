"""The rivals, each from training to a picture that diffusers alone draws from what was kept."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from mcap.contracts import ID_TOKEN, STYLE_TOKEN
from mcap.diffusion.pipeline_tokens import text_encoders
from mcap.diffusion.tokens import install
from mcap.errors import UsageError
from mcap.generation.extra_networks import Companion, ExtraNetworks
from mcap.generation.run import generate
from mcap.generation.settings import GenerateSettings
from mcap.images.provenance import read
from mcap.subjects.export import export
from mcap.subjects.manifest import ADAPTER, ATTENTION
from mcap.subjects.subject import model_version, read_subject
from mcap.training import plan
from mcap.training.batches import Example, Row
from mcap.training.events import CheckpointSaved, PhaseStarted, StepEvent
from mcap.training.phases import Phase, frozen, phase_optimizer, step_terms
from mcap.training.prepare import class_picture, missing_class_pictures
from mcap.training.step import StepModels, training_step
from tests.support.foreign_files import difference, picture, pipeline
from tests.support.subjects import make_profile, models
from tests.support.tiny import tiny_backbone, tiny_folder
from tests.support.tiny_run import RIVALS, run, tiny_data, tiny_recipe, tiny_rival

TEXT = f"a photo of a {ID_TOKEN} person in the {STYLE_TOKEN} style"
RARE = "a photo of a sks person in the ktn style"
KINDS = ("sd", "sdxl")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(recipe, kind, further keys) -> the subject and the events of its training."""
    made = {}

    def train(name: str, kind: str, **keys):
        key = (name, kind, *sorted(keys.items()))
        if key not in made:
            folder = tmp_path_factory.mktemp(name) / "me.mcap"
            found = tiny_rival(name, **keys)
            events = list(run(folder, found, backbone=tiny_backbone(kind=kind)))
            made[key] = read_subject(folder), events
        return made[key]

    return train


def double(kind: str = "sd"):
    """In double precision: rounding is not what is compared."""
    return pipeline(kind).to(torch.float64)


def ours(subject, kind: str, prompt: str = TEXT):
    """The picture that mcap draws, and the same pipeline's picture after all was taken out."""
    found, networks = double(kind), ExtraNetworks().beside(subject)
    networks.load_into(found, subject)
    drawn = picture(found, networks.expand(prompt))
    networks.unload_from(found, subject)
    return drawn, picture(found, "a photo of a person")


def load_words(found, subject) -> None:
    """Each token's file with ``load_textual_inversion``, as diffusers' own documentation does."""
    for token, path in subject.embeddings.items():
        pairs = text_encoders(found)
        if len(pairs) == 1:
            found.load_textual_inversion(str(path), token=token)
            continue
        state = load_file(path)
        for (encoder, tokenizer), key in zip(pairs, ("clip_l", "clip_g"), strict=True):
            found.load_textual_inversion(
                state[key], token=token, text_encoder=encoder, tokenizer=tokenizer
            )


def load_with_diffusers(subject, kind: str):
    """A pipeline of diffusers with what the subject's folder holds, and not a line of mcap."""
    from diffusers import DiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel

    parts = {}
    if "unet" in subject.modules:
        parts["unet"] = UNet2DConditionModel.from_pretrained(subject.path / "unet")
    if "text_encoder" in subject.modules:
        folder = subject.path / "text_encoder"
        parts["text_encoder"] = CLIPTextModel.from_pretrained(folder)
    found = DiffusionPipeline.from_pretrained(tiny_folder(kind=kind), **parts).to(torch.float64)
    if kind == "sdxl":  # as the exported script says it
        found.text_encoder_2.text_model.eos_token_id = found.tokenizer_2.eos_token_id
    load_words(found, subject)
    if subject.adapter is not None:
        found.load_lora_weights(str(subject.path), weight_name=ADAPTER)
    if subject.attention is not None:
        # Without ``_pipeline`` diffusers 0.42 reads the file and sets nothing.
        found.unet.load_attn_procs(str(subject.path), weight_name=ATTENTION, _pipeline=found)
    return found


KEPT = {
    "textual-inversion": {"tokens"},
    "dreambooth": {"unet"},
    "dreambooth-lora": {"adapter"},
    "custom-diffusion": {"tokens", "attention"},
    "pivotal-tuning": {"tokens", "adapter"},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", RIVALS)
def test_diffusers_draws_the_same_picture_from_what_is_kept(trained, name, kind):
    subject, _ = trained(name, kind)
    kept = {
        "tokens": bool(subject.embeddings),
        "adapter": subject.adapter is not None,
        "attention": subject.attention is not None,
        "unet": set(subject.modules) == {"unet"},
    }
    assert {part for part, there in kept.items() if there} == KEPT[name]
    prompt = TEXT if subject.embeddings else RARE
    drawn, after = ours(subject, kind)
    plain = double(kind)
    assert (after == picture(plain, "a photo of a person")).all()  # bit for bit
    if not subject.embeddings:
        assert difference(picture(plain, RARE), drawn) > 1e-2
    assert difference(picture(load_with_diffusers(subject, kind), prompt), drawn) < 1e-5
    if name in ("dreambooth", "custom-diffusion"):
        assert model_version(subject) == {"sd": "SD1", "sdxl": "SDXL"}[kind]


def test_dreambooth_with_its_text_encoder(trained):
    subject, events = trained("dreambooth", "sd", text_encoder=True, phase2_text_lr=1e-3)
    assert set(subject.modules) == {"unet", "text_encoder"}
    learned = next(event for event in events if isinstance(event, PhaseStarted)).learned
    assert set(learned) == {"unet", "text"}
    drawn, after = ours(subject, "sd")
    assert (after == picture(double(), "a photo of a person")).all()
    assert difference(picture(load_with_diffusers(subject, "sd"), RARE), drawn) < 1e-5
    alone, _ = trained("dreambooth", "sd")
    assert difference(ours(alone, "sd")[0], drawn) > 1e-3


LEARNS = {
    "textual-inversion": {"tokens"},
    "dreambooth": {"unet"},
    "dreambooth-lora": {"lora"},
    "custom-diffusion": {"tokens", "key-value"},
    "pivotal-tuning": {"tokens", "lora"},
}


@pytest.mark.parametrize("name", RIVALS)
def test_each_learns_what_its_method_says(trained, name):
    _, events = trained(name, "sd")
    last = [event for event in events if isinstance(event, PhaseStarted)][-1]
    assert set(last.learned) == LEARNS[name]
    unet = tiny_backbone().unet
    if name == "dreambooth":
        assert last.learned["unet"] == sum(p.numel() for p in unet.parameters())
    if name == "custom-diffusion":
        weights = unet.state_dict()
        names = [n for n in weights if n.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))]
        assert last.learned["key-value"] == sum(weights[n].numel() for n in names)
    step = [event for event in events if isinstance(event, StepEvent)][-1]
    has_prior = name in ("dreambooth", "dreambooth-lora", "custom-diffusion")
    assert set(step.losses) == {"loss", "source", "reference"} | ({"prior"} if has_prior else set())


def files(folder: Path) -> dict[str, str]:
    found = read_subject(folder).manifest.files
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in found}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", RIVALS)
def test_a_run_that_was_cut_ends_with_the_same_bytes(trained, tmp_path, name, kind):
    whole, _ = trained(name, kind)
    folder = tmp_path / "cut.mcap"
    events = run(folder, tiny_rival(name), backbone=tiny_backbone(kind=kind))
    steps = 0
    for event in events:
        steps += isinstance(event, StepEvent)
        if isinstance(event, CheckpointSaved) and steps >= 2:
            break
    events.close()
    torch.rand(3)
    list(run(folder, tiny_rival(name), backbone=tiny_backbone(kind=kind), resume=True))
    assert files(folder) == files(whole.path)


@pytest.mark.parametrize("name", RIVALS)
def test_the_backbone_is_handed_back_as_it_came(tmp_path, name):
    backbone = tiny_backbone()
    unet, encoder = backbone.unet, backbone.text_encoders[0]
    before = {key: value.clone() for key, value in unet.state_dict().items()}
    keys = {"text_encoder": True} if name == "dreambooth" else {}
    list(run(tmp_path / "a.mcap", tiny_rival(name, **keys), backbone=backbone))
    assert backbone.unet is unet and backbone.text_encoders[0] is encoder
    after = unet.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert not any(p.requires_grad for p in [*unet.parameters(), *encoder.parameters()])


@pytest.mark.parametrize("name", ["dreambooth", "custom-diffusion"])
def test_learned_weights_have_a_strength(trained, name):
    """Of 0 they are the backbone's, of 1 the learned ones, and half way between in between."""
    subject, _ = trained(name, "sd")
    key = next(
        name
        for name in pipeline().unet.state_dict()
        if name.endswith("attn2.to_k.weight") and "up_blocks" in name
    )

    def weight(scale):
        found = pipeline()
        subject.load_weights_into(found, scale)
        value = found.unet.state_dict()[key].clone()
        subject.unload_from(found)
        return value

    nothing, half, all_of_it = weight(0), weight(0.5), weight(1)
    assert torch.equal(nothing, pipeline().unet.state_dict()[key])
    assert not torch.equal(nothing, all_of_it)
    torch.testing.assert_close(half, (nothing + all_of_it) / 2)


@pytest.mark.parametrize("name", RIVALS)
def test_in_half_precision_they_learn_in_single(tmp_path, name):
    """And a whole network is kept, and drawn, in the backbone's."""
    backbone = tiny_backbone(dtype=torch.bfloat16)
    folder = tmp_path / "half.mcap"
    list(run(folder, tiny_rival(name), backbone=backbone, preview_every=4))
    subject = read_subject(folder)
    assert backbone.unet.dtype == torch.bfloat16
    if name == "dreambooth":
        state = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
        assert {value.dtype for value in state.values()} == {torch.bfloat16}
    found = backbone.pipeline()
    networks = ExtraNetworks().beside(subject)
    networks.load_into(found, subject)
    assert picture(found, networks.expand(TEXT)).std() > 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", RIVALS)
def test_the_exported_script_draws_what_mcap_draws(trained, tmp_path, monkeypatch, name, kind):
    import runpy
    import sys

    subject, _ = trained(name, kind)
    done = export(subject, "diffusers", tmp_path, name="Jane")
    script = tmp_path / "jane.py"
    size = "num_inference_steps=2, width=64, height=64"  # the tiny model has none of its own
    script.write_text(script.read_text().replace("num_inference_steps=30", size))
    monkeypatch.setattr(sys, "argv", [script.name, str(tiny_folder(kind=kind))])
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(script))
    assert done.prompt == (RARE if not subject.embeddings else done.prompt)
    found, networks = pipeline(kind), ExtraNetworks().beside(subject)
    networks.load_into(found, subject)
    found.set_progress_bar_config(disable=True)
    expected = found(
        networks.expand(TEXT),
        num_inference_steps=2,
        guidance_scale=7.0,
        width=64,
        height=64,
        generator=torch.Generator("cpu").manual_seed(0),
    ).images[0]
    shown = np.asarray(Image.open(tmp_path / "jane.png")).astype(int)
    assert np.abs(shown - np.asarray(expected).astype(int)).max() <= 1
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    assert before
    monkeypatch.undo()
    script.unlink()
    export(subject, "diffusers", tmp_path, name="Jane")
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}


@pytest.mark.parametrize("name", ["dreambooth", "custom-diffusion"])
def test_what_other_programs_cannot_load_is_refused(trained, tmp_path, name):
    subject, _ = trained(name, "sd")
    with pytest.raises(UsageError, match=f"recipe '{name}', which changes the model's own"):
        export(subject, "a1111", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_rare_word_stands_in_the_prompts_of_other_programs(trained, tmp_path):
    subject, _ = trained("dreambooth-lora", "sd")
    done = export(subject, "a1111", tmp_path)
    assert done.words == {ID_TOKEN: "sks", STYLE_TOKEN: "ktn"}
    assert done.prompt == RARE
    assert [path.suffix for path in done.files].count(".safetensors") == 1


def test_weights_stand_alone_and_go_with_loras(trained):
    """A subject that changes the model's own weights comes first, and has no second beside it."""
    whole, _ = trained("dreambooth", "sd")
    lora, _ = trained("dreambooth-lora", "sd")
    with pytest.raises(UsageError, match="recipe 'dreambooth', which changes the model's own"):
        ExtraNetworks((Companion(whole, 1.0, 2),)).beside(lora)
    found, networks = double(), ExtraNetworks((Companion(lora, 1.0, 2),)).beside(whole)
    alone, _ = ours(whole, "sd")
    networks.load_into(found, whole)
    both = picture(found, networks.expand(TEXT))
    assert difference(alone, both) > 1e-3
    networks.unload_from(found, whole)
    assert (picture(found) == picture(double())).all()
    assert networks.fill("a {id2} person") == "a sks person"


def test_generate_draws_with_a_subject_of_rare_words(trained, tmp_path):
    """The record says what was asked for; A1111's text says what a text encoder read."""
    subject, _ = trained("dreambooth", "sd")
    backbone, profile = tiny_backbone(), make_profile()
    before = {key: value.clone() for key, value in backbone.unet.state_dict().items()}
    settings = GenerateSettings(count=2, steps=2)
    *_, finished = generate(subject, profile, models(backbone), tmp_path / "out", settings)
    assert len(finished.pictures) == 2
    written = read(finished.pictures[0].path)
    assert ID_TOKEN in written.record["prompt"]
    assert written.parameters.startswith(RARE)
    after = backbone.unet.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


@pytest.mark.parametrize("prior", ["images", "outputs"])
@pytest.mark.parametrize("learns", ["lora", "unet", "key-value"])
def test_prior_preservation_with_every_method(tmp_path, prior, learns):
    """magicapture with a prior, too: a term of its own in phase 2, and the same bytes after a
    cut."""
    keys = {"phase1_steps": 2, "phase2_steps": 4, "lora_rank": 2, "crops": 1}
    found = tiny_recipe(prior=prior, prior_weight=2.0, learns=learns, **keys)
    whole, cut = tmp_path / "whole.mcap", tmp_path / "cut.mcap"
    steps = [event for event in run(whole, found) if isinstance(event, StepEvent)]
    assert ["prior" in step.losses for step in steps] == [False] * 2 + [True] * 4
    first, *others = (step.losses["prior"] for step in steps[2:])
    # At first nothing has been learned, so that the outputs are the untouched backbone's.
    assert (first < 1e-6) == (prior == "outputs")
    assert all(value > 0 for value in others)
    events = run(cut, found)
    assert next(event for event in events if isinstance(event, CheckpointSaved) and event.step == 4)
    events.close()
    list(run(cut, found, resume=True))
    assert files(cut) == files(whole)


def test_the_prior_of_outputs_is_the_distance_to_the_untouched_backbone():
    """||eps_theta - eps_untouched||^2 on the same noised latent under the class prompt."""
    backbone = tiny_backbone()
    unet = tiny_backbone().unet  # untouched
    found = tiny_recipe(prior="outputs", prior_weight=3.0, attention=False, identity=False)
    with frozen(backbone, found) as untouched:
        tokens = install(backbone, {ID_TOKEN: "person"})
        optimizer = phase_optimizer(Phase(2, 0, 4), found, untouched, tokens, seed=1)
        with torch.no_grad():
            for parameter in optimizer.groups["lora"]:
                parameter.add_(0.1)
        (ids,) = tokens.encode(["a photo of a person"])
        latent = torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(1))
        rows = [Row("prior", Example("me", latent, torch.zeros(1, 16, 16)), (ids[0],))]
        terms = step_terms(found, 2)
        models = StepModels(backbone, tokens, untouched=untouched)
        result = training_step(models, rows, terms, torch.Generator().manual_seed(0))
        random = torch.Generator().manual_seed(0)
        time = torch.randint(0, 1000, (1,), generator=random)
        noise = torch.randn(1, 4, 16, 16, generator=random)
        alpha = backbone.scheduler.alphas_cumprod[time]
        noised = alpha.sqrt() * latent + (1 - alpha).sqrt() * noise
        hidden = backbone.encode_prompt([ids]).hidden
        ours = backbone.unet(noised, time, hidden).sample
        expected = (ours - unet(noised, time, hidden).sample).square().mean()
        assert result.loss.item() == pytest.approx(3 * expected.item(), rel=1e-4)
        result.loss.backward()
        assert all(p.grad.abs().sum() > 0 for p in optimizer.groups["lora"])
        assert not tokens.parameters()[0].grad.any()  # the class prompt has no token
        tokens.remove()


def test_a_prior_needs_its_prompts_and_pictures(tmp_path):
    data = tiny_data()
    for without, words in (({"prior": []}, "pictures"), ({"prompts": None}, "prompts")):
        if "prompts" in without:
            without = {"prompts": replace(data.prompts, prior=())}
        found = tiny_recipe(prior="images")
        with pytest.raises(ValueError, match=words):
            list(run(tmp_path / "none.mcap", found, data=replace(data, **without)))


def test_pictures_of_strangers_are_drawn_once_and_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("MCAP_CACHE_DIR", str(tmp_path))
    backbone = tiny_backbone()
    assert missing_class_pictures(backbone, "old man", 2) == 2
    crops = [class_picture(backbone, "old man", number) for number in range(2)]
    assert not np.array_equal(crops[0].image, crops[1].image)
    assert all(crop.image.shape == (64, 64, 3) and not crop.mask.any() for crop in crops)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
    assert len(kept) == 2 and missing_class_pictures(backbone, "old man", 3) == 1
    again = class_picture(backbone, "old man", 0)
    assert again.sha256 == crops[0].sha256 and np.array_equal(again.image, crops[0].image)
    assert kept == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
    class_picture(backbone, "woman", 0)  # another noun has its own
    class_picture(tiny_backbone(seed=1), "old man", 0)  # and another backbone
    assert len(list(tmp_path.rglob("*.png"))) == 4


def test_a_disk_without_room_is_found_before_the_work(tmp_path, monkeypatch):
    free = 10 * 2**20
    monkeypatch.setattr(plan.shutil, "disk_usage", lambda place: SimpleNamespace(free=free))
    needs = SimpleNamespace(
        out=tmp_path / "not" / "there" / "me.mcap",
        recipe=tiny_rival("dreambooth"),
        kept_mb=4.0,
        disk_mb=9.0,
    )
    plan.Plan.require_disk(needs)
    needs.disk_mb = 11.0
    with pytest.raises(UsageError, match="dreambooth' keeps a whole network") as caught:
        plan.Plan.require_disk(needs)
    assert caught.value.details == {"disk_mb": 11, "free_mb": 10}
