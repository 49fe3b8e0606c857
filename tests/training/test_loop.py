"""The loop on the tiny random model: phases, terms, logs, previews, stops, exact resumes."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from mcap.contracts import Face
from mcap.diffusion.offload import Offloaded
from mcap.errors import InputRejectedError, McapError, OutOfMemory, UsageError
from mcap.subjects.subject import read_subject
from mcap.training import decoder_choice, loop
from mcap.training.events import (
    CheckpointSaved,
    DecodeChosen,
    PhaseStarted,
    PreviewSaved,
    StepEvent,
    Stopped,
    TrainingFinished,
)
from mcap.training.previews import Preview, Previews
from tests.support import ROOT
from tests.support.tiny import tiny_backbone
from tests.support.tiny_run import run, tiny_data, tiny_recipe
from tests.support.tiny_transformers import tiny_klein, tiny_zimage_backbone

RESULTS = (
    "adapter.safetensors",
    "embeddings/mcap-id.safetensors",
    "embeddings/mcap-style.safetensors",
    "identity.safetensors",
)


pytestmark = pytest.mark.usefixtures("one_thread")


def results(folder: Path) -> dict[str, str]:
    return {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in RESULTS
        if (folder / name).exists()
    }


def metrics(folder: Path) -> list[dict]:
    """metrics.jsonl without what a clock and a machine say."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return [
        {key: value for key, value in record.items() if key not in ("seconds", "memory_mb")}
        for record in records
    ]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("runs") / "whole.mcap"
    events = list(run(folder, tiny_recipe()))
    return folder, events


def test_both_phases_from_top_to_bottom(uninterrupted):
    folder, events = uninterrupted
    phases = [event for event in events if isinstance(event, PhaseStarted)]
    assert [(event.phase, event.steps) for event in phases] == [(1, 4), (2, 4)]
    assert set(phases[0].learned) == {"tokens"}
    assert phases[0].learned["tokens"] == 2 * 16
    assert set(phases[1].learned) == {"tokens", "lora"}
    steps = [event for event in events if isinstance(event, StepEvent)]
    assert [event.step for event in steps] == list(range(1, 9))
    assert all(event.steps == 8 for event in steps)
    assert set(steps[0].losses) == {"loss", "source", "reference"}
    assert set(steps[-1].losses) == {
        "loss",
        "source",
        "reference",
        "composed",
        "identity",
        "attention_source",
        "attention_reference",
        "attention_composed",
    }
    assert isinstance(events[-1], TrainingFinished)
    assert [record["step"] for record in metrics(folder)] == list(range(1, 9))
    assert [record["losses"] for record in metrics(folder)] == [event.losses for event in steps]


def test_learning_rates_fall_linearly_in_each_phase(uninterrupted):
    steps = [event for event in uninterrupted[1] if isinstance(event, StepEvent)]
    assert [event.lr["tokens"] for event in steps] == pytest.approx(
        [5e-4, 3.75e-4, 2.5e-4, 1.25e-4, 1e-5, 7.5e-6, 5e-6, 2.5e-6]
    )
    assert [event.lr["lora"] for event in steps[4:]] == pytest.approx([1e-2, 7.5e-3, 5e-3, 2.5e-3])


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(uninterrupted, tmp_path):
    list(run(tmp_path / "again.mcap", tiny_recipe()))
    assert results(tmp_path / "again.mcap") == results(uninterrupted[0])
    list(run(tmp_path / "other.mcap", tiny_recipe(), seed=1))
    assert results(tmp_path / "other.mcap") != results(uninterrupted[0])


def test_the_backbone_is_handed_back_as_it_came(tmp_path):
    backbone = tiny_backbone()
    before = {
        name: [(key, value.clone()) for key, value in getattr(backbone, name).state_dict().items()]
        for name in ("unet", "vae")
    }
    tokenizer, encoder = backbone.tokenizers[0], backbone.text_encoders[0]
    table = encoder.get_input_embeddings()
    list(run(tmp_path / "a.mcap", tiny_recipe(), backbone=backbone))
    assert backbone.tokenizers[0] is tokenizer
    assert encoder.get_input_embeddings() is table
    for name, state in before.items():
        after = getattr(backbone, name).state_dict()
        assert [key for key, _ in state] == list(after)
        assert all(torch.equal(value, after[key]) for key, value in state)
    hooks = [module for module in backbone.unet.modules() if module._forward_hooks]
    assert hooks == []


