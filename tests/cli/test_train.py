"""``mcap train`` from end to end on the tiny model, with a detector that knows its photos."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

import mcap_plugins.demo
from mcap.cli import run
from mcap.cli.context import Globals
from mcap.cli.train_output import show_events
from mcap.contracts import Face, IdentityInfo, MaskerInfo
from mcap.registry import Entry, registry
from mcap.subjects.manifest import ConsentRecord, read_manifest
from mcap.subjects.subject import read_subject
from mcap.training.events import Event, PhaseStarted, StepEvent, TrainingFinished
from mcap.training.manifest import CONSENT
from mcap.training.options import Options
from mcap.training.timing import TimeLeft, estimated_time
from tests.support.tiny import MiddleFaceDetector, TinyIdentity, tiny_folder
from tests.support.tiny_run import tiny_recipe
from tests.support.tiny_transformers import tiny_klein_folder, tiny_zimage_folder

TRANSFORMERS = {"klein": tiny_klein_folder, "zimage": tiny_zimage_folder}
SIDE = 160


class _Identity(TinyIdentity):
    info = IdentityInfo(same_person=-1.0)  # everybody


class _Masker:
    info = MaskerInfo()

    def mask(self, image: np.ndarray, face: Face) -> np.ndarray:
        height, width = image.shape[:2]
        y, x = np.mgrid[0:height, 0:width]
        distance = np.hypot(x - width / 2, y - height / 2)
        return np.clip((0.25 * width - distance) / 4, 0, 1).astype(np.float32)


@pytest.fixture(autouse=True)
def plugins(monkeypatch):
    factories = {"detector": MiddleFaceDetector, "identity": _Identity, "masker": _Masker}
    for kind, factory in factories.items():
        entry = Entry(kind, "tiny", factory, "tests", licence="none", info=factory.info)
        monkeypatch.setitem(registry().entries[kind], "tiny", entry)
    # The photos are noise: no network that tells what a face is may look at them.
    monkeypatch.setenv("MCAP_FACES__MIN_QUALITY", "0")
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def photo(path: Path, seed: int, face: bool = True) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    if not face:
        image[:8, :8] = 0
    Image.fromarray(image).save(path)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with photos of a person and of a style, and a profile that names no photos."""
    monkeypatch.chdir(tmp_path)
    for name, seeds in (("me", range(3)), ("style", range(10, 12))):
        (tmp_path / name).mkdir()
        for seed in seeds:
            photo(tmp_path / name / f"{seed}.png", seed)
    (tmp_path / "plain.toml").write_text(
        'schema = 1\nname = "plain"\n[references]\nprompts = ["a photo of a {noun}"]\n'
        "[train]\nphase1_steps = 2\nphase2_steps = 2\nphotos_for_all_steps = 1\n"
    )
    return tmp_path


def command(*extra: str, out: str = "me.mcap") -> list[str]:
    return [
        *("train", "--source", "me", "--style", "./plain.toml", "--reference", "style"),
        *("--backbone", str(tiny_folder()), "--out", out, "--device", "cpu", "--threads", "1"),
        *("--detector", "tiny", "--identity", "tiny", "--masker", "tiny", *extra),
    ]


def printed(capsys) -> dict:
    return json.loads(capsys.readouterr().out)


def test_from_photos_to_a_subject_and_again(place, capsys):
    assert run(command()) == 0
    output = capsys.readouterr()
    assert "mcap generate me.mcap" in output.out
    assert "3 of 3 photos usable" in output.err  # the plan
    assert "2 + 2 steps" in output.err
    assert "advice    3 photos to learn from are few: add 3 more" in output.err
    subject = read_subject(place / "me.mcap")
    manifest = subject.manifest
    assert manifest.profile.name == "plain"
    # Whose face it must be is said in one line, and kept with the time.
    assert CONSENT in output.err.replace("\n", " ") and "agreed" in CONSENT
    assert manifest.consent == ConsentRecord(at=manifest.created, words=CONSENT)
    assert manifest.recipe["phase2_steps"] == 2
    assert manifest.backbone.source == str(tiny_folder())
    assert manifest.metrics["steps"] == 4
    assert manifest.metrics["source_photos"] == 3
    with safe_open(place / "me.mcap/adapter.safetensors", framework="pt") as file:
        assert file.metadata()["ss_num_train_images"] == "12"  # four crops a photo
    assert set(manifest.inputs["source photos"]) == {"0.png", "1.png", "2.png"}
    assert subject.identity_network == "tiny"
    assert not (place / "me.mcap" / "latents").exists()
    written = (place / "me.mcap" / "manifest.json").stat().st_mtime_ns

    assert run(["--json", *command()]) == 0
    again = printed(capsys)
    assert again["already_trained"] is True
    assert again["generate"] == ["mcap", "generate", "me.mcap"]
    assert (place / "me.mcap" / "manifest.json").stat().st_mtime_ns == written


