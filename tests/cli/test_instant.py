"""Recipe ``instant`` from the command line, with tiny IP-Adapters where the weights belong."""

from __future__ import annotations

import os
import runpy
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from mcap.batch.folder import JobFolders
from mcap.cli import batch_job, run
from mcap.registry import registry
from mcap.runtime.files import sha256_of
from mcap.subjects.manifest import read_manifest
from mcap.subjects.subject import model_version, read_subject
from mcap.weights import cache, catalogue, required
from tests.cli.test_batch_job import ORDER
from tests.cli.test_train import command, person_masker, place, plugins, printed  # noqa: F401
from tests.support import tiny_ip_adapter as tiny
from tests.support.tiny import sample

pytestmark = pytest.mark.usefixtures("person_masker")

WEIGHTS = {
    "sd": ("ip-adapter-plus-face-sd15", "ip-adapter-sd15"),
    "sdxl": ("ip-adapter-plus-face-sdxl", "ip-adapter-sdxl"),
}


@pytest.fixture(params=["sd", "sdxl"])
def kind(request) -> str:
    return request.param


@pytest.fixture
def weights(place, kind, monkeypatch) -> dict[str, Path]:  # noqa: F811
    """Tiny adapters and image encoder in the caches, where the published ones belong; offline."""
    monkeypatch.setenv("MCAP_CACHE_DIR", str(place / "cache"))
    monkeypatch.setenv("MCAP_OFFLINE", "1")
    for name in ("MCAP_DETECTOR", "MCAP_IDENTITY"):
        monkeypatch.setenv(name, "tiny")
    monkeypatch.setenv("MCAP_SAFETY__CLASSIFIER", "off")
    monkeypatch.setenv("MCAP_SAFETY__I_AM_RESPONSIBLE", "true")
    unet = tiny.steered_backbone(place, kind).unet
    known, files = dict(catalogue.WEIGHTS), {}
    for number, name in enumerate(WEIGHTS[kind]):
        file = tiny.adapter(place / "file", unet, plus=number == 0, seed=number)
        found = replace(known[name], sha256=sha256_of(file), bytes=file.stat().st_size)
        known[name], files[name] = found, cache.final_path(found)
        files[name].parent.mkdir(parents=True)
        file.rename(files[name])
    monkeypatch.setattr(catalogue, "WEIGHTS", known)
    monkeypatch.setattr(required, "WEIGHTS", known)
    source = known["clip-vit-h"].sources[0]
    hub = place / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub))
    repo = f"models--{source.repo.replace('/', '--')}"
    folder = hub / repo / "snapshots" / source.revision / "models" / "image_encoder"
    tiny.image_encoder(folder)
    return {**files, "clip-vit-h": folder}


def instant(kind: str, *extra: str, out: str = "me.mcap") -> list[str]:
    arguments = command("--recipe", "instant", *extra, out=out)
    arguments[arguments.index("--backbone") + 1] = f"./{kind}"
    return arguments


DRAW = ["generate", "me.mcap", "--style", "./plain.toml", "--count", "3", "--steps", "2"]


def pictures(folder: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(path)).astype(int) for path in sorted(folder.glob("plain-*.png"))]


