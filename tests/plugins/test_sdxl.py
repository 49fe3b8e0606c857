"""SDXL's kind of model, tiny and random: from its text encoders to a picture in plain diffusers."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mcap.contracts import Backbone
from mcap.diffusion.tokens import ID_TOKEN, STYLE_TOKEN, install
from mcap.subjects.subject import read_subject
from mcap.training.batches import Example, Row
from mcap.training.events import PhaseStarted, TrainingFinished
from mcap.training.step import StepModels, StepTerms, training_step
from tests.support.tiny import sample, stream, tiny_backbone, tiny_folder
from tests.support.tiny_run import run, tiny_recipe

PROMPT = f"a photo of a {ID_TOKEN} person in the {STYLE_TOKEN} style"

# Runs in a process of its own, which imports nothing of mcap's.
PLAIN = """
import json, sys
import numpy as np, torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file

prompt, requests = sys.argv[1:]
for folder, subject, out in json.loads(requests):
    pipeline = DiffusionPipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    for name in ("mcap-id", "mcap-style"):
        file = f"{subject}/embeddings/{name}.safetensors"
        state = load_file(file)
        if "clip_l" not in state:
            pipeline.load_textual_inversion(file)
            continue
        for key, end in (("clip_l", ""), ("clip_g", "_2")):
            pipeline.load_textual_inversion(
                {f"<{name}>": state[key]},
                token=f"<{name}>",
                text_encoder=getattr(pipeline, "text_encoder" + end),
                tokenizer=getattr(pipeline, "tokenizer" + end),
            )
    pipeline.load_lora_weights(subject, weight_name="adapter.safetensors")
    if "clip_l" in state:  # where the text ends, and not at the highest token id
        assert pipeline.text_encoder_2.config.eos_token_id == 2
        pipeline.text_encoder_2.text_model.eos_token_id = pipeline.tokenizer_2.eos_token_id
    latents = pipeline(
        prompt,
        num_inference_steps=3,
        guidance_scale=5.0,
        width=64,
        height=96,
        generator=torch.Generator().manual_seed(5),
        output_type="latent",
    ).images
    np.save(out, latents.numpy())