def test_another_subject_is_not_overwritten_without_force(place, capsys):
    assert run(command()) == 0
    before = read_manifest(place / "me.mcap").created
    photo(place / "me" / "9.png", 9)
    assert run(command("--set", "identity_weight=0.5")) == 2
    message = capsys.readouterr().err
    assert "source photos (9.png)" in message
    assert "recipe (identity_weight)" in message
    assert "--force" in message
    assert read_manifest(place / "me.mcap").created == before
    assert run(command("--set", "identity_weight=0.5", "--force")) == 0
    assert read_subject(place / "me.mcap").manifest.recipe["identity_weight"] == 0.5


def test_a_folder_that_is_no_subject_is_never_touched(place, capsys):
    (place / "letters").mkdir()
    (place / "letters" / "a.txt").write_text("dear")
    assert run(command("--force", out="letters")) == 2
    assert "no subject folder" in capsys.readouterr().err
    assert [path.name for path in (place / "letters").iterdir()] == ["a.txt"]


def test_dry_run_prints_the_plan_and_writes_nothing(place, capsys):
    photo(place / "me" / "empty.png", 5, face=False)
    assert run(["--json", *command("--dry-run")]) == 0
    plan = printed(capsys)
    assert plan["steps"] == 4
    assert plan["size"] == 64
    assert plan["device"] == "cpu"
    refused = [line for line in plan["photos"] if not line["accepted"]]
    assert [line["name"] for line in refused] == ["empty.png"]
    assert "no face" in refused[0]["reason"]
    assert not (place / "me.mcap").exists()

    assert run(["--json", *command("--dry-run", "--set", "photos_for_all_steps=6")]) == 0
    assert any("phase2_steps=2 became 1," in text for text in printed(capsys)["advice"])
    assert run(["--json", *command("--dry-run", "--set", "phase2_steps=7")]) == 0
    assert not any("became" in text for text in printed(capsys)["advice"])


def test_the_plan_says_what_the_backbone_is_for(place, capsys):
    """The demo backbone's own words; another model in its place has none."""
    with_demo = [*command("--dry-run"), "--backbone", "demo"]
    assert run(["--json", *with_demo]) == 0
    notice = printed(capsys)["notice"]
    assert notice == mcap_plugins.demo.NOTICE
    assert "for trying mcap out" in notice and "--backbone sd15" in notice
    assert run(with_demo) == 0
    assert notice in " ".join(capsys.readouterr().out.split())
    assert run(["--json", *command("--dry-run")]) == 0
    assert printed(capsys)["notice"] == ""


@pytest.mark.parametrize("first_step", [0, 5, 12, 13, 47])
def test_progress_counts_the_steps_that_are_left(capsys, first_step):
    """12 + 36 steps, begun or gone on with anywhere."""
    steps = [(1, 12, 0, 12), (2, 36, 12, 48)]
    events: list[Event] = []
    for number, count, start, last in steps:
        if first_step < last:
            begin = max(first_step, start)
            events.append(PhaseStarted(number, count, begin, {}, last))
            events += [
                StepEvent(number, step, 48, {"loss": 1.0}, {}, {}, 0.0, 0.0)
                for step in range(begin + 1, last + 1)
            ]
    recipe = tiny_recipe(phase1_steps=12, phase2_steps=36)
    left = TimeLeft(estimated_time(recipe, {1: 1.0, 2: 2.0}), recipe, Options())
    show_events(Globals(), [*events, TrainingFinished(48, 0.0)], left)
    shown = re.findall(r"(-?\d+)/(-?\d+) \((-?\d+) %\), \d", capsys.readouterr().err)
    left = [12 - first_step, 36] if first_step < 12 else [48 - first_step]
    assert shown == [(str(count), str(count), "100") for count in left]


