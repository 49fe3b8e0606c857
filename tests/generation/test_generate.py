"""Drawing a subject: reproducible alone, ranked, repeatable, framed, with its provenance."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mcap.diffusion.sampling import decode_images
from mcap.errors import UsageError
from mcap.faces.similarity import likeness, ranked
from mcap.generation import generate
from mcap.generation.events import GenerationFinished, GenerationPlanned, PictureReady
from mcap.generation.folder import listed_record
from mcap.generation.run import check_backbone
from mcap.generation.settings import GenerateSettings
from mcap.images import provenance
from mcap.style.prompts import fill
from tests.support.subjects import FixedDetector, make_profile, make_subject, models
from tests.support.tiny import SIZE, sample, stream, tiny_backbone, tiny_identity

PROMPT = "a photo of a person"


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    return make_subject(tmp_path_factory.mktemp("subject") / "jane.mcap")


@pytest.fixture
def backbone():
    return tiny_backbone()


def run(subject, backbone, out: Path, profile=None, detector=None, **settings) -> list:
    return list(
        generate(
            subject,
            profile or make_profile(),
            models(backbone, detector),
            out,
            GenerateSettings(**settings),
        )
    )


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def close(one: np.ndarray, other: np.ndarray, *, levels: int = 1) -> bool:
    return int(np.abs(one.astype(int) - other.astype(int)).max()) <= levels


# Drawing


def test_a_picture_can_be_drawn_again_alone(backbone):
    together = sample(backbone, PROMPT, [5, 6, 7], steps=3)
    alone = sample(backbone, PROMPT, [6], steps=3)
    assert close(together[1], alone[0])
    assert not close(together[0], together[1], levels=8)


def test_drawing_leaves_the_global_random_state_alone(backbone):
    before = torch.random.get_rng_state()
    sample(backbone, PROMPT, [1], steps=2)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
@pytest.mark.parametrize("guidance", [1.0, 5.0])
@pytest.mark.parametrize("negative", ["", "dark, black and white"])
def test_drawing_equals_plain_diffusers(kind, guidance, negative):
    """Same prompt, same noise: each picture of a batch of several prompts, not square, is what the
    pipeline gives when it is called by hand for that picture alone."""
    backbone = tiny_backbone(kind=kind)
    pipeline = backbone.pipeline()
    pipeline.set_progress_bar_config(disable=True)
    prompts = [PROMPT, "a portrait of a man, light background"]
    options = {"guidance_scale": guidance}
    ours = sample(
        backbone, prompts, [9, 10], negative_prompt=negative, steps=3, size=(48, 80), **options
    )
    for prompt, seed, image in zip(prompts, [9, 10], ours, strict=True):
        plain = pipeline(
            prompt,
            negative_prompt=negative or None,
            num_inference_steps=3,
            height=80,
            width=48,
            generator=torch.Generator("cpu").manual_seed(seed),
            output_type="np",
            **options,
        ).images[0]
        assert image.shape == (80, 48, 3)
        assert close((plain * 255).round().astype(np.uint8), image)


def test_batches_change_nothing_but_speed(backbone):
    steps: list[int] = []
    one = sample(backbone, PROMPT, [1, 2, 3], steps=2, batch_size=1)
    two = sample(backbone, PROMPT, [1, 2, 3], steps=2, batch_size=2, on_step=steps.append)
    assert all(close(a, b) for a, b in zip(one, two, strict=True))
    assert sum(steps) == 3 * 2


def test_a_half_precision_decoder_runs_in_single_precision(backbone):
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    expected = decode_images(backbone.vae, latents)
    backbone.vae.to(torch.float16)
    found = decode_images(backbone.vae, latents.half())
    assert backbone.vae.dtype == torch.float16  # given back as it was
    assert close(expected[0], found[0], levels=3)


def test_a_prompt_that_is_cut_is_refused(backbone):
    with pytest.raises(UsageError, match="tokens long, of which 77 fit"):
        sample(backbone, "a photo of a person " * 30, [0], steps=1)


def test_as_many_prompts_as_seeds(backbone):
    with pytest.raises(ValueError, match="2 seeds"):
        sample(backbone, [PROMPT], [1, 2], steps=1)


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_attention_is_recorded_without_changing_the_picture(subject, backbone, guidance):
    pipeline = backbone.pipeline()
    subject.load_into(pipeline)
    prompts = [
        fill("a photo of a {id} {noun} in the {style} style", "person"),
        "a photo of <mcap-id>",
    ]
    options = {"steps": 4, "guidance_scale": guidance}
    watched = list(
        stream(backbone, prompts, [1, 2], watch=("<mcap-id>", "<mcap-style>"), **options)
    )
    plain = sample(backbone, prompts, [1, 2], **options)
    for drawn, image in zip(watched, plain, strict=True):
        assert np.array_equal(drawn.image, image)
        identity = drawn.attention["<mcap-id>"]
        assert identity.shape == (16, 16) and identity.min() > 0 and identity.max() < 1
    assert watched[0].attention["<mcap-style>"].max() > 0
    assert watched[1].attention["<mcap-style>"].max() == 0  # not in that prompt


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


def test_ranking_puts_none_last_and_keeps_the_order_of_equals():
    items = [("a", 0.1), ("b", None), ("c", 0.9), ("d", 0.1), ("e", -0.5)]
    assert [name for name, _ in ranked(items, lambda item: item[1])] == ["c", "a", "d", "e", "b"]


def test_best_keeps_the_best_and_loses_nothing(subject, backbone, tmp_path):
    *_, finished = run(subject, backbone, tmp_path, count=4, best=1)
    assert [picture.kept for picture in finished.pictures] == [True, False, False, False]
    assert len(list(tmp_path.glob("*.png"))) == 1
    assert len(list((tmp_path / "rest").glob("*.png"))) == 3
    *_, more = run(subject, backbone, tmp_path, count=4, best=3)
    assert not any(picture.new for picture in more.pictures)
    assert len(list(tmp_path.glob("*.png"))) == 3
    assert 'src="rest/' in finished.report.read_text() or "rest/" in more.report.read_text()


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


@pytest.mark.parametrize("metadata", ["label", "none"])
def test_pictures_without_a_record_are_known_by_results_jsonl(
    subject, backbone, tmp_path, metadata
):
    run(subject, backbone, tmp_path, count=2, metadata=metadata)
    again = run(subject, backbone, tmp_path, count=2, metadata=metadata)
    assert again[0].to_generate == 0
    (tmp_path / "test-000000.png").write_bytes((tmp_path / "test-000001.png").read_bytes())
    assert run(subject, backbone, tmp_path, count=2, metadata=metadata)[0].to_generate == 1


def test_results_keep_the_lines_of_pictures_without_a_record(subject, backbone, tmp_path):
    """Nothing else knows them: without their line they would be drawn again and never edited."""

    def listed(**settings) -> list[str]:
        *_, finished = run(subject, backbone, tmp_path, count=1, **settings)
        return [json.loads(line)["file"] for line in finished.results.read_text().splitlines()]

    first, second, third = (f"test-{seed:06d}.png" for seed in (0, 5, 7))
    assert listed(metadata="none") == [first]
    assert listed(metadata="label", seed=5) == [second, first]
    assert listed(seed=7) == [third, second, first]
    assert listed(metadata="label", seed=5) == [second, first]  # the third knows itself
    assert run(subject, backbone, tmp_path, count=1, metadata="none")[0].to_generate == 0
    record = listed_record(tmp_path / second)
    assert (record["seed"], record["kind"]) == (5, "generate")
    (tmp_path / second).unlink()
    assert listed(seed=7) == [third, first]
    assert listed(metadata="none", seed=0, best=1) == [first]


def test_other_settings_never_overwrite(subject, backbone, tmp_path):
    run(subject, backbone, tmp_path, count=1)
    first = (tmp_path / "test-000000.png").read_bytes()
    run(subject, backbone, tmp_path, count=1, steps=3)
    assert (tmp_path / "test-000000.png").read_bytes() == first
    record = provenance.read(tmp_path / "test-000000-2.png").record
    assert record["steps"] == 3
    assert run(subject, backbone, tmp_path, count=1, steps=3)[0].to_generate == 0


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


def test_prompts_of_the_profile_of_the_user_and_in_turn(subject, backbone, tmp_path):
    profile = make_profile(
        prompts={
            "composed": ["a {id} {noun}, {style} style", "photo of {id} in {style} light"],
            "negative": "dark",
        }
    )

    def used(name: str, **settings) -> list[str]:
        *_, finished = run(subject, backbone, tmp_path / name, profile, count=3, **settings)
        by_seed = sorted(finished.pictures, key=lambda picture: picture.record["seed"])
        return [picture.record["prompt"] for picture in by_seed]

    first, second = (
        "a <mcap-id> person, <mcap-style> style",
        "photo of <mcap-id> in <mcap-style> light",
    )
    assert used("a") == [first] * 3
    assert used("b", all_prompts=True) == [first, second, first]
    assert (
        used("c", prompts=("a person with a white face",))
        == ["a <mcap-id> person with a white face"] * 3
    )
    *_, finished = run(subject, backbone, tmp_path / "d", profile, count=1)
    assert finished.pictures[0].record["negative_prompt"] == "dark"
    *_, finished = run(subject, backbone, tmp_path / "d", profile, count=1, negative="")
    assert finished.pictures[0].record["negative_prompt"] == ""


def test_the_backbones_own_defaults_go_before_the_profiles(subject, tmp_path):
    from dataclasses import replace

    backbone = tiny_backbone()
    own = {"steps": 1, "guidance_scale": 2.0, "negative_prompt": "grey"}
    backbone.info = replace(backbone.info, generate_defaults=own)
    profile = make_profile(prompts={"negative": "dark"})
    *_, finished = run(subject, backbone, tmp_path, profile, count=1)
    record = finished.pictures[0].record
    assert {key: record[key] for key in own} == own
    said = {"steps": 2, "guidance_scale": 3.0}
    *_, finished = run(subject, backbone, tmp_path, profile, count=1, negative="", **said)
    record = finished.pictures[0].record
    assert {key: record[key] for key in own} == {**said, "negative_prompt": ""}


def test_which_scheduler(subject, tmp_path):
    """The user's, else the backbone's own choice, else the profile's, else the model's."""
    from dataclasses import replace

    backbone = tiny_backbone()
    plain, styled = (
        make_profile("plain"),
        make_profile("styled", generate={"steps": 2, "count": 1, "scheduler": "Euler a"}),
    )

    def used(name: str, profiles, **settings) -> dict[str, tuple[str, str]]:
        *_, finished = run(subject, backbone, tmp_path / name, profiles, count=1, **settings)
        return {
            picture.style: (picture.record["scheduler"], picture.record["sampler"])
            for picture in finished.pictures
        }

    both = [plain, styled]
    assert used("a", both) == {"plain": ("model", "DDIM"), "styled": ("euler-a", "Euler a")}
    heun = ("heun", "Heun")
    assert used("b", both, scheduler="Heun") == {"plain": heun, "styled": heun}
    pictures = [(tmp_path / name / "plain-000000.png").read_bytes() for name in "ab"]
    assert pictures[0] != pictures[1]
    # Said or not, the same scheduler draws the same picture, which need not be drawn again.
    assert (
        run(subject, backbone, tmp_path / "a", plain, count=1, scheduler="ddim")[0].to_generate == 0
    )
    events = run(subject, backbone, tmp_path / "c", plain, count=1, scheduler="heun", steps=3)
    assert events[0].steps == 5
    backbone.info = replace(backbone.info, generate_defaults={"scheduler": "lms"})
    assert used("d", both) == {"plain": ("lms", "LMS"), "styled": ("lms", "LMS")}
    with pytest.raises(UsageError, match="--steps 60: the scheduler LCM"):
        run(subject, backbone, tmp_path / "e", plain, scheduler="lcm", steps=60)
    with pytest.raises(Exception, match=r"generate\.scheduler"):
        make_profile(generate={"scheduler": "best"})


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


def test_no_path_of_this_machine_is_in_the_metadata(subject, tmp_path):
    from dataclasses import replace

    backbone = tiny_backbone()
    secret = "/home/jane-doe/models/my-model"
    backbone.info = replace(backbone.info, id=secret)
    *_, finished = run(subject, backbone, tmp_path, count=1)
    data = finished.pictures[0].path.read_bytes()
    assert finished.pictures[0].record["backbone"]["id"] == "my-model"
    for text in ("jane-doe", str(tmp_path), str(subject.path.parent)):
        assert text.encode() not in data


def test_the_report_needs_nothing_from_elsewhere_and_escapes(subject, backbone, tmp_path):
    profile = make_profile(title="<script>alert(1)</script>", notice="Ask first & be kind.")
    *_, finished = run(subject, backbone, tmp_path, profile, count=2)
    text = finished.report.read_text()
    assert "<script" not in text and "http" not in text
    assert "Ask first &amp; be kind." in text
    assert 'src="test-000000.png"' in text


def test_out_must_be_a_folder(subject, backbone, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="is a file"):
        run(subject, backbone, tmp_path / "file", count=1)
