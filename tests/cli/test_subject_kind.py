"""``--subject-kind object`` through every command, on the tiny model and a toy that is drawn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from mcap.cli import run
from mcap.contracts import DetectorInfo, IdentityInfo, MaskerInfo
from mcap.images.provenance import read
from mcap.registry import Entry, registry
from mcap.subjects.manifest import read_manifest
from mcap.subjects.subject import read_subject
from tests.support.drawn_toys import toy_photos
from tests.support.tiny import tiny_folder

OBJECT = ("--subject-kind", "object")


class NoFace:
    info = DetectorInfo()

    def detect(self, image):
        return []


class Judge:
    """An identity network that tells quality; nobody may load it for a thing."""

    info = IdentityInfo(embeds_images=True, measures_quality=True, face_quality=7.5)

    def __init__(self):
        raise AssertionError("no face network is needed for a thing")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Photos of the toy and of a style, and a detector that finds no face in them."""
    monkeypatch.chdir(tmp_path)
    entry = Entry("detector", "none", NoFace, "tests", info=NoFace.info)
    monkeypatch.setitem(registry().entries["detector"], "none", entry)
    monkeypatch.setitem(
        registry().entries["identity"],
        "sface",
        Entry("identity", "sface", Judge, "tests", info=Judge.info),
    )
    monkeypatch.setenv("MCAP_DETECTOR", "none")
    toy_photos(tmp_path / "toy", 3, (240, 320))
    (tmp_path / "style").mkdir()
    for seed in range(2):
        noise = np.random.default_rng(seed).integers(0, 256, (160, 160, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "style" / f"{seed}.png")
    (tmp_path / "plain.toml").write_text(
        'schema = 1\nname = "plain"\n[train]\nphase1_steps = 2\nphase2_steps = 3\n'
        "identity_weight = 1.0\nphotos_for_all_steps = 1\n"
        "[generate]\ncount = 3\nsteps = 2\n"
    )
    before = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(before)


def train(*extra: str, kind=OBJECT, noun: tuple[str, ...] = ("--subject-noun", "bird")) -> int:
    return run(
        [
            *("train", "--source", "toy", "--style", "./plain.toml", "--reference", "style"),
            *("--backbone", str(tiny_folder()), "--out", "toy.mcap", "--device", "cpu"),
            *("--threads", "1", *kind, *noun, *extra),
        ]
    )


def printed(capsys) -> dict:
    return json.loads(capsys.readouterr().out)


def test_a_thing_from_photos_to_pictures_and_everything_after(place, capsys):
    assert train() == 0
    plan = capsys.readouterr()
    assert "bird      3 of 3 photos usable" in plan.err and "similarity" not in plan.out.lower()
    subject = read_subject(place / "toy.mcap")
    assert subject.manifest.subject_kind == "object"
    assert subject.manifest.profile.class_noun == "bird"
    assert subject.manifest.recipe["identity"] is False
    assert subject.identity_embedding is None and subject.identity_network == ""
    assert not (place / "toy.mcap" / "identity.safetensors").exists()
    kinds = {record.kind for record in subject.manifest.licences}
    assert kinds == {"detector", "masker", "safety"}
    stored = load_file(place / "toy.mcap" / "colours.safetensors")
    assert stored["histogram"].sum() == pytest.approx(1, abs=1e-4) and 0 < stored["share"][0] < 1
    logged = [json.loads(line) for line in (place / "toy.mcap/metrics.jsonl").open()]
    terms = set().union(*(line["losses"] for line in logged))
    assert "identity" not in terms
    assert {"source", "reference", "composed", "attention_source"} <= terms

    assert run(["--json", "inspect", "toy.mcap"]) == 0
    (told,) = printed(capsys)["subjects"]
    assert told["subject_kind"] == "object" and told["noun"] == "bird" and told["photos"] == 3
    assert run(["inspect", "toy.mcap"]) == 0
    assert "subject kind: object" in capsys.readouterr().out

    assert run(["--json", "generate", "toy.mcap", "--style", "./plain.toml", "--out", "out"]) == 0
    result = printed(capsys)
    assert result["ranked_by"] == "colour_match"
    matches = [picture["colour_match"] for picture in result["pictures"]]
    assert matches == sorted(matches, reverse=True) and all(0 <= each <= 1 for each in matches)
    assert all(picture["similarity"] is None for picture in result["pictures"])
    record = read(result["pictures"][0]["file"]).record
    assert record["subject"]["kind"] == "object" and record["face"] is None
    assert "a photo of a <mcap-id> bird" in record["prompt"]
    page = (place / "out" / "report.html").read_text()
    assert "Most of the thing's colours first" in page and "face network" not in page
    assert "face" not in page.split("</style>")[1]

    assert run(["generate", "toy.mcap", "--style", "./plain.toml", "--out", "out"]) == 0
    table = capsys.readouterr().out
    assert "colours" in table and "similarity" not in table and "no face found" not in table
    assert run(["export", "toy.mcap", "--format", "kohya", "--out", "exported"]) == 0
    assert list((place / "exported").glob("*.safetensors"))


def test_an_interrupted_run_goes_on_to_the_same_subject(place, monkeypatch, capsys):
    assert train() == 0
    whole = (place / "toy.mcap" / "adapter.safetensors").read_bytes()
    (place / "toy.mcap").rename(place / "whole.mcap")
    from mcap.training import loop

    kept, saved = loop.save_subject, []

    def killed(*arguments):
        saved.append(1)
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "save_subject", killed)
    assert train("--checkpoint-every", "1") == 130 and saved
    assert read_manifest(place / "toy.mcap").state == "training"
    monkeypatch.setattr(loop, "save_subject", kept)
    assert train("--resume") == 0
    assert (place / "toy.mcap" / "adapter.safetensors").read_bytes() == whole


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (("--set", "identity_weight=0.5"), "--set identity_weight=0.5: compares faces"),
        (("--set", "identity=true"), "--set identity=true: compares faces"),
        (("--set", "patience=3"), "--set patience=3: compares faces"),
        (("--subject", "toy/0.png"), "--subject toy/0.png: tells people apart"),
        (("--identity", "sface"), "--identity sface: compares faces, and a thing has none"),
        (("--masker", "landmarks"), "--masker landmarks: masks faces and finds no things"),
    ],
)
def test_what_belongs_to_faces_is_refused_with_a_sentence(place, capsys, extra, words):
    assert train(*extra) == 2
    assert words in " ".join(capsys.readouterr().err.split())
    assert not (place / "toy.mcap").exists()