def test_a_plan_is_timed_where_the_model_lies_here_and_is_small(place, capsys):
    assert run(["--json", *command("--dry-run")]) == 0
    plan = printed(capsys)
    assert plan["timed"] and plan["seconds"] > 0
    assert set(plan["seconds_a_step"]) == {"1", "2"}
    later = dict(plan["seconds_of"])
    assert later.pop("photos") > 0 and later.pop("loading") > 0
    assert set(later) == {
        *("encoding", "identity decode", "phase 1", "phase 2", "previews", "checkpoints")
    }
    assert sum(later.values()) == pytest.approx(plan["seconds"])
    assert later["phase 2"] == pytest.approx(2 * plan["seconds_a_step"]["2"])
    assert 0 < plan["timing_seconds"] < 60
    assert list(place.glob("*.mcap")) == []

    assert run(["--json", *command("--dry-run", "--no-time-steps")]) == 0
    plan = printed(capsys)
    # A model in a folder tells its size and not what a step of it costs.
    assert not plan["timed"] and plan["seconds"] is None and plan["seconds_a_step"] == {}
    assert run(command("--dry-run", "--no-time-steps")) == 0
    assert "known after the first steps" in capsys.readouterr().out

    assert run(["--json", *command(*SD15, "--dry-run")]) == 0
    plan = printed(capsys)
    assert not plan["timed"] and plan["seconds"] > 0 and plan["timing_seconds"] == 0
    assert run(command(*SD15, "--dry-run")) == 0
    assert "a rough estimate" in capsys.readouterr().out


def test_timing_loads_the_model_once_and_leaves_the_subject_as_it_is(place, capsys, monkeypatch):
    loaded = []
    create = type(registry()).create

    def counted(self, kind, *given, **options):
        loaded.append(kind)
        return create(self, kind, *given, **options)

    monkeypatch.setattr(type(registry()), "create", counted)
    drawn = [text for text in command(out="") if text not in ("--reference", "style")]
    for folder, extra in (("timed", "--time-steps"), ("plain", "--no-time-steps")):
        assert run([*drawn, "--out", f"{folder}.mcap", "--preview-every", "2", extra]) == 0
        told = capsys.readouterr().err
        assert ("timed" in told) == (folder == "timed")
        assert re.search(r"phase 2, tokens and LoRA: 2/2", told)
    assert loaded.count("backbone") == 2
    names = [path.relative_to(place / "plain.mcap") for path in (place / "plain.mcap").rglob("*")]
    weights = [name for name in names if name.suffix in (".safetensors", ".jpg", ".png")]
    assert len(weights) == 4 + 8 + 2  # the drawn photos of the style, and two previews
    for name in weights:
        one, other = (place / folder / name for folder in ("timed.mcap", "plain.mcap"))
        assert one.read_bytes() == other.read_bytes()


def test_steps_that_cannot_be_timed_are_told_and_the_plan_is_printed(place, capsys, monkeypatch):
    from mcap.errors import OutOfMemory
    from mcap.training import timing

    def too_large(*_):
        raise OutOfMemory("Out of memory while timing its steps: 2 GiB.")

    monkeypatch.setattr(timing, "take_step", too_large)
    assert run(["--json", *command("--dry-run")]) == 0
    plan = printed(capsys)
    assert not plan["timed"]
    assert any("No step could be timed: Out of memory" in text for text in plan["advice"])


SD15 = ("--backbone", "sd15", "--device", "cpu", "--precision", "fp32")


@pytest.mark.parametrize(
    ("memory", "keys"),
    [
        (64_000, {"batching": "joint", "identity_decode": "auto"}),
        (18_000, {"batching": "joint", "identity_decode": "window"}),
        (12_000, {"batching": "sequential", "gradient_checkpointing": False}),
        (6_000, {"batching": "sequential", "gradient_checkpointing": True}),
    ],
)
def test_low_memory_takes_what_fits_and_the_plan_says_so(place, capsys, monkeypatch, memory, keys):
    """By the estimate alone: SD1.5's weights are not here."""
    monkeypatch.setattr("mcap.runtime.memory.total_memory_mb", lambda _device: memory)
    assert run(["--json", *command(*SD15, "--low-memory", "--dry-run")]) == 0
    plan = printed(capsys)
    assert {key: plan["recipe"][key] for key in keys} == keys
    assert plan["device_memory_mb"] == memory
    fits = plan["memory_mb"] <= 0.9 * memory
    assert fits == (memory > 6_000)
    assert any("may need" in line for line in plan["advice"]) == (not fits)