def test_a_subject_in_seconds_that_is_drawn_edited_and_exported(
    place,  # noqa: F811
    weights,
    kind,
    capsys,
    monkeypatch,
):
    assert run(["--json", *instant(kind), "--dry-run"]) == 0
    plan = printed(capsys)
    assert plan["steps"] == 0 and plan["seconds"] is not None
    assert {*WEIGHTS[kind], "clip-vit-h"} <= {line["name"] for line in plan["weights"]}
    assert all(line["here"] for line in plan["weights"] if line["name"] in weights)
    assert plan["seconds_of"]["identity encoder"] > 0
    assert run(["--json", *instant(kind)]) == 0
    assert printed(capsys)["metrics"]["steps"] == 0

    subject = read_subject(place / "me.mcap")
    manifest = subject.manifest
    assert manifest.encoder == f"ip-adapter-{'sd15' if kind == 'sd' else 'sdxl'}"
    assert subject.adapter is None and not subject.embeddings
    assert manifest.words == {"<mcap-id>": "single", "<mcap-style>": "portrait"}
    assert manifest.recipe["subject_region"] == "head"
    assert ("encoder", manifest.encoder) in {(line.kind, line.name) for line in manifest.licences}
    assert model_version(subject) == ("SD1" if kind == "sd" else "SDXL")
    with safe_open(subject.encoded, framework="pt") as file:
        assert set(file.keys()) == {"identity", "style"}
        about = file.metadata()
        assert file.get_tensor("identity").shape[:2] == (2, 3)
    assert about["encoder"] == manifest.encoder
    assert about["identity"] == WEIGHTS[kind][0]
    assert about["identity_sha256"] == sha256_of(weights[WEIGHTS[kind][0]])
    # The same again is done; a resume has nothing to go on with.
    assert run(["--json", *instant(kind)]) == 0
    assert printed(capsys)["already_trained"] is True

    # To draw it takes no image encoder.
    shutil.rmtree(weights["clip-vit-h"])
    assert run([*DRAW, "--out", "drawn"]) == 0
    drawn = pictures(place / "drawn")
    assert len(drawn) == 3 and (place / "drawn/report.html").is_file()
    for scale, differs in (("0", True), ("1", False)):
        assert run([*DRAW, "--out", f"at-{scale}", "--adapter-scale", scale]) == 0
        others = pictures(place / f"at-{scale}")
        assert any((a != b).any() for a, b in zip(drawn, others, strict=True)) == differs
    capsys.readouterr()
    picture = str(next((place / "drawn").glob("*.png")))
    assert run(["--json", "inspect", picture]) == 0
    assert printed(capsys)["pictures"][0]["record"]["trained"]["name"] == "instant"

    edit = ["edit", picture, "--replace", "photo=portrait", "--out", "edited", "--keep", "0.5"]
    assert run(edit) == 0
    told = capsys.readouterr()
    assert "drawn again here it differs" not in told.err
    (edited,) = (place / "edited").glob("*-edit.png")
    assert (np.asarray(Image.open(edited)) != np.asarray(Image.open(picture))).any()

    for program in ("kohya", "a1111", "comfyui"):
        assert run(["export", "me.mcap", "--format", program]) == 2
        told = " ".join(capsys.readouterr().err.split())
        assert "image prompts for IP-Adapters, neither LoRA nor words" in told
    assert run(["export", "me.mcap", "--format", "diffusers", "--out", "exported"]) == 0
    script = place / "exported/me.py"
    text = script.read_text()
    assert "018e402774aeeddd60609b4ecdb7e298259dc729" in text
    few = "num_inference_steps=2, width=64, height=64"
    script.write_text(text.replace("num_inference_steps=30", few))
    hub = place / "laid-out"
    for name in WEIGHTS[kind]:
        target = hub / catalogue.WEIGHTS[name].sources[0].path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(weights[name], target)
    monkeypatch.setattr(sys, "argv", [script.name, str(place / kind), str(hub)])
    monkeypatch.chdir(place / "exported")
    runpy.run_path(str(script))
    shown = np.asarray(Image.open("me.png")).astype(int)
    assert np.abs(shown - by_mcap(subject, place, kind, capsys)).max() <= 1


def by_mcap(subject, place, kind, capsys) -> np.ndarray:  # noqa: F811
    """The picture of the exported script, drawn by mcap."""
    capsys.readouterr()
    backbone = tiny.steered_backbone(place, kind)
    pipeline = backbone.pipeline()
    encoder = registry().create("encoder", subject.manifest.encoder, backbone)
    subject.steer(pipeline, encoder)
    prompt = "a photo of a single person in the portrait style"
    text = (place / "exported/me.py").read_text()
    assert prompt in text
    (image,) = sample(backbone, prompt, [0], pipeline=pipeline, steps=2, size=(64, 64))
    subject.unload_from(pipeline)
    return image.astype(int)


