"""Exported files draw the subject's picture elsewhere, in float32, and overwrite nothing."""

from __future__ import annotations

import json
import re
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mcap import cli
from mcap.diffusion.pipeline_tokens import text_encoders
from mcap.errors import UsageError
from mcap.generation.extra_networks import read_extra_networks
from mcap.subjects.export import FORMATS, export, file_name
from mcap.subjects.subject import read_subject
from tests.support.foreign_files import (
    TEXT,
    difference,
    flat_layers,
    merged,
    picture,
    pipeline,
    subject_picture,
)
from tests.support.subjects import make_profile, make_subject
from tests.support.tiny import tiny_folder

PROFILE = make_profile(
    prompts={
        "composed": ["a photo (studio) of a {id} {noun}, {style}."],
        "negative": "dark [black]",
    }
)


@pytest.fixture(scope="module", params=["sd", "sdxl"])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def subject(kind, tmp_path_factory):
    """Text encoders and UNet have LoRA layers, and alpha is half the rank."""
    folder = tmp_path_factory.mktemp("subject") / "Jane Doe.mcap"
    return make_subject(folder, scale=0.2, kind=kind, text=True, alpha=1)


@pytest.fixture(scope="module")
def ours(subject, kind):
    return subject_picture(subject, kind)


def load_words(pipeline, files: dict[str, Path]) -> None:
    """The vectors of each file in place of a word, as every program does in its way."""
    for word, path in files.items():
        state = load_file(path)
        rows = [state["clip_l"], state["clip_g"]] if len(state) == 2 else list(state.values())
        for (encoder, tokenizer), row in zip(text_encoders(pipeline), rows, strict=True):
            assert row.shape == (1, encoder.get_input_embeddings().weight.shape[1])
            pipeline.load_textual_inversion(
                row, token=word, text_encoder=encoder, tokenizer=tokenizer
            )


WORDS = ("<one>", "<two>")
PLACES = {
    "diffusers": ("{}", "{}"),
    "kohya": ("{}", "{}"),
    "a1111": ("models/Lora/{}", "embeddings/{}"),
    "comfyui": ("models/loras/{}", "models/embeddings/{}"),
}


@pytest.mark.parametrize("format", FORMATS)
def test_the_same_picture(subject, kind, ours, tmp_path, format):
    done = export(subject, format, tmp_path)
    lora = tmp_path / PLACES[format][0].format("jane-doe.safetensors")
    words = [
        tmp_path / PLACES[format][1].format(f"jane-doe-{n}.safetensors") for n in ("id", "style")
    ]
    assert {lora, *words} <= set(done.files) and all(path.is_file() for path in done.files)
    # One as the other program applies it, and one as diffusers does.
    loads = [lambda p: p.load_lora_weights(str(lora.parent), weight_name=lora.name)]
    if format != "diffusers":
        loads = [lambda p: merged(p, load_file(lora)), *(loads if format == "kohya" else [])]
    for load in loads:
        found = pipeline(kind).to(torch.float64)
        load(found)
        load_words(found, dict(zip(WORDS, words, strict=True)))
        assert difference(picture(found, TEXT.format(*WORDS)), ours) < 1e-5

    with safe_open(lora, framework="pt") as file:
        header = file.metadata()
        keys = list(file.keys())
    assert header["ss_base_model_version"] == {"sd": "sd_v1", "sdxl": "sdxl_base_v1-0"}[kind]
    assert header["ss_output_name"] == "jane-doe"
    if format != "diffusers":
        assert sum(key.endswith(".alpha") for key in keys) * 3 == len(keys)
        assert any(key.startswith("lora_te2_") for key in keys) == (kind == "sdxl")


def test_lycoris_reads_every_layer(subject, kind, tmp_path):
    """Its own modules, made from the file, add alpha / rank * up @ down to a weight."""
    pytest.importorskip("lycoris", reason="lycoris-lora is not installed")
    from lycoris.modules import get_module, make_module

    done = export(subject, "kohya", tmp_path)
    state = load_file(next(path for path in done.files if path.name == "jane-doe.safetensors"))
    plain, expected = flat_layers(pipeline(kind)), flat_layers(merged(pipeline(kind), state))
    names = {key.split(".")[0] for key in state}
    assert len(names) * 3 == len(state)
    for name in names:
        maker, tensors = get_module(state, name)
        module = make_module(maker, tensors, name, plain[name])
        assert module.name == "locon"
        change = module.get_diff_weight()[0]
        wanted = expected[name].weight - plain[name].weight
        assert (change - wanted).abs().max() < 1e-6 < wanted.abs().max()