def test_a_run_that_may_not_fit_is_told_what_would(place, capsys, monkeypatch):
    monkeypatch.setattr("mcap.runtime.memory.total_memory_mb", lambda _device: 16_000)
    assert run(["--json", *command(*SD15, "--dry-run")]) == 0
    (told,) = [line for line in printed(capsys)["advice"] if "may need" in line]
    assert "may need 18.0 GB, and the device has 16.0 GB" in told
    assert "--low-memory needs about 7.3 GB" in told


def test_out_of_memory_is_exit_code_5_and_goes_on_with_less(place, capsys, monkeypatch):
    from mcap.training import loop

    real = loop.training_step

    def too_large(models, rows, *args, **options):
        if len(rows) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return real(models, rows, *args, **options)

    monkeypatch.setattr(loop, "training_step", too_large)
    assert run(command()) == 5
    told = capsys.readouterr().err
    assert "Tried to allocate 2.00 GiB" in told
    assert "--low-memory" in told
    assert run(command("--low-memory")) == 0
    assert "after step 2 of 4" in capsys.readouterr().err
    assert read_subject(place / "me.mcap").manifest.recipe["batching"] == "sequential"


def test_one_bad_selfie_does_not_kill_the_run(place, capsys):
    (place / "me" / "notes.jpg").write_text("this is no picture")
    photo(place / "style" / "wall.png", 6, face=False)
    assert run(["--json", *command()]) == 0
    result = printed(capsys)
    assert {(record["name"], record["role"]) for record in result["refused"]} == {
        ("notes.jpg", "source"),
        ("wall.png", "reference"),
    }
    assert result["metrics"]["source_photos"] == 3
    assert result["metrics"]["reference_photos"] == 2


@pytest.mark.parametrize("folder", ["me", "style"])
def test_no_usable_photo_is_exit_code_3_with_the_reasons(place, capsys, folder):
    for path in (place / folder).iterdir():
        photo(path, 1, face=False)
    assert run(["--json", *command()]) == 3
    output = capsys.readouterr()
    refused = json.loads(output.out)["refused"]
    assert len(refused) >= 1
    assert "no face" in json.dumps(refused)
    assert not (place / "me.mcap").exists()


def test_ctrl_c_saves_and_the_printed_command_goes_on(place, capsys):
    steps = ("--set", "phase1_steps=3", "--set", "phase2_steps=40")
    assert run(command(*steps, out="whole.mcap")) == 0
    capsys.readouterr()

    def interrupt() -> None:
        log = place / "me.mcap" / "metrics.jsonl"
        while not log.exists() or log.read_text().count("\n") < 4:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    watcher = threading.Thread(target=interrupt)
    watcher.start()
    code = run(["--json", *command(*steps)])
    watcher.join()
    assert code == 130
    output = capsys.readouterr()
    error = json.loads(output.out)
    assert 4 <= error["step"] < 43
    words = shlex.split(output.err[output.err.index("mcap --json train") :].replace("\n", " "))
    assert words[-1] == "--resume"
    assert read_manifest(place / "me.mcap").state == "training"

    assert run(words[1:]) == 0
    for name in ("adapter.safetensors", "embeddings/mcap-id.safetensors"):
        whole = (place / "whole.mcap" / name).read_bytes()
        assert (place / "me.mcap" / name).read_bytes() == whole