def test_what_it_refuses(place, weights, kind, capsys):  # noqa: F811
    def refused(arguments: list[str], code: int) -> str:
        capsys.readouterr()
        assert run(arguments) == code
        return " ".join(capsys.readouterr().err.split())

    told = refused(instant(kind, "--set", "phase2_steps=2"), 2)
    assert "makes an image prompt and no word" in told
    other = "ip-adapter-sdxl" if kind == "sd" else "ip-adapter-sd15"
    told = refused(instant(kind, "--set", f"identity_encoder={other}"), 2)
    assert f"identity_encoder '{other}' is for models of the kind" in told
    told = refused(instant(kind, "--set", "identity_encoder=nobody"), 4)
    assert "No encoder called 'nobody' is installed" in told and "ip-adapter-sd15" in told
    told = refused(instant(kind, "--set", "identity_scale=3"), 2)
    assert "identity_scale" in told and "from 0.0 to 2.0" in told.replace("0 to 2", "0.0 to 2.0")
    # No second person goes beside an image prompt.
    assert run(instant(kind)) == 0
    assert run(instant(kind, "--force", out="you.mcap")) == 0
    told = refused([*DRAW, "--out", "both", "--with", "you.mcap"], 2)
    assert "is an image prompt of the identity encoder" in told
    file = weights[WEIGHTS[kind][0]]
    kept = file.rename(file.with_suffix(".kept"))
    told = refused([*DRAW, "--out", "without"], 4)
    assert WEIGHTS[kind][0] in told and "mcap is offline" in told
    told = refused(instant(kind, out="new.mcap"), 4)
    assert WEIGHTS[kind][0] in told and not (place / "new.mcap").exists()
    kept.rename(file)
    shutil.rmtree(weights["clip-vit-h"])
    assert "clip-vit-h" in refused(instant(kind, out="new.mcap"), 4)
    (place / "me.mcap/encoded.safetensors").write_bytes(b"nothing")
    assert "is not the file that training wrote" in refused([*DRAW, "--out", "altered"], 3)


@pytest.mark.parametrize("kind", ["sd"], indirect=True)
def test_without_photos_of_the_style_none_are_drawn_and_words_say_it(
    place,  # noqa: F811
    weights,
    capsys,
):
    arguments = instant("sd")
    at = arguments.index("--reference")
    del arguments[at : at + 2]
    assert run(["--json", *arguments]) == 0
    assert not (place / "me.mcap/references").exists()
    subject = read_subject(place / "me.mcap")
    assert set(subject.read_encoded().tensors) == {"identity"}
    assert subject.manifest.metrics["reference_photos"] == 0
    assert run([*DRAW, "--out", "drawn", "--attention-maps"]) == 0
    # By its scale, too, the style's photos can be left out.
    assert run(instant("sd", "--set", "style_scale=0", out="words.mcap")) == 0
    assert set(read_subject(place / "words.mcap").read_encoded().tensors) == {"identity"}
    assert read_manifest(place / "words.mcap").recipe["style_scale"] == 0


@pytest.mark.parametrize("kind", ["sd"], indirect=True)
def test_a_killed_run_is_begun_again_by_the_same_command(
    place,  # noqa: F811
    weights,
    capsys,
    monkeypatch,
):
    from mcap.subjects.writer import SubjectWriter

    with monkeypatch.context() as patch:
        patch.setattr(SubjectWriter, "write_encoded", lambda *_: (_ for _ in ()).throw(OSError(28)))
        assert run(instant("sd")) != 0
    assert read_manifest(place / "me.mcap").state == "training"
    capsys.readouterr()
    assert run(instant("sd", "--resume")) == 0
    assert read_subject(place / "me.mcap").encoded is not None


