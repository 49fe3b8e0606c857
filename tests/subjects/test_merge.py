"""A checkpoint draws what model, LoRA and words draw together, loaded by plain diffusers."""

from __future__ import annotations

import json
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save

from mcap import cli
from mcap.subjects.export import FORMATS, prompt_words
from mcap.subjects.manifest import ATTENTION
from mcap.subjects.merge import export_merged, merge
from mcap.subjects.subject import read_subject
from mcap.subjects.writer import SubjectWriter
from tests.subjects.test_export import load_words
from tests.support.foreign_files import TEXT, difference, picture, pipeline, subject_picture
from tests.support.subjects import make_subject
from tests.support.tiny import tiny_folder

WORDS = ("id", "style")
PLACES = {
    "kohya": ("{}", "{}"),
    "a1111": ("models/Stable-diffusion/{}", "embeddings/{}"),
    "comfyui": ("models/checkpoints/{}", "models/embeddings/{}"),
}
CLASSES = {
    "sd": diffusers.StableDiffusionPipeline,
    "sdxl": diffusers.StableDiffusionXLPipeline,
}


@pytest.fixture(scope="module", params=["sd", "sdxl"])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def subject(kind, tmp_path_factory):
    """Text encoders and UNet have LoRA layers, and alpha is half the rank."""
    folder = tmp_path_factory.mktemp("subject") / "Jane.mcap"
    return make_subject(folder, scale=0.2, kind=kind, text=True, alpha=1)


@pytest.fixture(scope="module")
def ours(subject, kind):
    return subject_picture(subject, kind)


def merged(subject, kind, format, out, dtype=torch.float32):
    found = pipeline(kind)
    words = prompt_words(subject, "jane", "diffusers") if format == "diffusers" else {}
    merge(subject, found, words, dtype)
    return export_merged(subject, found, format, out)


def from_single_file(path: Path, kind: str, dtype=torch.float32):
    """As a user of diffusers loads it; the configuration is the tiny model's."""
    safety = {"safety_checker": None} if kind == "sd" else {}
    return CLASSES[kind].from_single_file(
        str(path), config=str(tiny_folder(kind=kind)), torch_dtype=dtype, local_files_only=True,
        **safety,
    )  # fmt: skip


def drawn(found, files: list[Path]) -> np.ndarray:
    """The picture of a pipeline with the words of two embedding files, in double precision."""
    found.to(torch.float64)
    if hasattr(found, "text_encoder_2"):  # as the other programs take the pooled vector
        found.text_encoder_2.text_model.eos_token_id = found.tokenizer_2.eos_token_id
    load_words(found, dict(zip(("<one>", "<two>"), files, strict=True)))
    return picture(found, TEXT.format("<one>", "<two>"))


def words_of(folder: Path) -> list[Path]:
    return [folder / f"jane-{word}.safetensors" for word in WORDS]


def test_a_single_file_draws_the_same_picture(subject, kind, ours, tmp_path):
    found = pipeline(kind)
    merge(subject, found, {}, torch.float32)
    kept = []
    for format in (name for name in FORMATS if name != "diffusers"):
        done = export_merged(subject, found, format, tmp_path)
        checkpoint = tmp_path / PLACES[format][0].format("jane.safetensors")
        files = [tmp_path / PLACES[format][1].format(f"jane-{n}.safetensors") for n in WORDS]
        assert {checkpoint, *files} <= set(done.files)
        assert all(path.is_file() for path in done.files)
        text = next(path for path in done.files if path.suffix == ".txt").read_text()
        assert "<lora:" not in text and done.prompt in text
        (tmp_path / "jane.txt").unlink()
        kept.append((load_file(checkpoint), [list(load_file(path).values()) for path in files]))
    for tensors, words in kept[1:]:  # drawn once, as they are the same
        assert all(torch.equal(tensors[key], value) for key, value in kept[0][0].items())
        for one, other in zip(words, kept[0][1], strict=True):
            assert all(torch.equal(*pair) for pair in zip(one, other, strict=True))
    with safe_open(checkpoint, framework="pt") as file:
        said = file.metadata()
    expected = {"sd": "stable-diffusion-v1", "sdxl": "stable-diffusion-xl-v1-base"}[kind]
    assert said["modelspec.architecture"] == expected
    assert said["modelspec.prediction_type"] == "epsilon"
    assert difference(drawn(from_single_file(checkpoint, kind), files), ours) < 1e-5


def test_a_folder_draws_the_same_picture(subject, kind, ours, tmp_path):
    """Its words are in it, and SDXL pools where a text ends without being told."""
    done = merged(subject, kind, "diffusers", tmp_path)
    found = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "jane").to(torch.float64)
    text = TEXT.format(done.words["<mcap-id>"], done.words["<mcap-style>"])
    assert difference(picture(found, text), ours) < 1e-5
    for path in tmp_path.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert str(tiny_folder(kind=kind)).encode() not in data
            assert str(tmp_path).encode() not in data


def test_half_precision_is_near(subject, kind, ours, tmp_path):
    merged(subject, kind, "kohya", tmp_path, torch.float16)
    path = tmp_path / "jane.safetensors"
    assert {tensor.dtype for tensor in load_file(path).values()} == {torch.float16}
    assert difference(drawn(from_single_file(path, kind), words_of(tmp_path)), ours) < 1e-2


def test_mcap_reads_it_as_a_backbone(subject, kind, ours, tmp_path, monkeypatch):
    from mcap_plugins.stable_diffusion.load import load
    from tests.support.original_names import use_tiny_layouts

    use_tiny_layouts(monkeypatch, tmp_path / "layouts")
    merged(subject, kind, "kohya", tmp_path / "out")
    found = load("cpu", torch.float64, tmp_path / "out" / "jane.safetensors").pipeline()
    assert difference(drawn(found, words_of(tmp_path / "out")), ours) < 1e-5