def test_the_same_command_goes_on_without_resume_too(place, capsys, monkeypatch):
    from mcap.training import loop

    def broken(*_args, **_kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_subject", broken)
        assert run(command()) == 130
    assert read_manifest(place / "me.mcap").state == "training"
    capsys.readouterr()
    assert run(command()) == 0
    assert "after step 4 of 4" in capsys.readouterr().err


def test_resume_needs_something_to_resume(place, capsys):
    assert run(command("--resume")) == 2
    assert "no interrupted run" in capsys.readouterr().err


def test_a_style_without_photos_is_drawn_with_the_backbone(place):
    arguments = command()
    at = arguments.index("--reference")
    assert run([*arguments[:at], *arguments[at + 2 :]]) == 0
    drawn = sorted((place / "me.mcap" / "references").iterdir())
    assert len(drawn) == 8
    assert Image.open(drawn[0]).size == (64, 64)
    manifest = read_subject(place / "me.mcap").manifest
    refused = [record for record in manifest.refused if record.role == "reference"]
    assert manifest.metrics["reference_photos"] == 8 - len(refused)


def test_low_memory_and_previews(place):
    assert run(command("--low-memory", "--preview-every", "2")) == 0
    subject = read_subject(place / "me.mcap")
    assert subject.manifest.recipe["gradient_checkpointing"] is True
    assert subject.manifest.recipe["batching"] == "sequential"
    samples = sorted(path.name for path in (place / "me.mcap" / "samples").iterdir())
    assert samples == ["step-000002.jpg", "step-000004.jpg"]


def test_an_edited_mask_wins_and_is_part_of_the_inputs(place, capsys):
    (place / "masks").mkdir()
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[60:100, 60:100] = 255
    Image.fromarray(mask).save(place / "masks" / "0.png")
    assert run(command("--masks", "masks")) == 0
    mask[:, 90:] = 0
    Image.fromarray(mask).save(place / "masks" / "0.png")
    assert run(command("--masks", "masks")) == 2
    assert "masks (0.png)" in capsys.readouterr().err


def test_a_network_without_gradients_cannot_teach(place, capsys, monkeypatch):
    entry = Entry("identity", "blind", _Identity, "tests", info=IdentityInfo(differentiable=False))
    monkeypatch.setitem(registry().entries["identity"], "blind", entry)
    assert run(command("--identity", "blind")) == 2
    assert "no gradients" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("extra", "code", "words"),
    [
        (["--set", "identity_wieght=1"], 2, "identity_weight"),
        (["--set", "batch"], 2, "key=value"),
        (["--recipe", "dreamboot"], 2, "magicapture, textual-inversion"),
        (["--backbone", "/no/such/folder"], 4, "no such folder"),
        (["--backbone", "sd51"], 4, "sd15"),
        (["--style", "pasport"], 2, "passport"),
        (["--device", "tpu"], 2, "device"),
        (["--masks", "nowhere"], 2, "--masks nowhere"),
    ],
)
def test_wrong_options_are_named_before_any_work(place, capsys, extra, code, words):
    assert run(command(*extra)) == code
    assert words in capsys.readouterr().err
    assert not (place / "me.mcap").exists()


@pytest.mark.parametrize(
    ("backbone", "words"),
    [
        (
            "sd15",
            ["unet/diffusion_pytorch_model.safetensors (3.4 GB)", "CreativeML OpenRAIL-M",
             "'mcap models pull sd15'"],
        ),
        (
            "sdxl",
            ["text_encoder_2/model.fp16.safetensors (1.4 GB)", "CreativeML Open RAIL++-M", "MIT",
             "'mcap models pull sdxl sdxl-vae'"],
        ),
        ("owner/model@v1", ["owner/model@v1", "offline"]),
    ],
)  # fmt: skip
def test_offline_without_the_weights_it_says_what_to_fetch(
    place, capsys, monkeypatch, backbone, words
):
    """Before it looks at a single photo."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(place / "hub"))
    monkeypatch.setattr("mcap.weights.cache._offline", None)
    monkeypatch.setattr(MiddleFaceDetector, "detect", None)
    assert run([*command("--backbone", backbone), "--offline"]) == 4
    told = capsys.readouterr().err
    for text in words:
        assert text in told
    assert not (place / "me.mcap").exists()


@pytest.mark.parametrize(("kind", "name"), [("sd", "taesd"), ("sdxl", "taesdxl")])
def test_offline_without_the_tiny_autoencoder_it_says_so_before_any_work(
    place, capsys, monkeypatch, kind, name
):
    """One that is asked for; ``auto`` does without."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(place / "hub"))
    monkeypatch.setattr("mcap.weights.cache._offline", None)
    monkeypatch.setattr(MiddleFaceDetector, "detect", None)
    folder = str(tiny_folder(kind=kind))
    asked = command("--backbone", folder, "--set", "identity_decode=tiny")
    assert run([*asked, "--offline"]) == 4
    told = capsys.readouterr().err
    for text in (f"'{name}'", "9.8 MB", "licence MIT", f"'mcap models pull {name}'"):
        assert text in told
    assert not (place / "me.mcap").exists()