def test_it_comes_back(subject, kind, ours, tmp_path):
    """What was exported for kohya, drawn as files of another program."""
    done = export(subject, "kohya", tmp_path)
    lora, first, second = (str(path) for path in done.files if path.suffix == ".safetensors")
    networks = read_extra_networks(loras=[lora], embeddings=[first, second])
    found = pipeline(kind).to(torch.float64)
    nobody = make_subject(tmp_path / "nobody.mcap", kind=kind)
    networks.load_into(found, nobody, adapter_scale=0)
    prompt = networks.expand(TEXT.format("jane-doe-id", "jane-doe-style"))
    assert difference(picture(found, prompt), ours) < 1e-5


def test_a_subject_of_version_0_1_on_sdxl(tmp_path):
    """It is pooled at its words, as plain diffusers with SDXL's own configuration pools, here and
    where it was exported and comes back; trained now it would draw another picture."""
    folder = tmp_path / "jane.mcap"
    now = make_subject(folder, scale=0.2, kind="sdxl")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest.pop("pooling") == "end"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    earlier = read_subject(folder)

    texts = TEXT.format("<mcap-id>", "<mcap-style>"), "dark"
    pictures = []
    for subject in (now, earlier):
        found = pipeline("sdxl").to(torch.float64)
        subject.load_into(found)
        pictures.append(picture(found, *texts))
        subject.unload_from(found)
        assert np.array_equal(
            picture(found, TEXT, "dark"), picture(pipeline("sdxl").to(torch.float64), TEXT, "dark")
        )
    at_end, at_word = pictures
    assert difference(at_end, at_word) > 1e-3

    theirs = DiffusionPipeline.from_pretrained(tiny_folder(kind="sdxl")).to(torch.float64)
    done = export(earlier, "kohya", tmp_path / "earlier")
    lora, *files = (path for path in done.files if path.suffix == ".safetensors")
    theirs.load_lora_weights(str(lora.parent), weight_name=lora.name)
    load_words(theirs, dict(zip(("<mcap-id>", "<mcap-style>"), files, strict=True)))
    assert difference(picture(theirs, *texts), at_word) < 1e-6
    theirs.text_encoder_2.text_model.eos_token_id = theirs.tokenizer_2.eos_token_id
    assert difference(picture(theirs, *texts), at_end) < 1e-6

    nobody = make_subject(tmp_path / "nobody.mcap", kind="sdxl")
    for subject, expected in ((earlier, at_word), (now, at_end)):
        done = export(subject, "kohya", tmp_path / subject.manifest.pooling)
        lora, *files = (str(path) for path in done.files if path.suffix == ".safetensors")
        networks = read_extra_networks(loras=[lora], embeddings=files)
        found = pipeline("sdxl").to(torch.float64)
        networks.load_into(found, nobody, adapter_scale=0)
        drawn = picture(found, networks.expand(TEXT.format("jane-id", "jane-style")), "dark")
        assert difference(drawn, expected) < 1e-6
        assert any("by mcap 0.1" in note for note in done.notes) == (subject is earlier)
    for subject in (earlier, now):
        out = tmp_path / "script" / subject.manifest.pooling
        assert (
            ("eos_token_id" in "".join(export(subject, "diffusers", out).notes))
            == ("eos_token_id" in (out / "jane.py").read_text())
            == (subject is now)
        )


def test_the_script_draws_the_subject(subject, kind, tmp_path, monkeypatch):
    done = export(subject, "diffusers", tmp_path, profile=PROFILE)
    script = tmp_path / "jane-doe.py"
    text = script.read_text()
    assert str(Path.home()) not in text
    size = "num_inference_steps=2, width=64, height=64"  # the tiny model has none of its own
    script.write_text(text.replace("num_inference_steps=30", size))
    monkeypatch.setattr(sys, "argv", [script.name, str(tiny_folder(kind=kind))])
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(script))
    found = pipeline(kind)
    subject.load_into(found)
    expected = draw_like_the_script(found, done.prompt, done.negative)
    shown = np.asarray(Image.open(tmp_path / "jane-doe.png")).astype(int)
    assert np.abs(shown - expected).max() <= 1