def test_a_thing_needs_a_word(place, capsys):
    assert train(noun=()) == 2
    assert "--subject-noun dog" in capsys.readouterr().err
    assert train(noun=("--subject-noun", "{bird}")) == 2
    assert "--subject-noun" in capsys.readouterr().err


def test_settings_that_switch_the_face_terms_off_are_no_contradiction(place):
    assert train("--set", "identity=false", "--set", "identity_weight=0", "--dry-run") == 0


def test_the_kind_may_stand_in_the_settings_and_a_masker_of_faces_there_is_no_choice(
    place, capsys, monkeypatch
):
    (place / "mcap.toml").write_text(
        'subject_kind = "object"\nsubject_noun = "bird"\nmasker = "landmarks"\n'
    )
    assert train("--dry-run", kind=(), noun=()) == 0
    capsys.readouterr()
    assert run(["--json", "mask", "toy", "--out", "masked"]) == 0
    result = printed(capsys)
    assert result["subject_kind"] == "object" and result["accepted"] == 3
    monkeypatch.setenv("MCAP_SUBJECT_KIND", "cat")
    assert run(["mask", "toy", "--preview"]) == 2
    assert "face, object" in capsys.readouterr().err


def test_without_a_masker_of_things_the_whole_picture_is_learned_and_said(
    place, capsys, monkeypatch
):
    monkeypatch.delitem(registry().entries["masker"], "foreground")
    assert run(["--json", "mask", "toy", "--out", "masked", *OBJECT]) == 0
    result = printed(capsys)
    told = ["; ".join(item["notes"]) for item in result["photos"]]
    assert len(told) == 3 and all("whole picture is learned" in each for each in told)
    own = np.zeros((240, 320), np.uint8)
    own[60:180, 80:240] = 255
    Image.fromarray(own).save(place / "masked" / "masks" / "1.png")
    assert train("--masks", "masked") == 0
    manifest = read_manifest(place / "toy.mcap")
    assert manifest.inputs["subject kind"] == "object" and "masker" not in manifest.inputs


def test_a_plugins_masker_of_things_is_taken(place, capsys, monkeypatch):
    class Left:
        info = MaskerInfo(finds_objects=True)

        def mask(self, image, face):
            raise AssertionError("no face is asked for")

        def object_mask(self, image):
            mask = np.zeros(image.shape[:2], np.float32)
            mask[60:200, 40:200] = 1
            return mask

    entry = Entry("masker", "left", Left, "tests", info=Left.info)
    monkeypatch.setitem(registry().entries["masker"], "left", entry)
    assert run(["--json", "mask", "toy", "--out", "masked", *OBJECT, "--masker", "left"]) == 0
    drawn = np.asarray(Image.open(place / "masked" / "masks" / "0.png"))
    assert (drawn[60:200, 40:200] == 255).all() and drawn.sum() == 255 * 140 * 160


def test_a_folder_of_masks_is_kept_as_it_is_and_one_without_the_kind_was_of_faces(place, capsys):
    assert run(["mask", "toy", "--out", "masked", *OBJECT]) == 0
    report = json.loads((place / "masked" / "report.json").read_text())
    assert report["subject_kind"] == "object"
    assert report["request"]["settings"]["subject_kind"] == "object"
    before = (place / "masked" / "masks" / "0.png").stat().st_mtime_ns
    assert run(["mask", "toy", "--out", "masked", *OBJECT]) == 0
    assert (place / "masked" / "masks" / "0.png").stat().st_mtime_ns == before
    from mcap.masking.folder import with_kind

    older = {**report["request"], "settings": {"size": 512}}
    assert with_kind(older)["settings"]["subject_kind"] == "face"


def test_a_subject_of_before_is_a_person(place):
    manifest = Path(__file__).parents[1] / "data" / "0.1.0"
    found = sorted(manifest.rglob("manifest.json"))
    assert found and all(read_manifest(path.parent).subject_kind == "face" for path in found)