def test_a_model_of_sdxls_kind_is_trained_with_what_suits_it(place, capsys):
    """The entry is found by the folder's kind, and with it the recipe that SDXL likes."""
    folder = str(tiny_folder(kind="sdxl"))
    assert run(["--json", *command("--backbone", folder)]) == 0
    manifest = read_subject(place / "me.mcap").manifest
    assert (manifest.backbone.name, manifest.backbone.source) == ("sdxl", folder)
    assert manifest.recipe["attention_layers"] == 10
    assert manifest.recipe["gradient_checkpointing"]
    assert manifest.state == "complete"


@pytest.mark.parametrize("kind", ["klein", "zimage"])
def test_a_transformer_is_trained_and_drawn(place, capsys, monkeypatch, kind):
    """The entry is found by the folder's pipeline."""
    folder = str(TRANSFORMERS[kind]())
    assert run(["--json", *command("--backbone", folder)]) == 0
    manifest = read_subject(place / "me.mcap").manifest
    assert (manifest.backbone.name, manifest.backbone.source) == (kind, folder)
    assert manifest.recipe["gradient_checkpointing"]
    capsys.readouterr()
    draw = ["generate", "me.mcap", "--count", "1", "--steps", "2", "--prompt", "a {id} {noun}"]
    with monkeypatch.context() as patched:
        patched.setattr("mcap.training.costs.networks_mb", lambda *_, **__: 1e9)
        patched.setattr("mcap.training.backbone_facts.folder_size", lambda _folder: 1024)
        patched.setattr("mcap.weights.model_source.folder_size", lambda _folder: 1024)
        assert run([*draw, "--style", "./plain.toml", "--device", "cpu"]) == 5
        assert "networks alone are" in capsys.readouterr().err
    options = ["--style", "./plain.toml", "--device", "cpu", "--out", "pictures"]
    monkeypatch.setenv("MCAP_DETECTOR", "tiny")
    assert run(["--json", *draw, *options]) == 0
    (picture,) = printed(capsys)["pictures"]
    assert Path(picture["file"]).is_file()
    options[-1] = "maps"
    assert run(["--json", *draw, *options, "--attention-maps"]) == 0
    assert Path(printed(capsys)["attention_maps"]).is_file()
    change = ["edit", picture["file"], "--subject", "me.mcap", "--device", "cpu", "--local"]
    assert run(["--json", *change, "--add", "in dark light", "--out", "edited"]) == 0
    (edited,) = printed(capsys)["pictures"]
    assert Path(edited["file"]).is_file()


def distilled(place: Path) -> str:
    folder = Path(shutil.copytree(TRANSFORMERS["klein"](), place / "few-steps"))
    index = folder / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "is_distilled": True}))
    return str(folder)


def test_a_distilled_model_is_trained_with_force_alone(place, capsys, monkeypatch):
    few = command("--backbone", distilled(place))
    with monkeypatch.context() as patched:
        patched.setattr(MiddleFaceDetector, "detect", None)  # before any work
        assert run(few) == 2
    assert "Base variant), or train it all the same with --force" in capsys.readouterr().err
    assert not (place / "me.mcap").exists()
    assert run([*few, "--force", "--dry-run"]) == 0
    capsys.readouterr()
    assert run([*few, "--force"]) == 0
    capsys.readouterr()
    assert run(["--json", *few]) == 0
    assert printed(capsys)["already_trained"]


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (["--recipe", "dreambooth"], "of which mcap trains words and LoRA alone"),
        (["--set", "text_encoder=true"], "of which mcap trains words and LoRA alone"),
    ],
)
def test_a_recipe_that_is_not_for_a_transformer_is_refused_before_any_work(
    place, capsys, monkeypatch, recipe, words
):
    monkeypatch.setattr(MiddleFaceDetector, "detect", None)
    folder = str(TRANSFORMERS["zimage"]())
    assert run(command("--backbone", folder, *recipe)) == 2
    assert words in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize("key", ["word_place=output", "flow_mean=1.0"])