@pytest.mark.parametrize("step", range(1, 8))
def test_stopped_and_resumed_at_any_step_equals_uninterrupted(uninterrupted, tmp_path, step):
    folder = tmp_path / "stopped.mcap"
    seen = []
    stopping = run(folder, tiny_recipe(), should_stop=lambda: len(seen) >= step)
    for event in stopping:
        if isinstance(event, StepEvent):
            seen.append(event)
        if isinstance(event, Stopped):
            break
    stopping.close()
    assert isinstance(event, Stopped)
    assert event.step == step
    torch.rand(7)  # another process has other global random numbers
    random.random()
    torch.manual_seed(99)
    list(run(folder, tiny_recipe(), resume=True))
    assert results(folder) == results(uninterrupted[0])
    assert metrics(folder) == metrics(uninterrupted[0])


def kill(folder: Path, step: int, *model: str) -> None:
    """Train in another process, and kill it when that step is done."""
    paths = [str(ROOT), str(ROOT / "plugins")]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.tiny_run", str(folder), *model],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
    )
    for line in process.stdout:
        if line.split()[:2] == ["StepEvent", str(step)]:
            process.send_signal(signal.SIGKILL)
            break
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    assert json.loads((folder / "manifest.json").read_text())["state"] == "training"


@pytest.mark.parametrize("phase", [1, 2])
def test_killed_in_either_phase_and_resumed_equals_uninterrupted(uninterrupted, tmp_path, phase):
    step = random.SystemRandom().randint(1, 3) + (0 if phase == 1 else 4)
    folder = tmp_path / "killed.mcap"
    kill(folder, step)
    list(run(folder, tiny_recipe(), resume=True))
    assert results(folder) == results(uninterrupted[0]), f"killed at step {step}"
    assert metrics(folder) == metrics(uninterrupted[0]), f"killed at step {step}"


def test_killed_on_a_velocity_model_of_sdxls_kind_and_resumed(tmp_path):
    model = {"kind": "sdxl", "prediction_type": "v_prediction"}
    list(run(tmp_path / "whole.mcap", tiny_recipe(), backbone=tiny_backbone(**model)))
    folder = tmp_path / "killed.mcap"
    kill(folder, 7, *model.values())
    list(run(folder, tiny_recipe(), resume=True, backbone=tiny_backbone(**model)))
    assert results(folder) == results(tmp_path / "whole.mcap")
    assert metrics(folder) == metrics(tmp_path / "whole.mcap")


def test_resume_without_a_checkpoint_starts_from_the_beginning(uninterrupted, tmp_path):
    folder = tmp_path / "early.mcap"
    events = run(folder, tiny_recipe(), checkpoint_every=100)
    for event in events:
        if isinstance(event, StepEvent) and event.step == 2:
            break
    events.close()
    list(run(folder, tiny_recipe(), resume=True))
    assert results(folder) == results(uninterrupted[0])
    assert len(metrics(folder)) == 8


def test_resume_after_the_last_step_only_writes(uninterrupted, tmp_path):
    folder = tmp_path / "last.mcap"
    events = run(folder, tiny_recipe())
    for event in events:
        if isinstance(event, CheckpointSaved) and event.step == 8:
            break
    events.close()
    assert not (folder / "adapter.safetensors").exists()
    again = list(run(folder, tiny_recipe(), resume=True))
    assert not any(isinstance(event, StepEvent) for event in again)
    assert results(folder) == results(uninterrupted[0])


def test_resume_sets_the_thread_count_of_the_checkpoint(tmp_path):
    folder = tmp_path / "threads.mcap"
    torch.set_num_threads(2)
    events = run(folder, tiny_recipe(phase1_steps=2, phase2_steps=0))
    next(event for event in events if isinstance(event, CheckpointSaved))
    events.close()
    torch.set_num_threads(1)
    list(run(folder, tiny_recipe(phase1_steps=2, phase2_steps=0), resume=True))
    assert torch.get_num_threads() == 2


def stop_after_two(folder, **keys):
    events = run(folder, tiny_recipe(**keys))
    next(event for event in events if isinstance(event, CheckpointSaved))
    events.close()


