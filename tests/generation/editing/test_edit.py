"""Editing finished pictures: from their own record, measured, repeatable, nothing overwritten."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mcap import cli
from mcap.errors import InputRejectedError, UsageError
from mcap.generation.editing.edit import Edited, EditSettings, NotTheSame, edit, require_source
from mcap.generation.extra_networks import read_addons
from mcap.generation.generate import GenerateSettings, PictureReady, Planned, generate
from mcap.images import provenance
from mcap.images.provenance import Label
from mcap.images.write import write_generated
from tests.cli.test_generate import PROFILE, tiny_plugins  # noqa: F401  (a fixture, used by name)
from tests.support.foreign_files import write
from tests.support.subjects import FixedDetector, make_profile, make_subject
from tests.support.tiny import tiny_backbone, tiny_identity

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


def draw(subject, backbone, out: Path, addons=None, **settings) -> list[Path]:
    profile = make_profile(
        size_mm=[40, 50],
        prompts={"composed": ["a photo of a {id} {noun} in the {style} style, white background"]},
    )
    *_, finished = generate(
        subject, profile, backbone, tiny_identity(), FixedDetector(), out,
        GenerateSettings(**{"scheduler": "euler-a", "negative": "dark"} | settings), addons=addons,
    )  # fmt: skip
    return sorted(picture.path for picture in finished.pictures)


def run(subject, backbone, paths, out: Path, addons=None, detector=None, **settings) -> list:
    paths = [paths] if isinstance(paths, Path) else paths
    events = edit(
        subject, paths, backbone, tiny_identity(), detector or FixedDetector(), out,
        EditSettings(**settings), addons=addons,
    )  # fmt: skip
    return list(events)


BLACK = {"replace": (("white", "black"),)}


def test_an_edited_picture(subject, backbone, folder, tmp_path):
    paths = sorted(folder.glob("*.png"))
    before = {path: path.read_bytes() for path in folder.iterdir()}
    events = run(subject, backbone, paths, tmp_path, **BLACK)
    assert events[0] == Planned(3, 3, 6)
    assert sum(isinstance(event, PictureReady) for event in events) == 3
    assert not any(isinstance(event, NotTheSame) for event in events)  # it was drawn alike again
    finished = events[-1]
    assert isinstance(finished, Edited)
    for path, picture in zip(paths, finished.pictures, strict=True):
        assert picture.path == tmp_path / f"{path.stem}-edit.png"
        old, new = provenance.read(path), provenance.read(picture.path)
        assert new.record == picture.record
        assert new.generated and new.dpi == old.dpi
        assert new.record["prompt"] == PROMPT.replace("white", "black")
        assert new.parameters.startswith(new.record["prompt"])
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
    assert events[0] == Planned(1, 0, 0)
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
    assert not any(isinstance(event, NotTheSame) for event in events)
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
            e for e in run(subject, backbone, path, tmp_path, **BLACK) if isinstance(e, NotTheSame)
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
    addons = read_addons([f"{subject.path}:0.5"], (), [str(word)])
    (path,) = draw(
        subject, backbone, tmp_path / "in", addons, count=1,
        prompts=("{id} and {id2}, moody white background",),
    )  # fmt: skip
    picture = run(
        subject, backbone, path, tmp_path, addons, replace=(("moody white", "{style2} dark"),)
    )[-1].pictures[0]
    assert picture.record["prompt"] == "<mcap-id> and <mcap-id-2>, <mcap-style-2> dark background"
    assert picture.record["embeddings"][0]["word"] == "moody"
    with pytest.raises(UsageError, match=r"was drawn with --with jane:0.5; give the same"):
        run(subject, backbone, path, tmp_path, **BLACK)
    stronger = replace(addons, companions=(replace(addons.companions[0], weight=1.0),))
    with pytest.raises(UsageError, match=r"was drawn with --with jane:0.5"):
        run(subject, backbone, path, tmp_path, stronger, **BLACK)
    only = replace(addons, embeddings=())
    with pytest.raises(UsageError, match=r"was drawn with --embedding moody;"):
        run(subject, backbone, path, tmp_path, only, **BLACK)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "nothing is to be changed"),
        ({"replace": (("blue", "red"),)}, "--replace 'blue': is not in the prompt"),
        ({"replace": (("white", "white"),)}, "the prompt is the same as before"),
        ({**BLACK, "prompt": "a person"}, "--replace and --prompt"),
        ({"weights": (("white", 2.0), ("blue", 2.0))}, "--weight 'blue': is not in the prompt"),
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


# The command


def command(capsys, *args) -> tuple[int, str, str]:
    code = cli.run(["generate", *map(str, args)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_command(subject, capsys, tmp_path):
    (tmp_path / "profiles" / "test.toml").write_text(
        PROFILE.format("test").replace('style"', 'style, white background"')
        + 'scheduler = "DPM++ 2M Karras"\n'
    )
    code, _, err = command(capsys, subject.path, "--scheduler", "nothing")
    assert code == 2 and "--scheduler nothing: there is no such scheduler" in err
    assert command(capsys, subject.path)[0] == 0
    pictures = sorted((tmp_path / "portraits").glob("*.png"))
    assert provenance.read(pictures[0]).record["scheduler"] == "dpm++-2m-karras"
    assert "Sampler: DPM++ 2M Karras" in provenance.read(pictures[0]).parameters
    edits = [arg for path in pictures for arg in ("--edit", path)]
    changes = ["--replace", "white=black", "--weight", "{style}:1.5", "--local", "--keep", "0.7"]
    code, out, err = command(capsys, subject.path, *edits, *changes)
    assert code == 0 and out.strip().endswith("Contact sheet: edits/contact-sheet.jpg")
    assert "2 pictures to edit" in err and "face kept" in out
    record = provenance.read(tmp_path / "edits" / "test-000000-edit.png").record
    assert record["prompt"].endswith("black background") and record["keep"] == 0.7
    assert record["edits"][0]["weights"] == [["<mcap-style>", 1.5]]
    code, out, _ = command(capsys, "--json", subject.path, *edits, *changes)
    assert [item["new"] for item in json.loads(out)["pictures"]] == [False, False]
    backbone = ["--backbone", "sd15"]  # another one's weights
    code, _, err = command(capsys, subject.path, *edits, *changes, *backbone)
    assert code == 2 and "was drawn with backbone" in err
    code, _, err = command(
        capsys, subject.path, *edits, *changes, *backbone, "--force", "--out", "forced"
    )
    assert code == 0 and "drawn again here it differs by" in err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--steps", "3"], "--steps: has no place with --edit"),
        (["--count", "3", "--replace", "a=b"], "--count: has no place with --edit"),
        (["--replace", "white"], "--replace white: must be OLD=NEW"),
        (["--weight", "white"], "--weight white: must be WORD:FACTOR"),
        (["--weight", "white:11"], "from -10 to 10"),
        (["--weight", "white:nan"], "must be WORD:FACTOR"),
        (["--prompt", "a person", "--prompt", "b"], "--prompt: is given more than once"),
        ([], "nothing is to be changed"),
    ],
)
def test_wrong_options_are_named(subject, capsys, folder, args, message):
    code, _, err = command(capsys, subject.path, "--edit", folder / "test-000000.png", *args)
    assert code == 2 and message in err


def test_options_that_belong_to_edits(subject, capsys):
    code, _, err = command(capsys, subject.path, "--local")
    assert code == 2 and "--local: belongs to --edit" in err
    code, _, err = command(capsys, subject.path, "--edit", "nothing.png", "--replace", "a=b")
    assert code == 3 and "nothing.png: no such file" in err
