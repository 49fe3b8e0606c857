"""Drawing a subject: reproducible alone, ranked, repeatable, framed, with its provenance."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from mcap.errors import UsageError
from mcap.faces.similarity import likeness
from mcap.generation import generate
from mcap.generation.events import GenerationFinished, GenerationPlanned, PictureReady
from mcap.generation.run import check_backbone
from mcap.generation.settings import GenerateSettings
from mcap.images import provenance
from tests.support.generating import close, files, run
from tests.support.subjects import FixedDetector, make_profile, models
from tests.support.tiny import SIZE, sample, tiny_backbone, tiny_identity

PROMPT = "a photo of a person"


# A subject


def test_saved_and_loaded_by_hand_gives_the_same_picture(subject, backbone, tmp_path):
    """What generate draws is what plain diffusers draws from the subject's files."""
    *_, finished = run(subject, backbone, tmp_path, make_profile(aspect="1:1"), count=1, seed=3)
    plain = tiny_backbone().pipeline()
    plain.set_progress_bar_config(disable=True)
    for token, path in subject.embeddings.items():
        plain.load_textual_inversion(str(path), token=token)
    plain.load_lora_weights(str(subject.path), weight_name="adapter.safetensors")
    image = plain(
        "a photo of a <mcap-id> person in the <mcap-style> style",
        negative_prompt="",
        num_inference_steps=2,
        guidance_scale=7.0,
        height=SIZE,
        width=SIZE,
        generator=torch.Generator("cpu").manual_seed(3),
        output_type="np",
    ).images[0]
    ours = np.asarray(Image.open(finished.pictures[0].path))
    assert close((image * 255).round().astype(np.uint8), ours)


def test_the_backbone_is_given_back_as_it_was(subject, backbone, tmp_path):
    before = sample(backbone, PROMPT, [1], steps=2)
    words = len(backbone.tokenizers[0])
    *_, finished = run(subject, backbone, tmp_path, make_profile(aspect="1:1"), count=1, seed=1)
    assert np.array_equal(before[0], sample(backbone, PROMPT, [1], steps=2)[0])
    assert len(backbone.tokenizers[0]) == words
    assert not close(before[0], np.asarray(Image.open(finished.pictures[0].path)), levels=8)


def test_an_abandoned_run_gives_the_backbone_back(subject, backbone, tmp_path):
    before = sample(backbone, PROMPT, [1], steps=2)
    events = generate(subject, make_profile(), models(backbone), tmp_path)
    assert isinstance(next(events), GenerationPlanned)
    assert isinstance(next(events), PictureReady)
    events.close()
    assert np.array_equal(before[0], sample(backbone, PROMPT, [1], steps=2)[0])


def test_strengths_change_the_picture(subject, backbone, tmp_path):
    def drawn(name: str, **settings) -> np.ndarray:
        *_, finished = run(subject, backbone, tmp_path / name, count=1, **settings)
        return np.asarray(Image.open(finished.pictures[0].path))

    full = drawn("full")
    assert not close(full, drawn("no-lora", adapter_scale=0.0), levels=4)
    assert not close(full, drawn("no-token", token_scale=0.0), levels=0)


def test_another_backbone_is_refused(subject):
    check_backbone(subject, tiny_backbone().info)
    with pytest.raises(UsageError, match=r"other weights .* --force"):
        check_backbone(subject, tiny_backbone(seed=1).info)


def test_another_identity_network_is_refused(subject, backbone, tmp_path):
    identity = tiny_identity()
    identity.name = "other"
    with pytest.raises(UsageError, match="--identity tiny"):
        list(generate(subject, make_profile(), models(backbone, identity=identity), tmp_path))


# What is written