def test_keys_of_a_transformer_are_refused_for_a_unet(place, capsys, monkeypatch, key):
    monkeypatch.setattr(MiddleFaceDetector, "detect", None)
    assert run(command("--set", key)) == 2
    assert "no rectified flow" in capsys.readouterr().err


def test_networks_larger_than_the_memory_are_refused_before_anything_is_fetched(
    place, capsys, monkeypatch
):
    folder = Path(shutil.copytree(TRANSFORMERS["zimage"](), place / "zimage"))
    vae = folder / "vae" / "config.json"  # of the size that was counted
    vae.write_text(json.dumps({**json.loads(vae.read_text()), "sample_size": 1024}))
    for file in folder.glob("*/*.safetensors"):  # as of a hub id that is not here
        file.unlink()
    monkeypatch.setattr("mcap.runtime.memory.total_memory_mb", lambda _device: 24_000)
    monkeypatch.setattr(MiddleFaceDetector, "detect", None)
    assert run(command("--backbone", str(folder))) == 5
    told = capsys.readouterr().err
    assert "networks alone are 39.0 GB, and the device has 24.0 GB" in told
    assert "nothing was fetched or begun" in told and "--precision bf16" in told
    assert not (place / "me.mcap").exists()


class _Person:
    """Everything but a rim of the photo: hair above the face, shoulders below it."""

    info = MaskerInfo()

    def mask(self, image: np.ndarray, face: Face) -> np.ndarray:
        mask = np.zeros(image.shape[:2], np.float32)
        mask[8:, 8:-8] = 1
        return mask


@pytest.fixture
def person_masker(monkeypatch):
    entry = Entry("masker", "person", _Person, "tests", licence="Apache-2.0", info=_Person.info)
    monkeypatch.setitem(registry().entries["masker"], "person", entry)


HEAD = ("--set", "subject_region=head")


def test_the_heads_region_is_of_the_subject_and_asked_for_again_after_an_interruption(
    place, person_masker, capsys
):
    assert run(command(*HEAD)) == 0
    manifest = read_manifest(place / "me.mcap")
    assert manifest.recipe["subject_region"] == "head"
    assert manifest.inputs["person"] == "person"
    assert ("person", "person") in {(item.kind, item.name) for item in manifest.licences}
    capsys.readouterr()
    # The same again is complete; with the face alone it is another subject.
    assert run(["--json", *command(*HEAD)]) == 0
    assert printed(capsys)["already_trained"] is True
    assert run(command()) == 2
    assert "person; recipe (subject_region) changed" in capsys.readouterr().err
    # A run with the face alone neither asks for the person nor has another fingerprint than before.
    assert run(command(out="face.mcap")) == 0
    assert "person" not in read_manifest(place / "face.mcap").inputs
    one, other = (read_subject(place / name) for name in ("me.mcap", "face.mcap"))
    assert one.sha256 != other.sha256


def test_the_plan_names_the_weights_that_the_head_needs(place, capsys, monkeypatch):
    entry = replace(registry().get("masker", "person"), factory=_Person)
    monkeypatch.setitem(registry().entries["masker"], "person", entry)
    assert run(["--json", *command("--dry-run", *HEAD)]) == 0
    assert "selfie-segmentation" in {line["name"] for line in printed(capsys)["weights"]}
    assert run(["--json", *command("--dry-run")]) == 0
    assert "selfie-segmentation" not in {line["name"] for line in printed(capsys)["weights"]}