def test_resume_refuses_another_recipe_photo_seed_or_backbone(tmp_path):
    folder = tmp_path / "changed.mcap"
    stop_after_two(folder)
    data = tiny_data()
    other = dataclasses.replace(data.sources[0], sha256="f" * 64)
    changes = {
        "recipe identity_weight": {"found": tiny_recipe(identity_weight=0.5)},
        "source photos": {"data": dataclasses.replace(data, sources=[other, *data.sources[1:]])},
        "reference photos": {"data": dataclasses.replace(data, references=data.references[:1])},
        "seed": {"seed": 5},
        "backbone weights": {"backbone": tiny_backbone(seed=1)},
    }
    for name, change in changes.items():
        arguments = {"found": tiny_recipe(), **change}
        with pytest.raises(UsageError, match=name) as caught:
            list(run(folder, resume=True, **arguments))
        assert caught.value.details["changed"] == [name]
    list(run(folder, tiny_recipe(), resume=True))
    assert read_subject(folder).adapter is not None


def test_previews_change_nothing(uninterrupted, tmp_path):
    folder = tmp_path / "previews.mcap"
    events = list(run(folder, tiny_recipe(), preview_every=3))
    previews = [event for event in events if isinstance(event, PreviewSaved)]
    assert [event.step for event in previews] == [3, 6]
    assert previews[0].path == folder / "samples" / "step-000003.jpg"
    assert all(event.path.stat().st_size > 500 for event in previews)
    assert sorted(path.name for path in (folder / "samples").iterdir()) == [
        "step-000003.jpg",
        "step-000006.jpg",
    ]
    assert results(folder) == results(uninterrupted[0])


class FaceInTheMiddle:
    def detect(self, image):
        points = np.array([[24, 26], [40, 26], [32, 34], [26, 42], [38, 42]], np.float32)
        return [Face((16.0, 16.0, 48.0, 48.0), 0.9, points)]


def test_previews_are_judged_and_logged(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "judged.mcap"
    parts = {"detector": FaceInTheMiddle()}
    events = list(run(folder, tiny_recipe(), preview_every=4, parts=parts))
    seen = {e.step: e.similarity for e in events if isinstance(e, PreviewSaved)}
    assert set(seen) == {4, 8}
    assert all(-1 <= value <= 1 for value in seen.values())
    logged = [record for record in metrics(folder) if "preview" in record]
    assert [record["preview"] for record in logged] == [
        "samples/step-000004.jpg",
        "samples/step-000008.jpg",
    ]
    assert [record["similarity"] for record in logged] == pytest.approx(
        list(seen.values()), abs=1e-4
    )
    board = EventAccumulator(str(folder / "tensorboard"))
    board.Reload()
    assert [point.step for point in board.Scalars("preview/similarity")] == [4, 8]
    shown = board.Images("preview")
    assert [point.step for point in shown] == [4, 8]
    for point in shown:  # the file itself, with its marks
        whole = (folder / "samples" / f"step-{point.step:06d}.jpg").read_bytes()
        assert point.encoded_image_string == whole
        with Image.open(io.BytesIO(whole)) as picture:
            assert picture.size == (point.width, point.height)
    assert {"loss/loss", "loss/identity", "lr/lora"} <= set(board.Tags()["scalars"])


SIMILARITIES = [0.1, 0.4, 0.405, 0.3, 0.9]  # the second look is the last that rises by enough


@pytest.fixture
def judged(monkeypatch):
    """Previews cost nothing and are judged as `SIMILARITIES` says."""
    looks = []

    def fake(_previews, _path):
        looks.append(None)
        return Preview(b"", (8, 8), SIMILARITIES[len(looks) - 1])

    monkeypatch.setattr(Previews, "draw", fake)
    return {"detector": FaceInTheMiddle()}


STOPPING = {"patience": 2, "eval_every": 1, "phase1_steps": 2, "phase2_steps": 6}


def test_it_stops_when_similarity_stops_rising_with_the_weights_of_the_best_look(tmp_path, judged):
    early, short = tmp_path / "early.mcap", tmp_path / "short.mcap"
    events = list(run(early, tiny_recipe(lr_schedule="constant", **STOPPING), parts=judged))
    assert events[-1].ended_early
    assert events[-1].steps == 6  # four looks in phase 2
    assert read_subject(early).manifest.state == "complete"
    plain = {**STOPPING, "patience": 0, "phase2_steps": 2}
    list(run(short, tiny_recipe(lr_schedule="constant", **plain)))
    for name in RESULTS:
        one, other = load_file(early / name), load_file(short / name)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_an_interrupted_run_stops_where_it_would_have(tmp_path, judged, monkeypatch):
    found = tiny_recipe(**STOPPING)
    list(run(tmp_path / "whole.mcap", found, parts=judged))
    folder = tmp_path / "resumed.mcap"
    numbers = iter(SIMILARITIES)

    def look(*_):
        return Preview(b"", (8, 8), next(numbers))

    monkeypatch.setattr(Previews, "draw", look)
    events = run(folder, found, parts=judged)
    assert next(e for e in events if isinstance(e, CheckpointSaved) and e.step == 4)
    events.close()  # after two looks
    again = list(run(folder, found, parts=judged, resume=True))
    assert again[-1].ended_early
    assert again[-1].steps == 6
    assert results(folder) == results(tmp_path / "whole.mcap")


def test_it_never_stops_unless_asked(tmp_path, judged):
    events = list(run(tmp_path / "on.mcap", tiny_recipe(**{**STOPPING, "patience": 0})))
    assert events[-1].steps == 8
    assert not events[-1].ended_early
    with pytest.raises(ValueError, match="patience needs a face detector"):
        list(run(tmp_path / "none.mcap", tiny_recipe(**STOPPING)))


def test_a_loss_that_is_not_finite_stops_and_names_the_step(tmp_path, monkeypatch):
    folder = tmp_path / "nan.mcap"
    real = loop.training_step
    calls = []

    def poisoned(*args, **kwargs):
        calls.append(None)
        result = real(*args, **kwargs)
        if len(calls) < 6:
            return result
        terms = {**result.terms, "identity": torch.tensor(float("nan"))}
        return dataclasses.replace(result, loss=result.loss * float("nan"), terms=terms)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "training_step", poisoned)
        with pytest.raises(McapError, match=r"step 6 \(phase 2\): identity, loss"):
            list(run(folder, tiny_recipe()))
    assert [path.name for path in sorted((folder / "checkpoints").iterdir())] == [
        "step-000002",
        "step-000004",
    ]
    list(run(folder, tiny_recipe(), resume=True))
    assert read_subject(folder).manifest.state == "complete"