def test_pictures_are_ranked_and_listed(subject, backbone, tmp_path):
    events = run(subject, backbone, tmp_path, count=4, seed=10)
    assert isinstance(events[0], GenerationPlanned)
    assert (events[0].pictures, events[0].to_generate, events[0].steps) == (4, 4, 8)
    assert sum(isinstance(event, PictureReady) for event in events) == 4
    finished = events[-1]
    assert isinstance(finished, GenerationFinished)
    similarities = [picture.similarity for picture in finished.pictures]
    assert similarities == sorted(similarities, reverse=True) and len(set(similarities)) == 4
    assert [picture.rank for picture in finished.pictures] == [1, 2, 3, 4]
    lines = [json.loads(line) for line in finished.results.read_text().splitlines()]
    assert [line["rank"] for line in lines] == [1, 2, 3, 4]
    assert [line["similarity"] for line in lines] == similarities
    for picture, line in zip(finished.pictures, lines, strict=True):
        assert line["file"] == picture.path.name == f"test-{line['seed']:06d}.png"
        with Image.open(picture.path) as image:
            assert image.size == (56, 70)  # drawn at 56 x 72, which is nearest to 4:5
    names = set(files(tmp_path))
    assert {"contact-sheet.jpg", "report.html", "results.jsonl"} < names
    assert not [name for name in names if name.startswith(".")]  # nothing half written


def test_similarity_is_that_of_the_file(subject, backbone, tmp_path):
    *_, finished = run(subject, backbone, tmp_path, count=1)
    picture = finished.pictures[0]
    image = np.asarray(Image.open(picture.path))
    again = likeness(image, FixedDetector(), tiny_identity(), subject.identity_embedding)
    assert picture.similarity == pytest.approx(again.similarity, abs=1e-6)


def test_a_picture_without_a_face_comes_last_and_says_so(subject, backbone, tmp_path):
    profile = make_profile(aspect="1:1")
    *_, seen = run(subject, backbone, tmp_path / "a", profile, count=4)
    means = sorted(np.asarray(Image.open(p.path)).mean() for p in seen.pictures)
    detector = FixedDetector(darkest=(means[1] + means[2]) / 2)
    *_, finished = run(subject, backbone, tmp_path / "b", profile, detector, count=4)
    similarities = [picture.similarity for picture in finished.pictures]
    assert None not in similarities[:2] and similarities[2:] == [None, None]
    assert "no face found" in finished.report.read_text()
    assert finished.pictures[-1].record["face"] is None


def test_a_repeated_run_draws_nothing_and_changes_nothing(subject, backbone, tmp_path):
    first = run(subject, backbone, tmp_path, count=3)
    before = files(tmp_path)
    detector = FixedDetector()
    second = run(subject, backbone, tmp_path, count=3, detector=detector)
    assert second[0] == GenerationPlanned(3, 0, 0)
    assert detector.calls == 0
    assert files(tmp_path) == before
    assert [p.record for p in second[-1].pictures] == [p.record for p in first[-1].pictures]
    *_, longer = run(subject, backbone, tmp_path, count=5)
    assert sum(picture.new for picture in longer.pictures) == 2


def test_a_picture_is_hashed_once_a_run(subject, backbone, tmp_path, monkeypatch):
    from mcap.runtime import files as atomic

    read, original = [], atomic.sha256_of
    monkeypatch.setattr(atomic, "sha256_of", lambda path: read.append(path.name) or original(path))
    *_, finished = run(subject, backbone, tmp_path, count=4, best=2, batch_size=1)
    names = [f"test-{seed:06d}.png" for seed in range(4)]
    assert sorted(name for name in read if name in names) == names
    for line in map(json.loads, finished.results.read_text().splitlines()):
        assert line["sha256"] == original(tmp_path / line["file"])


def test_an_interrupted_run_goes_on(subject, backbone, tmp_path):
    settings = GenerateSettings(count=3, batch_size=1)
    events = generate(subject, make_profile(), models(backbone), tmp_path, settings)
    for _ in range(3):  # GenerationPlanned and two pictures
        next(events)
    events.close()
    rest = run(subject, backbone, tmp_path, count=3, batch_size=1)
    assert rest[0].to_generate == 1
    run(subject, backbone, tmp_path / "whole", count=3, batch_size=1)
    whole = files(tmp_path / "whole")
    for name in (name for name in whole if name.endswith((".png", ".jsonl"))):
        assert whole[name] == (tmp_path / name).read_bytes()


