"""The generate command: what it refuses, what it prints, whom it tells."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from mcap import cli
from mcap.contracts import BackbonePlan
from mcap.registry import Entry, registry
from tests.support.foreign_files import chosen, flat_layers, kohya, pipeline, write
from tests.support.subjects import FixedDetector, make_subject
from tests.support.tiny import tiny_backbone, tiny_identity

PROFILE = """\
schema = 1
name = "{}"
notice = "Ask first."
[prompts]
composed = ["a photo of a {{id}} {{noun}} in the {{style}} style"]
[generate]
steps = 1
count = 2
"""


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    return make_subject(tmp_path_factory.mktemp("subject") / "jane.mcap").path


@pytest.fixture(autouse=True)
def tiny_plugins(monkeypatch, tmp_path):
    """The tiny model under its own name, and a folder of profiles, as plugins would bring them."""
    found = registry()
    factories = {
        ("backbone", "tiny"): lambda device, dtype, source=None: tiny_backbone(
            seed=int(source or 0), dtype=dtype
        ),
        # Folders and hub ids go to this entry.
        ("backbone", "sd15"): lambda device, dtype, source=None: tiny_backbone(seed=1),
        ("identity", "tiny"): tiny_identity,
        ("detector", "fixed"): FixedDetector,
    }
    for (kind, name), factory in factories.items():
        plan = BackbonePlan(needs_safety=False) if kind == "backbone" else None
        entry = Entry(kind, name, factory, "test", info=plan)
        monkeypatch.setitem(found.entries[kind], name, entry)
    for name in ("test", "other"):
        (tmp_path / "profiles").mkdir(exist_ok=True)
        (tmp_path / "profiles" / f"{name}.toml").write_text(PROFILE.format(name))
    monkeypatch.setattr(found, "profile_dirs", [tmp_path / "profiles"])
    monkeypatch.setenv("MCAP_DETECTOR", "fixed")
    monkeypatch.chdir(tmp_path)


def run(capsys, *args) -> tuple[int, str, str]:
    code = cli.run(["generate", *map(str, args)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_last_line_names_the_contact_sheet(subject, capsys, tmp_path):
    code, out, err = run(capsys, subject)
    assert code == 0
    lines = out.strip().splitlines()
    assert lines[-1] == "Contact sheet: portraits/contact-sheet.jpg"
    assert (tmp_path / "portraits/contact-sheet.jpg").is_file()
    assert "portraits/test-000000.png" in out and "likeness" in lines[0]
    assert "closest of these" in out and "like the person" not in out
    assert "2 pictures to draw" in err and "Ask first." in err
    code, out, err = run(capsys, subject, "--count", "3")
    assert code == 0 and "1 pictures to draw, 2 are there already" in err
    assert out.count("was there already") == 2


def test_json(subject, capsys):
    code, out, _ = run(capsys, subject, "--json", "--out", "x", "--best", "1", "--seed", "5")
    result = json.loads(out)
    assert code == 0
    first, second = result["pictures"]
    assert first["similarity"] >= second["similarity"]
    assert {first["seed"], second["seed"]} == {5, 6}
    assert (first["kept"], second["kept"]) == (True, False)
    assert second["file"].startswith("x/rest/")
    assert result["contact_sheet"] == "x/contact-sheet.jpg"


def test_an_unfinished_subject_is_refused(tmp_path, capsys):
    make_subject(tmp_path / "half.mcap", complete=False)
    code, _, err = run(capsys, tmp_path / "half.mcap")
    assert code == 3 and "training has not finished" in err and "--resume" in err


def test_no_subject(tmp_path, capsys):
    code, _, err = run(capsys, tmp_path / "nobody.mcap")
    assert code == 2 and "is not a subject folder" in err


def test_a_style_it_was_not_trained_with(subject, capsys):
    code, _, err = run(capsys, subject, "--style", "other")
    assert code == 2 and "trained with the style 'test'" in err
    assert run(capsys, subject, "--style", "other", "--force", "--count", "1")[0] == 0
    code, out, _ = run(capsys, subject, "--style", "other", "--prompt", "a person", "--count", "1")
    assert code == 0 and "other-000000" in out
    code, _, _ = run(capsys, subject, "--style", "other", "--prompt", "{id} in {style}")
    assert code == 2
    code, _, err = run(capsys, subject, "--style", "nothing")
    assert code == 2 and "other, " in err and "test" in err


@pytest.mark.parametrize("backbone", ["sd15", "somebody/model"])
def test_another_backbone(subject, capsys, backbone):
    code, _, err = run(capsys, subject, "--backbone", backbone)
    assert code == 2 and "--force" in err
    assert run(capsys, subject, "--backbone", backbone, "--force", "--count", "1")[0] == 0


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--format", "gif"], "'png', 'jpg', 'webp'"),
        (["--metadata", "some"], "'all', 'label', 'none'"),
        (["--prompt", "a house"], "{id}"),
        (["--prompt", "a person " * 60], "tokens long"),
        (["--count", "0"], "count"),
        (["--device", "tpu"], "tpu"),
        (["--backbone", "nothing"], "there are"),
        (["--backbone", "no/such/folder"], "there is no such folder or file"),
        (["--lora", "nothing.safetensors:0.5"], "--lora nothing.safetensors: there is no such"),
        (["--embedding", "nothing.pt"], "--embedding nothing.pt: there is no such"),
        (["--with", "nobody.mcap"], "nobody.mcap: is not a subject folder"),
        (["--prompt", "{id} and {id2}"], "given with --with"),
    ],
)
def test_wrong_options_are_named(subject, capsys, args, words):
    code, _, err = run(capsys, subject, *args)
    assert code == (4 if words.startswith("there") else 2) and words in err


def test_files_of_other_programs_and_another_subject(subject, capsys, tmp_path):
    state = kohya(chosen(flat_layers(pipeline()), ["attn2_to"]))
    write(tmp_path / "film.safetensors", state)
    write(tmp_path / "moody.safetensors", {"emb_params": torch.ones(2, 16)})
    others = ["--lora", "film.safetensors:0.5", "--embedding", "moody.safetensors"]
    args = [subject, *others, "--with", f"{subject}:0.5", "--count", "1"]
    code, out, err = run(capsys, *args, "--prompt", "{id} and {id2}, moody")
    assert code == 0 and "test-000000.png" in out and "takes part" not in err
    code, _, err = run(capsys, *args, "--prompt", "{id}, moody")
    assert code == 0 and "no --prompt says {id2} or {style2}" in err
    code, _, err = run(capsys, *args)
    assert code == 2 and "'moody' is in no prompt" in err


def test_another_subject_of_another_backbone(subject, capsys, tmp_path):
    shutil.copytree(subject, tmp_path / "other.mcap")
    manifest = tmp_path / "other.mcap" / "manifest.json"
    record = json.loads(manifest.read_text())
    record["backbone"]["sha256"] = "0" * 64
    manifest.write_text(json.dumps(record))
    args = [subject, "--with", "other.mcap", "--count", "1", "--prompt", "{id} and {id2}"]
    code, _, err = run(capsys, *args)
    assert code == 2 and "other.mcap: was trained on backbone" in err
    assert run(capsys, *args, "--force")[0] == 0


def test_plugins_hear_of_new_pictures_only(subject, capsys, monkeypatch):
    told = []
    monkeypatch.setattr(
        type(registry()), "image_saved", lambda self, path, record: told.append(path) or []
    )
    run(capsys, subject, "--best", "1")
    assert len(told) == 2 and all(path.is_file() for path in told)
    run(capsys, subject, "--best", "1")
    assert len(told) == 2


def test_ctrl_c_keeps_what_is_drawn_and_says_how_to_go_on(subject, capsys, monkeypatch):
    from mcap.generation import run as stage

    saved, original = [], stage.write_picture

    def finish(*args, **kwargs):
        if saved:
            raise KeyboardInterrupt
        saved.append(original(*args, **kwargs))
        return saved[0]

    monkeypatch.setattr(stage, "write_picture", finish)
    code, _, err = run(capsys, subject)
    assert code == 130 and "1 of the pictures are in portraits" in err
    assert saved[0].path.is_file()


def test_frame_takes_another_profile_s_framing(subject, tmp_path, capsys):
    framed = PROFILE.format("card") + "[framing]\nhead_height = [0.3, 0.35]\n"
    (tmp_path / "profiles" / "card.toml").write_text(framed)
    code, out, err = run(capsys, subject, "--frame", "other", "--out", tmp_path / "a")
    assert code == 2 and "no head_height" in err
    code, out, err = run(
        capsys, subject, "--frame", "card", "--count", 1, "--out", tmp_path / "b", "--json"
    )
    assert code == 0, err
    (picture,) = json.loads(out)["pictures"]
    assert picture["style"] == "test" and picture["border"] is not None
    code, out, _ = run(
        capsys, subject, "--frame", "none", "--count", 1, "--out", tmp_path / "c", "--json"
    )
    assert code == 0 and json.loads(out)["pictures"][0]["border"] is None