@pytest.mark.parametrize("kind", ["sd"], indirect=True)
def test_a_lora_goes_beside_the_image_prompt_and_strangers_are_drawn_without_it(
    place,  # noqa: F811
    weights,
):
    """What the model has learned is nothing, so that strangers are those of the untouched one."""
    assert run(command(out="trained.mcap")) == 0  # a LoRA, of the same model
    assert run(instant("sd")) == 0
    subject = read_subject(place / "me.mcap")
    backbone = tiny.steered_backbone(place, "sd")
    before = sample(backbone, "a photo of a person", [0], steps=2)[0]
    pipeline = backbone.pipeline()
    subject.load_into(pipeline)
    assert np.array_equal(
        sample(backbone, "a photo of a person", [0], pipeline=pipeline, steps=2)[0], before
    )
    subject.unload_from(pipeline)
    lora = str(place / "trained.mcap/adapter.safetensors")
    assert run([*DRAW, "--out", "plain"]) == 0
    assert run([*DRAW, "--out", "lora", "--lora", lora]) == 0
    one, other = pictures(place / "plain"), pictures(place / "lora")
    assert any((a != b).any() for a, b in zip(one, other, strict=True))
    assert torch.equal(
        tiny.steered_backbone(place, "sd").unet.conv_in.weight, backbone.unet.conv_in.weight
    )


@pytest.mark.parametrize(
    "kind", ["sd", pytest.param("sdxl", marks=pytest.mark.slow)], indirect=True
)
def test_it_is_enhanced_evaluated_batched_and_forgotten(
    place,  # noqa: F811
    weights,
    kind,
    capsys,
    monkeypatch,
):
    """As a trained subject is; in a batch the same command in a worker, its networks kept."""

    def done(*arguments: str) -> dict:
        capsys.readouterr()
        assert run(["--json", *arguments]) == 0
        return printed(capsys)

    monkeypatch.setattr(registry(), "kept", None)
    assert run(instant(kind)) == 0
    best = done(*DRAW, "--out", "drawn", "--best", "1")
    assert len(list((place / "drawn").glob("plain-*.png"))) == 1 and best["pictures"]
    done("enhance", "drawn", "--subject", "me.mcap", "--restorer", "demo-sr", "--out", "big")
    (large,) = (place / "big").glob("plain-*.png")
    assert Image.open(large).size == (256, 256)

    few = ("--style", "./plain.toml", "--count", "1", "--masker", "tiny", "--device", "cpu")
    few = (*few, "--measures", "faces,size")
    measured = done("evaluate", "me.mcap", *few, "--out", "measured")
    assert measured["measures"]["faces"]["means"]["instant"]["mean"] == 1
    people = place / "people" / "ann"
    shutil.copytree(place / "me", people)
    compared = done(
        *("evaluate", "--source", str(people.parent), "--backbone", f"./{kind}", *few),
        *("--against", "instant", "--out", "compared"),
    )
    assert set(compared["measures"]["size"]["means"]) == {"magicapture", "instant"}
    assert [one["remark"] for one in compared["subjects"]] == [None, None]

    order = {
        **ORDER,
        "style": str(place / "plain.toml"),
        "count": 1,
        "enhance": True,
        "restorer": "demo-sr",
        "studio": str(place / "studio"),
        "source": str(place / "me"),
        "environment": {
            **{name: value for name, value in os.environ.items() if name.startswith("MCAP_")},
            **{"MCAP_THREADS": "1", "MCAP_DEVICE": "cpu", "MCAP_MASKER": "tiny"},
            **{"MCAP_RECIPE": "instant", "MCAP_BACKBONE": f"./{kind}"},
        },
    }
    runner = batch_job.make_runner()
    for person in ("ann", "bob"):  # the second with the networks of the first
        outcome = runner({**order, "person": person})
        folders = JobFolders(place / "studio", person, order["style"])
        assert outcome["exit_code"] == 0, folders.log.read_text()
        assert read_subject(folders.subject).manifest.encoder is not None
        assert list(folders.portraits.glob("plain-*.png")) and list(folders.finished.glob("*.png"))

    removed = done("forget", "me.mcap", "--yes")
    assert not (place / "me.mcap").exists(), removed