@pytest.mark.parametrize("learned", ["unet", "key-value"])
def test_weights_of_its_own_are_merged_too(tmp_path, learned):
    """What other programs cannot load as a LoRA they load as a checkpoint."""
    path = make_subject(tmp_path / "jane.mcap").path
    file = path / "manifest.json"
    manifest = json.loads(file.read_text())
    (path / "adapter.safetensors").unlink()
    kept = {k: v for k, v in manifest["files"].items() if k != "adapter.safetensors"}
    file.write_text(json.dumps(manifest | {"files": kept}))
    learner = pipeline().unet
    random = torch.Generator().manual_seed(3)
    state = {}
    with torch.no_grad():
        for name, value in learner.named_parameters():
            if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")):
                value += 0.3 * torch.randn(value.shape, generator=random)
                state[name] = value.detach().clone()
    writer = SubjectWriter(path, read_subject(path).manifest)
    if learned == "unet":
        writer.write_module("unet", learner)
    else:
        place = "{}.attn2.processor.{}_custom_diffusion.weight"
        renamed = {
            place.format(*k.removesuffix(".weight").rsplit(".attn2.", 1)): v
            for k, v in state.items()
        }
        writer._write(ATTENTION, save(renamed))
    writer._files |= kept
    writer.complete({})
    subject = read_subject(path)
    assert subject.has_weights
    found = pipeline().to(torch.float64)
    subject.load_into(found)
    expected = picture(found, TEXT.format("<mcap-id>", "<mcap-style>"))
    merged(subject, "sd", "a1111", tmp_path / "out")
    theirs = from_single_file(tmp_path / "out/models/Stable-diffusion/jane.safetensors", "sd")
    assert difference(drawn(theirs, words_of(tmp_path / "out" / "embeddings")), expected) < 1e-5


def test_a_model_that_predicts_the_velocity_says_so(tmp_path):
    from tests.support.tiny import tiny_backbone

    subject = make_subject(tmp_path / "jane.mcap", kind="sdxl")
    found = tiny_backbone(prediction_type="v_prediction", kind="sdxl").pipeline()
    merge(subject, found, {}, torch.float32)
    export_merged(subject, found, "comfyui", tmp_path / "out")
    with safe_open(tmp_path / "out/models/checkpoints/jane.safetensors", framework="pt") as file:
        assert file.metadata()["modelspec.prediction_type"] == "v"
        assert "v_pred" in file.keys() and "ztsnr" not in file.keys()  # noqa: SIM118


def run(capsys, *args) -> tuple[int, str, str]:
    code = cli.run(["export", *map(str, args)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def jane(tmp_path, monkeypatch):
    """Trained on the tiny model's folder, as its manifest says."""
    from tests.support.tiny import tiny_backbone

    monkeypatch.chdir(tmp_path)
    subject = make_subject(tmp_path / "jane.mcap")
    file = subject.path / "manifest.json"
    manifest = json.loads(file.read_text())
    source = str(tiny_folder())
    manifest["backbone"] |= {
        "name": "sd15",
        "source": source,
        "sha256": tiny_backbone().info.sha256,
    }
    file.write_text(json.dumps(manifest))
    return subject.path


def test_the_command(jane, tmp_path, capsys):
    code, out, err = run(capsys, jane, "--format", "comfyui", "--merge", "--json")
    assert code == 0, err
    (done,) = json.loads(out)["exported"]
    checkpoint = tmp_path / "jane-merged/models/checkpoints/jane.safetensors"
    assert "jane-merged/models/checkpoints/jane.safetensors" in done["files"]
    assert {tensor.dtype for tensor in load_file(checkpoint).values()} == {torch.float16}
    assert "embedding:jane-id" in done["prompt"]
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
    assert run(capsys, jane, "--format", "comfyui", "--merge")[0] == 0
    again = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
    files = [path for path in times if path.is_file()]
    assert [times[path] for path in files] == [again[path] for path in files]
    assert np.all([not path.name.endswith(".part") for path in again])


def test_another_model_is_refused_without_force(jane, tmp_path, capsys):
    other = tiny_folder(seed=1)
    args = [jane, "--format", "kohya", "--merge", "--backbone", other]
    code, _, err = run(capsys, *args)
    assert code == 2 and "has other weights" in err and not (tmp_path / "jane-merged").exists()
    assert run(capsys, *args, "--force")[0] == 0


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--merge"], "Give --format"),
        (["--format", "kohya", "--precision", "fp32"], "--precision: belongs to --merge"),
        (["--format", "kohya", "--backbone", "x"], "--backbone: belongs to --merge"),
        (["--merge", "--push-to-hub", "a/b"], "a whole checkpoint is not sent"),
        (["other.mcap", "--merge", "--format", "kohya"], "is not a subject folder"),
    ],
)
def test_wrong_options_are_named(jane, capsys, tmp_path, args, words):
    code, _, err = run(capsys, jane, *args)
    assert code == 2 and words in err and sorted(tmp_path.iterdir()) == [jane]


def test_the_demo_model_has_no_single_file(jane, tmp_path, capsys):
    file = jane / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["backbone"] |= {"name": "demo", "source": None}
    file.write_text(json.dumps(manifest))
    code, _, err = run(capsys, jane, "--merge", "--format", "a1111")
    assert code == 2 and "no other program has" in err and sorted(tmp_path.iterdir()) == [jane]