assert not [name for name in sys.modules if name.split(".")[0].startswith("mcap")]
"""


@pytest.fixture(scope="module")
def backbone():
    return tiny_backbone(kind="sdxl")


def test_it_meets_the_contract(backbone):
    assert isinstance(backbone, Backbone)
    assert (len(backbone.tokenizers), len(backbone.text_encoders)) == (2, 2)
    assert backbone.info.native_size == 64
    assert backbone.info.multiple_of == 16
    for module in (backbone.unet, backbone.vae, *backbone.text_encoders):
        assert not module.training
        assert not any(parameter.requires_grad for parameter in module.parameters())


def test_prompts_are_encoded_as_plain_diffusers_does(backbone):
    ids = [
        tokenizer(["a photo"], padding="max_length", return_tensors="pt").input_ids
        for tokenizer in backbone.tokenizers
    ]
    assert not torch.equal(*ids)  # the second one pads with another token
    ours = backbone.encode_prompt(ids)
    pipeline = backbone.pipeline()
    hidden, _, pooled, _ = pipeline.encode_prompt(
        "a photo", device="cpu", do_classifier_free_guidance=False
    )
    assert torch.equal(ours.hidden, hidden)
    assert torch.equal(ours.pooled, pooled)


def test_added_conditions_are_those_of_plain_diffusers(backbone):
    """For a picture that is not square too, where height and width could be mixed up."""
    seen = {}

    def keep(_module, _args, kwargs):
        seen.update(kwargs["added_cond_kwargs"])

    handle = backbone.unet.register_forward_pre_hook(keep, with_kwargs=True)
    pipeline = backbone.pipeline()
    pipeline.set_progress_bar_config(disable=True)
    pipeline("a photo", num_inference_steps=1, guidance_scale=1.0, height=96, width=64)
    handle.remove()
    tokenized = [
        tokenizer(["a photo"], padding="max_length", return_tensors="pt").input_ids
        for tokenizer in backbone.tokenizers
    ]
    ours = backbone.added_conditions(backbone.encode_prompt(tokenized), (96, 64))
    assert seen.keys() == ours.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, seen[name].to(value.dtype), rtol=0, atol=0)


def test_tokens_learn_in_both_text_encoders_and_through_the_pooled_embedding():
    backbone = tiny_backbone(kind="sdxl")
    tokens = install(backbone, {ID_TOKEN: "man", STYLE_TOKEN: "photo style"})
    embedding = backbone.encode_prompt(tokens.encode([PROMPT]))
    first, second = tokens.parameters()
    assert first.shape[1] != second.shape[1]
    (pooled,) = torch.autograd.grad(embedding.pooled.sum(), [second], retain_graph=True)
    hidden = torch.autograd.grad(embedding.hidden.square().sum(), [first, second])
    for gradient in (pooled, *hidden):
        assert (gradient.norm(dim=1) > 0).all()


@pytest.mark.parametrize(
    ("kind", "zero"), [("epsilon", False), ("v_prediction", False), ("v_prediction", True)]
)
def test_a_training_step_is_what_plain_diffusers_computes(kind, zero):
    """Loss and the gradient of both encoders' words: rows drawn in the documented order, noised
    and given their target by DDPMScheduler (with zero signal at the last timestep, too), prompts
    and size conditions by the pipeline; latents that are not square."""
    from diffusers import DDIMScheduler, DDPMScheduler

    backbone = tiny_backbone(kind="sdxl", prediction_type=kind)
    config = {**backbone.scheduler.config, "rescale_betas_zero_snr": zero}
    # Euler's last alpha is 2^-24 in place of 0, and the random network magnifies that.
    backbone.scheduler = DDIMScheduler.from_config(config)
    tokens = install(backbone, {ID_TOKEN: "man", STYLE_TOKEN: "photo style"})
    random = torch.Generator().manual_seed(2)
    examples = [
        Example(str(i), torch.randn(4, 24, 16, generator=random), torch.ones(1, 24, 16))
        for i in range(2)
    ]
    prompts = [f"a photo of a {ID_TOKEN} person", PROMPT]
    ids = tokens.encode(prompts)
    rows = [
        Row(role, example, tuple(each[i] for each in ids))
        for i, (role, example) in enumerate(zip(("source", "reference"), examples, strict=True))
    ]
    terms = StepTerms(attention=0.0, identity=0.0, masked=False)
    if zero:
        terms = replace(terms, timesteps=(0.999, 1.0))  # the last one alone
    generator = torch.Generator().manual_seed(5)
    result = training_step(StepModels(backbone, tokens), rows, terms, generator)
    result.loss.backward()

    pipeline = tiny_backbone(kind="sdxl").pipeline()
    tables = []
    for index, (encoder, tokenizer) in enumerate(
        zip(
            (pipeline.text_encoder, pipeline.text_encoder_2),
            (pipeline.tokenizer, pipeline.tokenizer_2),
            strict=True,
        )
    ):
        for token, vectors in tokens.vectors().items():
            pipeline.load_textual_inversion(
                {token: vectors[index]}, token=token, text_encoder=encoder, tokenizer=tokenizer
            )
        table = encoder.get_input_embeddings().weight.requires_grad_(True)
        tables.append((table, tokenizer.convert_tokens_to_ids([ID_TOKEN, STYLE_TOKEN])))
    scheduler = DDPMScheduler.from_config(config)
    generator = torch.Generator().manual_seed(5)
    drawn = [
        (
            torch.randint(999 if zero else 0, 1000, (), generator=generator),
            torch.randn(4, 24, 16, generator=generator),
        )
        for _ in rows
    ]
    t, noise = (torch.stack(parts) for parts in zip(*drawn, strict=True))
    latents = torch.stack([example.latent for example in examples])
    hidden, _, pooled, _ = pipeline.encode_prompt(
        prompts, device="cpu", do_classifier_free_guidance=False
    )
    sizes = pipeline._get_add_time_ids(
        (96, 64), (0, 0), (96, 64), dtype=torch.float32,
        text_encoder_projection_dim=pooled.shape[1],
    )  # fmt: skip
    prediction = pipeline.unet(
        scheduler.add_noise(latents, noise, t),
        t,
        encoder_hidden_states=hidden,
        added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes.repeat(2, 1)},
    ).sample
    target = noise if kind == "epsilon" else scheduler.get_velocity(latents, noise, t)
    loss = 2 * torch.nn.functional.mse_loss(prediction, target)
    loss.backward()
    assert result.loss.item() == pytest.approx(loss.item(), rel=1e-5)
    for ours, (table, places) in zip(tokens.parameters(), tables, strict=True):
        assert ours.grad.abs().max() > 1e-6
        torch.testing.assert_close(ours.grad, table.grad[places], rtol=1e-3, atol=1e-6)


def test_without_a_negative_prompt_guidance_starts_from_zeros(backbone, tmp_path):
    """``force_zeros_for_empty_prompt``: drawing does what plain diffusers does, for either value,
    and an empty text is not the same."""
    from diffusers import StableDiffusionXLPipeline

    from mcap_plugins.stable_diffusion.load import load

    def plain(folder, **extra):
        pipeline = StableDiffusionXLPipeline.from_pretrained(folder)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline(
            "a photo", num_inference_steps=2, guidance_scale=5.0, height=64, width=64,
            generator=torch.Generator().manual_seed(3), output_type="np", **extra,
        ).images[0]  # fmt: skip

    def ours(backbone):
        return sample(backbone, "a photo", [3], steps=2, guidance_scale=5.0)[0] / 255

    folder = tiny_folder(kind="sdxl")
    assert np.abs(ours(backbone) - plain(folder)).max() <= 1 / 255
    assert np.abs(ours(backbone) - plain(folder, negative_prompt="")).max() > 0.02
    index = json.loads((folder / "model_index.json").read_text())
    for path in folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "model_index.json").unlink()
    (tmp_path / "model_index.json").write_text(
        json.dumps({**index, "force_zeros_for_empty_prompt": False})
    )
    other = load("cpu", torch.float32, tmp_path)
    assert not other.zero_empty
    assert np.abs(ours(other) - plain(folder, negative_prompt="")).max() <= 1 / 255


def test_half_precision_keeps_the_autoencoder_in_single_unless_it_was_made_for_half(tmp_path):
    from mcap_plugins.stable_diffusion.folder import load_folder
    from mcap_plugins.stable_diffusion.parts import vae_precision

    assert vae_precision({}, torch.float16) == torch.float32  # as SDXL's own configuration
    assert vae_precision({"force_upcast": False}, torch.float16) == torch.float16
    assert vae_precision({}, torch.bfloat16) == torch.bfloat16
    folder = tiny_folder(kind="sdxl")
    modules = load_folder(folder, torch.float16).modules
    assert modules["unet"].dtype == modules["text_encoder_2"].dtype == torch.float16
    assert modules["vae"].dtype == torch.float32

    from diffusers import AutoencoderKL

    made_for_half = tmp_path / "fixed"
    vae = AutoencoderKL.from_pretrained(folder / "vae")
    vae.register_to_config(force_upcast=False)
    with torch.no_grad():
        vae.decoder.conv_out.bias.add_(1)
    vae.save_pretrained(made_for_half)
    parts = load_folder(folder, torch.float16, made_for_half)
    assert parts.modules["vae"].dtype == torch.float16
    assert parts.sha256 != load_folder(folder, torch.float16).sha256
    expected = vae.decoder.conv_out.bias.to(torch.float16)
    assert torch.equal(parts.modules["vae"].decoder.conv_out.bias, expected)


# name -> kind, prediction type, recipe
RUNS = {
    "sd": ("sd", "epsilon", {}),
    "sd-v": ("sd", "v_prediction", {}),
    "sdxl": ("sdxl", "epsilon", {}),
    "sdxl-v-text": (
        "sdxl", "v_prediction", {"text_encoder": True, "lora_targets": "released"},
    ),
}  # fmt: skip
STRONG = {
    "phase1_token_lr": 0.5,
    "phase2_token_lr": 0.1,
    "phase2_text_lr": 0.1,
    "phase2_lora_lr": 0.1,
    "token_norms": False,
}


def _latents(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        PROMPT, num_inference_steps=3, guidance_scale=5.0, width=64, height=96,
        generator=torch.Generator().manual_seed(5), output_type="latent",
    ).images.numpy()  # fmt: skip


@pytest.fixture(scope="module")
def drawn_elsewhere(tmp_path_factory):
    """Trains each of `RUNS` through both phases; one process without mcap draws from the files."""
    place = tmp_path_factory.mktemp("sdxl")
    requests, found = [], {}
    for name, (kind, prediction_type, keys) in RUNS.items():
        backbone = tiny_backbone(kind=kind, prediction_type=prediction_type)
        subject = place / f"{name}.mcap"
        events = list(run(subject, tiny_recipe(**STRONG, **keys), backbone=backbone))
        found[name] = (backbone, subject, events)
        folder = tiny_folder(prediction_type, kind=kind)
        requests.append((str(folder), str(subject), str(place / f"{name}.npy")))
    script = place / "plain.py"
    script.write_text(PLAIN)
    done = subprocess.run(
        [sys.executable, script, PROMPT, json.dumps(requests)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {name: (*parts, np.load(place / f"{name}.npy")) for name, parts in found.items()}


@pytest.mark.parametrize("name", RUNS)
def test_trained_saved_and_loaded_by_plain_diffusers_in_another_process(drawn_elsewhere, name):
    backbone, folder, events, theirs = drawn_elsewhere[name]
    assert [event.phase for event in events if isinstance(event, PhaseStarted)] == [1, 2]
    last = events[-1]
    assert isinstance(last, TrainingFinished)
    assert {"source", "reference", "composed", "identity", "attention_composed"} <= set(last.losses)

    subject = read_subject(folder)
    pipeline = backbone.pipeline()
    drawn = {}
    for key, scales in {
        "both": {},
        "tokens": {"adapter_scale": 0},
        "adapter": {"token_scale": 0},
    }.items():
        subject.load_into(pipeline, **scales)
        drawn[key] = _latents(pipeline)
        subject.unload_from(pipeline)
    np.testing.assert_allclose(theirs, drawn["both"], rtol=0, atol=1e-4)
    # What is compared is not nothing: adapter and tokens both show.
    assert np.abs(drawn["tokens"] - drawn["both"]).max() > 0.01
    assert np.abs(drawn["adapter"] - drawn["both"]).max() > 0.01


def test_attention_in_a_picture_that_is_not_square(backbone):
    watch = ["<|startoftext|>", "a</w>", "photo</w>"]
    (drawn,) = stream(backbone, "a photo", [1], steps=2, size=(64, 96), watch=watch)
    assert drawn.image.shape == (96, 64, 3)
    assert {maps.shape for maps in drawn.attention.values()} == {(24, 16)}
    together = sum(drawn.attention.values())  # probabilities, the end of the text left out
    assert 0 < together.min() < together.max() <= 1 + 1e-5


def test_a_checkpoint_resumes_with_both_encoders_tokens(tmp_path):
    recipe = tiny_recipe()
    for event in run(tmp_path / "a.mcap", recipe, backbone=tiny_backbone(kind="sdxl")):
        assert event
    stopping = iter([False, False, True])
    for _ in run(
        tmp_path / "b.mcap", recipe, backbone=tiny_backbone(kind="sdxl"),
        should_stop=lambda: next(stopping),
    ):  # fmt: skip
        pass
    for _ in run(tmp_path / "b.mcap", recipe, backbone=tiny_backbone(kind="sdxl"), resume=True):
        pass
    files = ["adapter.safetensors", "embeddings/mcap-id.safetensors"]
    for name in files:
        one, other = (
            Path(tmp_path / folder / name).read_bytes() for folder in ("a.mcap", "b.mcap")
        )
        assert one == other, name