def test_the_script_takes_a_single_file(subject, kind, tmp_path, monkeypatch):
    """As A1111's users have models. What diffusers asks the hub for is not here."""
    import diffusers

    export(subject, "diffusers", tmp_path)
    script = tmp_path / "jane-doe.py"
    size = "num_inference_steps=1, width=64, height=64"
    script.write_text(script.read_text().replace("num_inference_steps=30", size))
    asked = []
    made = {"sd": diffusers.StableDiffusionPipeline, "sdxl": diffusers.StableDiffusionXLPipeline}
    monkeypatch.setattr(
        made[kind], "from_single_file", lambda path: asked.append(path) or pipeline(kind)
    )
    monkeypatch.setattr(sys, "argv", [script.name, "some/model.safetensors"])
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(script))
    assert asked == ["some/model.safetensors"]
    assert (tmp_path / "jane-doe.png").is_file()
    monkeypatch.setattr(sys, "argv", [script.name])
    with pytest.raises(SystemExit, match=r"jane-doe\.py MODEL"):
        runpy.run_path(str(script))


def test_the_script_draws_with_the_commit_that_was_trained_on(jane, tmp_path, monkeypatch):
    import diffusers

    commit = "0123456789abcdef0123456789abcdef01234567"
    record = jane.manifest.backbone.model_copy(update={"id": "owner/tiny", "revision": commit})
    manifest = jane.manifest.model_copy(update={"backbone": record})
    export(replace(jane, manifest=manifest), "diffusers", tmp_path)
    script = tmp_path / "jane.py"
    size = "num_inference_steps=1, width=64, height=64"
    script.write_text(script.read_text().replace("num_inference_steps=30", size))
    asked, ready = [], [pipeline(), pipeline()]
    monkeypatch.setattr(
        diffusers.DiffusionPipeline,
        "from_pretrained",
        lambda model, revision=None: asked.append((model, revision)) or ready.pop(),
    )
    monkeypatch.chdir(tmp_path)
    for given in ([], ["other/tiny"]):
        monkeypatch.setattr(sys, "argv", [script.name, *given])
        runpy.run_path(str(script))
    assert asked == [("owner/tiny", commit), ("other/tiny", None)]


def draw_like_the_script(found, prompt: str, negative: str) -> np.ndarray:
    found.set_progress_bar_config(disable=True)
    for word in ("id", "style"):
        prompt = prompt.replace(f"<jane-doe-{word}>", f"<mcap-{word}>")
    image = found(
        prompt,
        negative_prompt=negative,
        num_inference_steps=2,
        guidance_scale=7.0,
        width=64,
        height=64,
        generator=torch.Generator("cpu").manual_seed(0),
    ).images[0]
    return np.asarray(image).astype(int)


@pytest.fixture(scope="module")
def jane(tmp_path_factory):
    return make_subject(tmp_path_factory.mktemp("small") / "jane.mcap")


@pytest.mark.parametrize(
    ("format", "prompt", "negative"),
    [
        ("diffusers", "a photo (studio) of a <jane-id> person, <jane-style>.", "dark [black]"),
        ("kohya", "a photo (studio) of a jane-id person, jane-style.", "dark [black]"),
        ("a1111", r"a photo \(studio\) of a jane-id person, jane-style.", r"dark \[black\]"),
        (
            "comfyui",
            r"a photo \(studio\) of a embedding:jane-id person, embedding:jane-style .",
            "dark [black]",
        ),
    ],
)
def test_prompts_in_the_words_of_the_program(jane, tmp_path, format, prompt, negative):
    done = export(jane, format, tmp_path, profile=PROFILE)
    assert (done.prompt, done.negative) == (prompt, negative)
    text = next(path for path in done.files if path.name == "jane.txt").read_text()
    assert f"Prompt: {prompt}" in text and f"Negative prompt: {negative}" in text
    if format == "a1111":
        assert "<lora:jane:1>" in text
        card = json.loads((tmp_path / "models/Lora/jane.json").read_text())
        assert card["activation text"] == prompt and card["sd version"] == "SD1"