def test_masks_of_a_folder_are_joined_with_the_head_unless_somebody_edited_them(
    place, person_masker, monkeypatch
):
    from mcap.training import run as training

    seen = {}
    make = training.training_data

    def keep(*args, **more):
        data = make(*args, **more)
        seen.update({crop.name: crop.mask for crop in data.sources if "(" not in crop.name})
        return data

    monkeypatch.setattr(training, "training_data", keep)
    mask = ["mask", "me", "--out", "masked", "--detector", "tiny", "--identity", "tiny"]
    assert run([*mask, "--masker", "tiny"]) == 0
    edited = np.zeros((SIDE, SIDE), np.uint8)
    edited[60:90, 60:90] = 255
    Image.fromarray(edited).save(place / "masked/masks/1.png")
    assert run(command("--masks", "masked")) == 0
    faces = dict(seen)
    assert run(command("--masks", "masked", *HEAD, out="head.mcap")) == 0
    assert seen["0"].sum() > 1.2 * faces["0"].sum()
    assert (seen["0"] >= faces["0"] - 0.02).all()
    assert np.array_equal(seen["1"], faces["1"])


def test_a_profiles_framing_is_learned_at_its_aspect(place, capsys):
    """On Stable Diffusion's kind: sources stay square, references and previews are upright."""
    text = (place / "plain.toml").read_text()
    framed = 'name = "plain"\naspect = "3:4"\n[framing]\nhead_height = [0.5, 0.6]\n'
    (place / "plain.toml").write_text(text.replace('name = "plain"\n', framed))
    assert run(command("--preview-every", "4")) == 0
    manifest = read_manifest(place / "me.mcap")
    assert manifest.recipe["reference_framing"] == "profile"
    (preview,) = (place / "me.mcap/samples").iterdir()
    assert Image.open(preview).size == (4 * 56, 72)
    # As the pictures are drawn later.
    from mcap.framing.crop import sampling_size
    from tests.support.tiny import tiny_backbone

    assert sampling_size(tiny_backbone().info, 3 / 4) == (56, 72)
    # The square is the paper's; it is another subject.
    capsys.readouterr()
    assert run(command("--set", "reference_framing=square")) == 2
    assert "recipe (reference_framing) changed" in capsys.readouterr().err
    assert run(command("--set", "reference_framing=square", out="square.mcap")) == 0


def test_a_profile_without_framing_is_learned_in_squares(place):
    assert run(command("--preview-every", "4")) == 0
    (preview,) = (place / "me.mcap/samples").iterdir()
    assert Image.open(preview).size == (4 * 64, 64)


def test_the_recipe_instant_gives_a_subject_that_generates_and_exports(place, capsys, monkeypatch):
    """Whatever the backbone's recipe and the profile's keys say, it trains nothing."""
    import shutil

    from tests.plugins.test_identity_encoder import with_encoder

    arguments = command("--recipe", "instant")
    assert run([*arguments, "--set", "identity_encoder=word"]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "brings no identity encoder" in told and "--recipe instant" in told
    assert not (place / "me.mcap").exists()

    shutil.copytree(tiny_folder(), place / "model")
    with_encoder(place / "model")
    arguments[arguments.index("--backbone") + 1] = "model"
    assert run(["--json", *arguments, "--dry-run"]) == 0
    assert printed(capsys)["steps"] == 0
    assert run(["--json", *arguments]) == 0
    assert printed(capsys)["metrics"]["steps"] == 0
    subject = read_subject(place / "me.mcap")
    assert subject.adapter is None and subject.manifest.recipe["name"] == "instant"
    draw = ["generate", "me.mcap", "--style", "./plain.toml", "--count", "2", "--out", "drawn"]
    monkeypatch.setenv("MCAP_DETECTOR", "tiny")
    monkeypatch.setenv("MCAP_IDENTITY", "tiny")
    assert run([*draw, "--steps", "2"]) == 0
    assert len(list((place / "drawn").glob("*.png"))) == 2
    capsys.readouterr()
    assert run(["export", "me.mcap", "--format", "diffusers", "--out", "exported"]) == 0
    assert list((place / "exported").rglob("*.safetensors"))
    capsys.readouterr()
    assert run(["--json", "inspect", str(next((place / "drawn").glob("*.png")))]) == 0
    assert printed(capsys)["pictures"][0]["record"]["trained"] == {
        "name": "instant",
        "subject_region": "face",
        "reference_framing": "profile",
        "identity_start": "encoder",
    }
    # The user's own keys still go before it.
    more = ["--set", "phase1_steps=2", "--set", "photos_for_all_steps=1"]
    arguments[arguments.index("me.mcap")] = "more.mcap"
    assert run([*arguments, *more]) == 0
    assert read_manifest(place / "more.mcap").metrics["steps"] == 2
