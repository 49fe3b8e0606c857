"""Editing finished pictures: from their own record, measured, repeatable, nothing overwritten."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mcap.errors import InputRejectedError, UsageError
from mcap.generation import generate
from mcap.generation.editing import edit
from mcap.generation.editing.events import EditFinished, SourceDiffers
from mcap.generation.editing.job import require_source
from mcap.generation.editing.settings import EditSettings
from mcap.generation.events import GenerationPlanned, PictureReady
from mcap.generation.extra_networks import read_extra_networks
from mcap.generation.settings import GenerateSettings
from mcap.images import provenance
from mcap.images.provenance import Label
from mcap.images.write import write_generated
from tests.support.foreign_files import write
from tests.support.subjects import FixedDetector, make_profile, make_subject, models
from tests.support.tiny import tiny_backbone

PROMPT = "a photo of a <mcap-id> person in the <mcap-style> style, white background"


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    return make_subject(tmp_path_factory.mktemp("subject") / "jane.mcap")


@pytest.fixture(scope="module")
def backbone():
    return tiny_backbone()


@pytest.fixture(scope="module")
def folder(subject, backbone, tmp_path_factory):
    """Three pictures of 56 x 70 pixels, drawn at 56 x 72; do not write into it."""
    out = tmp_path_factory.mktemp("pictures")
    draw(subject, backbone, out, count=3)
    return out


def draw(subject, backbone, out: Path, networks=None, **settings) -> list[Path]:
    profile = make_profile(
        size_mm=[40, 50],
        prompts={"composed": ["a photo of a {id} {noun} in the {style} style, white background"]},
    )
    *_, finished = generate(
        subject, profile, models(backbone), out,
        GenerateSettings(**{"scheduler": "euler-a", "negative": "dark"} | settings),
        extra_networks=networks,
    )  # fmt: skip
    return sorted(picture.path for picture in finished.pictures)


def run(subject, backbone, paths, out: Path, networks=None, detector=None, **settings) -> list:
    paths = [paths] if isinstance(paths, Path) else paths
    events = edit(
        subject, paths, models(backbone, detector), out,
        EditSettings(**settings), extra_networks=networks,
    )  # fmt: skip
    return list(events)


BLACK = {"replace": (("white", "black"),)}


def test_an_edited_picture(subject, backbone, folder, tmp_path):
    paths = sorted(folder.glob("*.png"))
    before = {path: path.read_bytes() for path in folder.iterdir()}
    events = run(subject, backbone, paths, tmp_path, **BLACK)
    assert events[0] == GenerationPlanned(3, 3, 6)
    assert sum(isinstance(event, PictureReady) for event in events) == 3
    assert not any(isinstance(event, SourceDiffers) for event in events)  # it was drawn alike again
    finished = events[-1]
    assert isinstance(finished, EditFinished)
    for path, picture in zip(paths, finished.pictures, strict=True):
        assert picture.path == tmp_path / f"{path.stem}-edit.png"
        old, new = provenance.read(path), provenance.read(picture.path)
        assert new.record == picture.record
        assert new.generated and new.dpi == old.dpi
        assert new.record["prompt"] == PROMPT.replace("white", "black")
        exported = {"<mcap-id>": "jane-id", "<mcap-style>": "jane-style"}
        words = new.record["prompt"]
        for token, name in exported.items():
            words = words.replace(token, name)
        assert new.parameters.startswith(words)
        assert new.record["source_prompt"] == PROMPT
        assert new.record["edit_of"] == old.record["settings_sha256"]
        for key in ("seed", "steps", "sampler", "scheduler", "cut", "size", "negative_prompt"):
            assert new.record[key] == old.record[key]
        assert new.record["similarity_before"] == pytest.approx(old.record["similarity"], abs=1e-3)
        assert -1 <= new.record["face_kept"] <= 1
        with Image.open(path) as one, Image.open(picture.path) as other:
            assert one.size == other.size
            assert np.abs(np.asarray(one).astype(int) - np.asarray(other)).max() > 8
    lines = [json.loads(line) for line in finished.results.read_text().splitlines()]
    assert [line["file"] for line in lines] == [picture.path.name for picture in finished.pictures]
    assert finished.contact_sheet.is_file()
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_repeating_an_edit_draws_nothing_and_another_has_a_number(
    subject, backbone, folder, tmp_path
):
    path = folder / "test-000000.png"
    first = run(subject, backbone, path, tmp_path, **BLACK)[-1].pictures[0]
    events = run(subject, backbone, [path, path], tmp_path, **BLACK)
    assert events[0] == GenerationPlanned(1, 0, 0)
    again = events[-1].pictures[0]
    assert (again.path, again.new, again.record) == (first.path, False, first.record)
    other = run(subject, backbone, path, tmp_path, **BLACK, keep=0.5)[-1].pictures[0]
    assert other.path.name == "test-000000-edit-2.png" and other.new
    assert other.record["layout"] == 0.25


def test_metadata_and_pictures_are_read_once(subject, backbone, folder, tmp_path, monkeypatch):
    from mcap.runtime import files

    read, hashed = [], []
    read_metadata, sha256_of = provenance.read, files.sha256_of
    monkeypatch.setattr(provenance, "read", lambda path: read.append(path) or read_metadata(path))
    monkeypatch.setattr(files, "sha256_of", lambda path: hashed.append(path) or sha256_of(path))
    paths = sorted(folder.glob("*.png"))
    pictures = run(subject, backbone, paths, tmp_path, batch_size=1, **BLACK)[-1].pictures
    assert sorted(path for path in read if path.parent == folder) == paths
    assert sorted(hashed) == sorted(picture.path for picture in pictures)


def test_an_edit_is_edited(subject, backbone, folder, tmp_path):
    """The second edit starts from the first picture, as if both had been asked for at once."""
    path = folder / "test-000001.png"
    first = run(subject, backbone, path, tmp_path, **BLACK)
    edited = first[-1].pictures[0]
    events = run(
        subject, backbone, edited.path, tmp_path,
        replace=(("{style} style", "portrait"),), weights=(("black", 2.0),),
    )  # fmt: skip
    assert not any(isinstance(event, SourceDiffers) for event in events)
    second = events[-1].pictures[0]
    assert second.path.name == "test-000001-edit-2.png"
    assert (
        second.record["prompt"] == "a photo of a <mcap-id> person in the portrait, black background"
    )
    assert second.record["source_prompt"] == PROMPT
    assert len(second.record["edits"]) == 2
    at_once = run(
        subject, backbone, path, tmp_path / "b",
        replace=(("white", "black"), ("<mcap-style> style", "portrait")),
        weights=(("black", 2.0),),
    )[-1].pictures[0]  # fmt: skip
    with Image.open(second.path) as one, Image.open(at_once.path) as other:
        assert np.abs(np.asarray(one).astype(int) - np.asarray(other)).max() <= 1
    # What was re-weighted and is gone now weighs nothing.
    third = run(subject, backbone, second.path, tmp_path, replace=(("black", "light"),))
    assert third[-1].pictures[0].record["prompt"].endswith("light background")


def test_words_added(subject, backbone, folder, tmp_path):
    """At the end of the prompt; an edit of the edit knows of them."""
    path = folder / "test-000000.png"
    first = run(subject, backbone, path, tmp_path, add=("dark {noun}", "smiling"))[-1].pictures[0]
    assert first.record["prompt"] == f"{PROMPT}, dark person, smiling"
    assert first.record["edits"] == [{"add": ["dark person", "smiling"]}]
    second = run(subject, backbone, first.path, tmp_path, replace=(("dark", "light"),))[-1]
    assert second.pictures[0].record["prompt"] == f"{PROMPT}, light person, smiling"


def test_a_whole_prompt(subject, backbone, folder, tmp_path):
    path = folder / "test-000000.png"
    picture = run(
        subject, backbone, path, tmp_path, prompt="a photo of a person in the {style} style, dark"
    )[-1].pictures[0]
    assert (
        picture.record["prompt"] == "a photo of a <mcap-id> person in the <mcap-style> style, dark"
    )


def test_where_to_change(subject, backbone, folder, tmp_path):
    path = folder / "test-000000.png"
    for name, settings, where in (
        ("a", {"local": True}, []),
        ("b", {"where": ("{id}", "black background")}, ["<mcap-id>", "black background"]),
    ):
        finished = run(subject, backbone, path, tmp_path / name, **BLACK, **settings)[-1]
        assert finished.pictures[0].record["where"] == where
        with Image.open(finished.contact_sheet) as sheet:
            assert sheet.width > 3 * 200 and sheet.width < 4 * 256
    with pytest.raises(UsageError, match="--where 'blue': is not in the prompt"):
        run(subject, backbone, path, tmp_path, **BLACK, where=("blue",))


@pytest.mark.parametrize("metadata", ["label", "none"])
def test_pictures_without_a_record_are_looked_up_in_results_jsonl(
    subject, backbone, tmp_path, metadata
):
    draw(subject, backbone, tmp_path / "in", count=2, metadata=metadata, best=1)
    for path in (tmp_path / "in").rglob("*.png"):  # one of them in rest/
        run(subject, backbone, path, tmp_path / "out", **BLACK)
    assert len(list((tmp_path / "out").glob("*-edit.png"))) == 2
    lost = tmp_path / "lost.png"
    next((tmp_path / "in").glob("*.png")).rename(lost)
    with pytest.raises(InputRejectedError, match=r"lost.png: holds no record"):
        run(subject, backbone, lost, tmp_path / "out", **BLACK)


@pytest.mark.parametrize("kind", ["jpg", "webp"])
def test_other_formats(subject, backbone, tmp_path, kind):
    (path,) = draw(subject, backbone, tmp_path / "in", count=1, format=kind)
    events = run(subject, backbone, path, tmp_path, **BLACK, format=kind)
    # The tiny model's pictures are noise, which these formats keep badly: told, and gone on.
    assert events[-1].pictures[0].path.suffix == f".{kind}"


def test_a_picture_that_was_changed_since_is_told(subject, backbone, folder, tmp_path):
    found = provenance.read(folder / "test-000000.png")
    with Image.open(found.path) as image:
        pixels = np.asarray(image)
    write_generated(tmp_path / "dark.png", pixels // 2, Label(found.record))
    write_generated(tmp_path / "small.png", pixels[::2, ::2], Label(found.record))
    for name in ("dark", "small"):
        path = tmp_path / f"{name}.png"
        told = [
            e
            for e in run(subject, backbone, path, tmp_path, **BLACK)
            if isinstance(e, SourceDiffers)
        ]
        assert [event.path for event in told] == [path]
        assert (told[0].difference is None) == (name == "small")


def test_no_face_left_says_so(subject, backbone, folder, tmp_path):
    class Once(FixedDetector):
        def detect(self, image):
            return super().detect(image)[: self.calls == 1]

    path = folder / "test-000000.png"
    record = run(subject, backbone, path, tmp_path, detector=Once(), **BLACK)[-1].pictures[0].record
    assert record["similarity_before"] is not None
    assert record["similarity"] is record["face_kept"] is record["face"] is None


def test_files_of_other_programs_must_be_given_again(subject, backbone, tmp_path):
    word = write(tmp_path / "moody.safetensors", {"emb_params": torch.ones(2, 16)})
    networks = read_extra_networks([f"{subject.path}:0.5"], (), [str(word)])
    (path,) = draw(
        subject, backbone, tmp_path / "in", networks, count=1,
        prompts=("{id} and {id2}, moody white background",),
    )  # fmt: skip
    picture = run(
        subject, backbone, path, tmp_path, networks, replace=(("moody white", "{style2} dark"),)
    )[-1].pictures[0]
    assert picture.record["prompt"] == "<mcap-id> and <mcap-id-2>, <mcap-style-2> dark background"
    assert picture.record["embeddings"][0]["word"] == "moody"
    with pytest.raises(UsageError, match=r"was drawn with --with jane:0.5; give the same"):
        run(subject, backbone, path, tmp_path, **BLACK)
    stronger = replace(networks, companions=(replace(networks.companions[0], weight=1.0),))
    with pytest.raises(UsageError, match=r"was drawn with --with jane:0.5"):
        run(subject, backbone, path, tmp_path, stronger, **BLACK)
    only = replace(networks, embeddings=())
    with pytest.raises(UsageError, match=r"was drawn with --embedding moody;"):
        run(subject, backbone, path, tmp_path, only, **BLACK)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "nothing is to be changed"),
        ({"replace": (("blue", "red"),)}, "--replace 'blue': is not in the prompt"),
        ({"replace": (("white", "white"),)}, "the prompt is the same as before"),
        ({**BLACK, "prompt": "a person"}, "--replace and --prompt"),
        ({"add": ("dark",), "prompt": "a person"}, "--add and --prompt"),
        ({"add": (" ",)}, "--add ' ': holds no word"),
        ({"weights": (("white", 2.0), ("blue", 2.0))}, "--weigh 'blue': is not in the prompt"),
        ({"replace": (("white", "{id2}"),)}, "belongs to no subject"),
        ({"replace": (("white", "dark " * 80),)}, "tokens long, of which 77 fit"),
        ({"prompt": "a house"}, "says nothing about the person"),
    ],
)
def test_changes_that_make_no_sense(subject, backbone, folder, tmp_path, settings, message):
    with pytest.raises(UsageError, match=message):
        run(subject, backbone, folder / "test-000000.png", tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_pictures_that_cannot_be_drawn_again(subject, backbone, folder, tmp_path):
    path = folder / "test-000000.png"
    record = provenance.read(path).record
    image = Image.open(path)

    def saved(**changes) -> Path:
        changed = {key: value for key, value in (record | changes).items() if value is not ...}
        write_generated(tmp_path / "changed.png", np.asarray(image), Label(changed))
        return tmp_path / "changed.png"

    for changes, message in (
        ({"kind": "enhance"}, "was made by mcap enhance; edit the picture"),
        ({"seed": ...}, r"its record lacks .*: seed\."),
        ({"steps": "some", "cut": [1]}, r"has it wrong: cut, steps\."),
    ):
        data = {**record, **changes}
        target = saved(**changes) if "steps" not in changes and "seed" not in changes else None
        if target is None:  # parameters_text wants them: put the record in by hand
            from PIL.PngImagePlugin import PngInfo

            chunks = PngInfo()
            chunks.add_text("mcap", json.dumps({k: v for k, v in data.items() if v is not ...}))
            target = tmp_path / "changed.png"
            image.save(target, pnginfo=chunks)
        with pytest.raises(InputRejectedError, match=message):
            run(subject, backbone, target, tmp_path / "out", **BLACK)
    unknown = saved(sampler="Euler", scheduler="model")
    with pytest.raises(UsageError, match="drawn with the scheduler Euler, which this backbone"):
        run(subject, backbone, unknown, tmp_path / "out", **BLACK)
    assert not (tmp_path / "out").exists()

    require_source(path, subject, backbone.info.sha256)
    with pytest.raises(UsageError, match="drawn with backbone 'tiny'"):
        require_source(path, subject, "0" * 64)
    other = make_subject(tmp_path / "john.mcap", seed=8)
    with pytest.raises(UsageError, match="drawn with subject 'jane'"):
        require_source(path, other, backbone.info.sha256)