@pytest.mark.parametrize("before", ["(", "[", '"', "/", ",", ":", " ", "\u201c"])
@pytest.mark.parametrize("after", [")", "]", '"', "/", ",", ".", " "])
def test_comfyui_finds_every_embedding(jane, tmp_path, before, after):
    """``SDTokenizer.tokenize_with_weights`` of its sd1_clip.py: the text's parts between blanks
    that begin with ``embedding:``; the name goes on to the first comma or to the end."""
    profile = make_profile(prompts={"composed": [f"a {before}{{id}}{after} {{style}}"]})
    prompt = export(jane, "comfyui", tmp_path, profile=profile).prompt
    plain = prompt.replace(r"\(", "(").replace(r"\)", ")")
    found = []
    for part in re.split(r"[ \n]|(?=,)", plain):
        if part.startswith("embedding:"):
            found.append(part.removeprefix("embedding:").split(",")[0])
    assert found == ["jane-id", "jane-style"]


def test_a_lora_of_stable_diffusion_2_says_so(jane, tmp_path):
    """AUTOMATIC1111 (its network.py) goes by ss_v2 and hides it beside other models."""
    wide = {}
    for token in jane.embeddings:
        wide[token] = tmp_path / f"{token.strip('<>')}.safetensors"
        save_file({token: torch.zeros(1024)}, wide[token])
    export(replace(jane, embeddings=wide), "a1111", tmp_path)
    with safe_open(tmp_path / "models/Lora/jane.safetensors", framework="pt") as file:
        header = file.metadata()
    assert (header["ss_v2"], header["ss_base_model_version"]) == ("True", "sd_v2")
    card = json.loads((tmp_path / "models/Lora/jane.json").read_text())
    assert card["sd version"] == "SD2"


def test_nothing_of_others_is_overwritten(jane, tmp_path):
    mine = tmp_path / "embeddings" / "jane-style.safetensors"
    mine.parent.mkdir()
    mine.write_text("mine")
    with pytest.raises(UsageError, match=r"jane-style\.safetensors: is there already"):
        export(jane, "a1111", tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [mine]
    export(jane, "a1111", tmp_path, name="Jane 2")
    assert mine.read_text() == "mine"
    export(jane, "a1111", tmp_path, force=True)
    assert mine.read_text(errors="replace") != "mine"
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
    export(jane, "a1111", tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")} == times


def test_names_that_every_program_takes():
    for text, expected in {"Jürgen K.": "jurgen-k", "a_b": "a-b", "x": "x", "--7": "7"}.items():
        assert file_name(text) == expected
    with pytest.raises(UsageError, match="--name"):
        file_name("…")


def run(capsys, *args) -> tuple[int, str, str]:
    code = cli.run(["export", *map(str, args)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_command(jane, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = run(capsys, jane.path, "--format", "comfyui")
    assert code == 0
    assert "jane-comfyui/models/loras/jane.safetensors" in out
    assert "Prompt: a photo of a embedding:jane-id person in the embedding:jane-style style" in out
    code, out, _ = run(capsys, jane.path, "--format", "a1111", "--name", "J", "--json")
    (done,) = json.loads(out)["exported"]
    assert code == 0 and done["words"] == {"<mcap-id>": "j-id", "<mcap-style>": "j-style"}
    assert all((tmp_path / file).is_file() for file in done["files"])


def test_the_demo_backbone_is_nowhere_else(jane, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    manifest = jane.path / "manifest.json"
    kept = manifest.read_text()
    record = json.loads(kept)
    record["backbone"]["name"] = "demo"
    manifest.write_text(json.dumps(record))
    try:
        code, _, err = run(capsys, jane.path, "--format", "a1111")
    finally:
        manifest.write_text(kept)
    assert code == 0 and "--backbone sd15" in err


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--format", "invoke"], "'diffusers', 'kohya', 'a1111', 'comfyui'"),
        ([], "--format"),
        (["--format", "kohya", "--name", "…"], "--name"),
        (["nobody.mcap", "--format", "kohya"], "is not a subject folder"),
        (["other.mcap", "--format", "kohya", "--name", "x"], "names one subject"),
    ],
)
def test_wrong_options_are_named(jane, capsys, tmp_path, monkeypatch, args, words):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, jane.path, *args)
    assert code == 2 and words in err
    assert not list(tmp_path.iterdir())