def test_attention_maps_draw_again_in_the_same_place(subject, backbone, tmp_path):
    run(subject, backbone, tmp_path, count=2)
    before = files(tmp_path)
    *_, finished = run(subject, backbone, tmp_path, count=2, attention_maps=True)
    after = files(tmp_path)
    assert set(after) == set(before) | {"attention-maps.jpg"}
    assert after["test-000000.png"] == before["test-000000.png"]
    with Image.open(finished.attention_maps) as sheet:
        assert sheet.width > 3 * 256 and sheet.height > 2 * 256
    assert "attention-maps.jpg" in finished.report.read_text()


def test_several_styles(subject, backbone, tmp_path):
    profiles = [make_profile("one"), make_profile("two", aspect="1:1")]
    *_, finished = run(subject, backbone, tmp_path, profiles, count=2, best=1)
    assert {picture.style for picture in finished.pictures if picture.kept} == {"one", "two"}
    assert len([picture for picture in finished.pictures if picture.kept]) == 2
    with pytest.raises(UsageError, match="given twice"):
        run(subject, backbone, tmp_path, [make_profile("one"), make_profile("one")])


@pytest.mark.parametrize("kind", ["png", "jpg", "webp"])
def test_every_format_carries_the_record(subject, backbone, tmp_path, kind):
    profile = make_profile(aspect="35:45", size_mm=[35, 45])
    *_, finished = run(subject, backbone, tmp_path, profile, count=1, format=kind)
    picture = finished.pictures[0]
    assert picture.path.suffix == f".{kind}"
    found = provenance.read(picture.path)
    assert found.record == picture.record
    assert found.generated
    assert found.dpi[0] == pytest.approx(picture.record["size"][0] / 35 * 25.4, abs=1)
    assert run(subject, backbone, tmp_path, profile, count=1, format=kind)[0].to_generate == 0


@pytest.mark.parametrize("kind", ["png", "jpg", "webp"])
def test_another_program_reads_how_it_was_drawn(subject, backbone, tmp_path, kind):
    """sd-parsers, which knows AUTOMATIC1111's text in PNG chunks and in EXIF."""
    sd_parsers = pytest.importorskip("sd_parsers", reason="sd-parsers is not installed")
    prompts = {
        "composed": ["a photo (studio) of a {id} {noun}, {style}, Grüße 漢字"],
        "negative": "dark",
    }
    profile = make_profile(prompts=prompts)
    *_, finished = run(subject, backbone, tmp_path, profile, count=1, format=kind)
    picture = finished.pictures[0]
    found = sd_parsers.ParserManager().parse(str(picture.path))
    assert found.generator.name == "AUTOMATIC1111"
    (sampler,), (prompt,), (negative,) = found.samplers, found.prompts, found.negative_prompts
    assert prompt.value.startswith("a photo \\(studio\\) of a ")
    assert "Grüße 漢字" in prompt.value and negative.value == "dark"
    assert sampler.parameters["seed"] == str(picture.record["seed"])
    assert sampler.parameters["steps"] == "2"


def test_out_must_be_a_folder(subject, backbone, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="is a file"):
        run(subject, backbone, tmp_path / "file", count=1)


def test_the_function_is_loaded_when_it_is_asked_for():
    """And stays what the package's name gives once its submodules are imported."""
    code = (
        "import sys, mcap.generation, mcap.generation.editing\n"
        "assert 'torch' not in sys.modules\n"
        "from mcap.generation import generate\n"
        "from mcap.generation.editing import edit\n"
        "import mcap.generation.run, mcap.generation.editing.run\n"
        "assert mcap.generation.generate is generate is mcap.generation.run.generate\n"
        "assert mcap.generation.editing.edit is edit is mcap.generation.editing.run.edit\n"
        "assert not hasattr(mcap.generation, 'nothing')\n"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