def test_out_of_memory_says_what_to_try(tmp_path, monkeypatch):
    def full(*_args, **_kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(loop, "training_step", full)
    with pytest.raises(OutOfMemory, match="--low-memory"):
        list(run(tmp_path / "oom.mcap", tiny_recipe()))


def test_no_photos_are_refused(tmp_path):
    for name in ("sources", "references"):
        data = dataclasses.replace(tiny_data(), **{name: []})
        with pytest.raises(InputRejectedError, match="no usable"):
            list(run(tmp_path / "none.mcap", tiny_recipe(), data=data))


def last_losses(folder, **keys):
    events = list(run(folder, tiny_recipe(**keys)))
    return [event for event in events if isinstance(event, StepEvent)][-1].losses


@pytest.mark.parametrize(
    ("keys", "missing"),
    [
        ({"composed": False}, {"composed", "attention_composed"}),
        ({"identity": False}, {"identity"}),
        (
            {"attention": False},
            {"attention_source", "attention_reference", "attention_composed"},
        ),
    ],
)
def test_a_term_that_is_off_is_gone(uninterrupted, tmp_path, keys, missing):
    every = [event for event in uninterrupted[1] if isinstance(event, StepEvent)][-1].losses
    found = last_losses(tmp_path / "off.mcap", phase1_steps=1, phase2_steps=1, **keys)
    assert set(every) - set(found) == missing


def far_away(data):
    """The faces half as large, so that a window around one is smaller than the picture."""
    smaller = [dataclasses.replace(c, landmarks=16 + c.landmarks / 2) for c in data.references]
    return dataclasses.replace(data, references=smaller)


def test_the_decode_is_chosen_and_kept_over_an_interruption(tmp_path, monkeypatch):
    """Noise pictures' windows are not faithful; one that is (told so) is taken, and stays."""
    folder = tmp_path / "auto.mcap"
    found = tiny_recipe(phase1_steps=0)
    data = far_away(tiny_data())
    (chosen,) = [e for e in run(folder, found, data=data) if isinstance(e, DecodeChosen)]
    window = chosen.measured["window"]
    assert chosen.name == ("window" if window.enough else "full")
    assert 0 < window.cosine < 1

    monkeypatch.setattr(decoder_choice, "LEAST_COSINE", -1.0)
    monkeypatch.setattr(decoder_choice, "LEAST_GRADIENT_COSINE", -1.0)
    folder = tmp_path / "window.mcap"
    events = run(folder, found, data=data)
    assert next(e for e in events if isinstance(e, DecodeChosen)).name == "window"
    next(e for e in events if isinstance(e, CheckpointSaved))
    events.close()
    monkeypatch.setattr(decoder_choice, "LEAST_COSINE", 2.0)
    again = list(run(folder, found, data=data, resume=True))
    assert again[-1].decode == "window"


def test_nothing_is_measured_where_no_window_would_be_smaller(uninterrupted):
    (chosen,) = [event for event in uninterrupted[1] if isinstance(event, DecodeChosen)]
    assert (chosen.name, chosen.measured) == ("full", {})


def test_a_tiny_autoencoder_is_the_first_that_is_tried(tmp_path):
    from diffusers import AutoencoderTiny

    blocks = {"encoder_block_out_channels": (8, 8, 8), "decoder_block_out_channels": (8, 8, 8)}
    counts = {"num_encoder_blocks": (1, 1, 1), "num_decoder_blocks": (1, 1, 1)}
    tiny = AutoencoderTiny(**blocks, **counts).requires_grad_(False)
    events = run(tmp_path / "t.mcap", tiny_recipe(phase1_steps=0), parts={"tiny_vae": tiny})
    chosen = next(event for event in events if isinstance(event, DecodeChosen))
    assert next(iter(chosen.measured)) == "tiny"
    assert chosen.name != "tiny"  # random weights show another picture
    events.close()
    forced = tiny_recipe(phase1_steps=0, phase2_steps=1, identity_decode="tiny")
    events = list(run(tmp_path / "f.mcap", forced, parts={"tiny_vae": tiny}))
    assert events[-1].decode == "tiny"
    assert "identity" in events[-1].losses


def test_after_running_out_of_memory_it_goes_on_with_less(tmp_path):
    """Keys that only say how a step is computed may change between two parts of a run."""
    folder = tmp_path / "less.mcap"
    stop_after_two(folder)
    small = tiny_recipe(
        batching="sequential", gradient_checkpointing=True, identity_decode="window"
    )
    events = list(run(folder, small, resume=True))
    assert [e.step for e in events if isinstance(e, StepEvent)] == list(range(3, 9))


def test_identity_row_every_other_step(tmp_path):
    events = list(run(tmp_path / "k.mcap", tiny_recipe(phase1_steps=0, identity_every=2)))
    steps = [event for event in events if isinstance(event, StepEvent)]
    assert ["identity" in event.losses for event in steps] == [True, False, True, False]


def test_rows_apart_give_the_same_gradients_as_together(tmp_path):
    # Learned values differ in the last bits only: the sums are the same in another order.
    found = {}
    for batching in ("joint", "sequential"):
        folder = tmp_path / f"{batching}.mcap"
        keys = {"batching": batching, "batch": 2, "phase1_steps": 0, "phase2_steps": 2}
        found[batching] = last_losses(folder, **keys)
    assert found["sequential"] == pytest.approx(found["joint"], rel=1e-4)


def test_gradient_checkpointing_changes_no_loss(uninterrupted, tmp_path):
    found = last_losses(tmp_path / "gc.mcap", gradient_checkpointing=True)
    every = [event for event in uninterrupted[1] if isinstance(event, StepEvent)][-1].losses
    assert found == pytest.approx(every, rel=1e-4)


def test_released_recipe_trains_and_its_text_lora_is_saved(tmp_path):
    from safetensors import safe_open

    from mcap.training.recipe import Layer, recipe

    few = {"phase1_steps": 2, "phase2_steps": 6, "identity_landmarks": "reference"}
    found = recipe("released", [Layer("test", few)])
    folder = tmp_path / "released.mcap"
    events = list(run(folder, found))
    kinds = [set(event.losses) for event in events if isinstance(event, StepEvent)][2:]
    assert [("source" in kind, "reference" in kind, "composed" in kind) for kind in kinds] == [
        (True, False, False),
        (False, True, False),
        (False, False, True),
    ] * 2
    assert ["identity" in kind for kind in kinds] == [True, False, True] * 2
    with safe_open(folder / "adapter.safetensors", framework="pt") as file:
        prefixes = {key.split(".")[0] for key in file.keys()}  # noqa: SIM118 - no mapping
    assert prefixes == {"unet", "text_encoder"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_frozen_half_precision_learns_in_single(tmp_path, dtype):
    from safetensors.torch import load_file

    folder = tmp_path / "half.mcap"
    recipe = tiny_recipe(phase1_steps=2, phase2_steps=3)
    events = list(run(folder, recipe, backbone=tiny_backbone(dtype=dtype)))
    assert isinstance(events[-1], TrainingFinished)
    adapter = load_file(folder / "adapter.safetensors")
    assert {value.dtype for value in adapter.values()} == {torch.float32}
    moved = [value.abs().max().item() for key, value in adapter.items() if "lora_B" in key]
    assert min(moved) > 0
    assert load_file(folder / "embeddings/mcap-id.safetensors")["<mcap-id>"].dtype == torch.float32


def test_half_precision_resumes_with_its_gradient_scale(tmp_path):
    found = tiny_recipe(phase1_steps=0, phase2_steps=4)
    for name, stop in (("whole", 9), ("stopped", 2)):
        seen = []
        folder = tmp_path / f"{name}.mcap"
        for event in run(
            folder,
            found,
            backbone=tiny_backbone(dtype=torch.float16),
            should_stop=lambda seen=seen, stop=stop: len(seen) >= stop,
        ):
            if isinstance(event, StepEvent):
                seen.append(event)
            if isinstance(event, Stopped):
                break
    list(run(folder, found, backbone=tiny_backbone(dtype=torch.float16), resume=True))
    assert results(folder) == results(tmp_path / "whole.mcap")


@pytest.mark.parametrize("made", [tiny_backbone, tiny_klein, tiny_zimage_backbone])
@pytest.mark.parametrize("words", ["plain", "learned"])
def test_text_encoders_are_away_but_for_a_new_prompt(made, words, tmp_path, monkeypatch):
    """Where no word is learned, or it is asked for; in a preview they are there, and the files are
    the same."""
    keys = {"tokens": False, "id_words": "person", "style_words": "portrait", "attention": False}
    keys = {**keys, "phase1_steps": 0} if words == "plain" else {"phase1_steps": 2}
    found = tiny_recipe(**keys, phase2_steps=2)
    plain, other = tmp_path / "plain.mcap", tmp_path / "away.mcap"
    list(run(plain, found, backbone=made()))
    backbone, moves = made(), []

    class Away(Offloaded):
        """Takes a module's forward away, in the place of a second device."""

        def _move(self, place):
            for module in self.modules:
                if module not in backbone.text_encoders:
                    continue
                moves.append(place == self.home)
                module.__dict__.pop("forward", None)
                inner = getattr(module, "base_model", module)
                inner.__dict__.pop("forward", None)
                if place != self.home:
                    module.forward = inner.forward = None

        def __init__(self, modules, home):
            super().__init__(modules, home, away="meta")

    monkeypatch.setattr("mcap.training.loop.Offloaded", Away)
    if words == "learned":
        found = found.model_copy(update={"offload_text": True})
    events = list(run(other, found, backbone=backbone, preview_every=2))
    assert any(type(event).__name__ == "PreviewSaved" for event in events)
    assert moves[0] is False and moves[-1] is True and 2 < len(moves) < 60
    assert results(other) == results(plain)


@pytest.mark.parametrize("learns", ["lora", "unet", "key-value"])
@pytest.mark.parametrize("batching", ["joint", "sequential", "alternating"])
def test_the_head_is_kept_by_every_method_and_the_bytes_are_the_same_after_a_cut(
    tmp_path, learns, batching
):
    keys = {"phase1_steps": 2, "phase2_steps": 6, "lora_rank": 2, "crops": 1}
    # A prior of pictures beside it keeps its own target.
    prior = {"prior": "images"} if batching == "joint" else {}
    held = {"tone_weight": 2.0, "shape_weight": 1.0, "shape_from": 0.5}
    found = tiny_recipe(**held, learns=learns, batching=batching, **prior, **keys)
    whole, cut = tmp_path / "whole.mcap", tmp_path / "cut.mcap"
    steps = [event for event in run(whole, found) if isinstance(event, StepEvent)]
    kept = [{"tone", "shape"} & set(step.losses) for step in steps]
    assert not any(kept[:2])
    assert [len(each) for each in kept] == ["composed" in step.losses for step in steps]
    if batching == "joint":
        values = [
            step.losses[name] for step, each in zip(steps, kept, strict=True) for name in each
        ]
        assert values[0] < 1e-6 < min(values[1:])  # at first nothing has been learned
        assert steps[2].losses["prior"] > 1e-3
    events = run(cut, found)
    assert next(event for event in events if isinstance(event, CheckpointSaved) and event.step == 4)
    events.close()
    list(run(cut, found, resume=True))
    for name in read_subject(whole).manifest.files:
        assert (cut / name).read_bytes() == (whole / name).read_bytes(), name
