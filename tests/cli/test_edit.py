"""The edit command: what it refuses, what it prints, which subject it finds, its earlier form."""

from __future__ import annotations

import json

import pytest

from mcap import cli
from mcap.images import provenance
from tests.cli.test_generate import PROFILE, tiny_plugins  # noqa: F401  (a fixture, used by name)
from tests.support.subjects import make_subject

WHITE = PROFILE.format("test").replace('style"', 'style, white background"')
CHANGES = ["--replace", "white=black", "--weigh", "{style}=1.5", "--local", "--keep", "0.7"]


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    return make_subject(tmp_path_factory.mktemp("subject") / "jane.mcap")


@pytest.fixture
def pictures(subject, capsys, tmp_path):
    """Two pictures in the folder portraits."""
    (tmp_path / "profiles" / "test.toml").write_text(
        WHITE + 'scheduler = "DPM++ 2M Karras"\n', encoding="utf-8"
    )
    code, _, err = run(capsys, "generate", subject.path)
    assert code == 0, err
    return sorted((tmp_path / "portraits").glob("*.png"))


def run(capsys, *args) -> tuple[int, str, str]:
    code = cli.run([str(arg) for arg in args])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_command(subject, capsys, tmp_path, pictures):
    code, _, err = run(capsys, "generate", subject.path, "--scheduler", "nothing")
    assert code == 2 and "--scheduler nothing: there is no such scheduler" in err
    assert provenance.read(pictures[0]).record["scheduler"] == "dpm++-2m-karras"
    assert "Sampler: DPM++ 2M Karras" in provenance.read(pictures[0]).parameters
    command = ["edit", *pictures, "--subject", subject.path, *CHANGES]
    code, out, err = run(capsys, *command)
    assert code == 0 and out.strip().endswith("Contact sheet: edits/contact-sheet.jpg")
    assert "2 pictures to edit" in err and "face kept" in out
    record = provenance.read(tmp_path / "edits" / "test-000000-edit.png").record
    assert record["prompt"].endswith("black background") and record["keep"] == 0.7
    assert record["edits"][0]["weights"] == [["<mcap-style>", 1.5]]
    code, out, _ = run(capsys, "--json", *command)
    assert [item["new"] for item in json.loads(out)["pictures"]] == [False, False]
    backbone = ["--backbone", "sd15"]  # another one's weights
    code, _, err = run(capsys, *command, *backbone)
    assert code == 2 and "was drawn with backbone" in err
    code, _, err = run(capsys, *command, *backbone, "--force", "--out", "forced")
    assert code == 0 and "drawn again here it differs by" in err


def test_the_earlier_form(subject, capsys, tmp_path, pictures):
    """``mcap generate SUBJECT --edit PICTURE`` does the same, and says what it is called now."""
    edits = [arg for path in pictures for arg in ("--edit", path)]
    changes = ["--replace=white=black", "--weight", "{style}:1.5", "--local", "--keep", "0.7"]
    code, out, err = run(capsys, "generate", subject.path, *edits, *changes)
    assert code == 0 and out.strip().endswith("Contact sheet: edits/contact-sheet.jpg")
    assert "2 pictures to edit" in err and "face kept" in out
    told = [line for line in err.splitlines() if "is called" in line]
    assert told == [
        "note: 'mcap generate --edit' is called 'mcap edit' now: mcap edit PICTURE "
        "--replace OLD=NEW"
    ]
    record = provenance.read(tmp_path / "edits" / "test-000000-edit.png").record
    assert record["prompt"].endswith("black background") and record["keep"] == 0.7
    assert record["edits"][0]["weights"] == [["<mcap-style>", 1.5]]
    command = ["edit", *pictures, "--subject", subject.path, *CHANGES, "--json"]
    code, out, err = run(capsys, *command)
    assert [item["new"] for item in json.loads(out)["pictures"]] == [False, False]
    assert "is called" not in err


@pytest.mark.parametrize("command", ["generate", "edit"])
def test_the_earlier_form_is_in_no_help(capsys, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "100")
    code, out, _ = run(capsys, command, "--help")
    assert code == 0
    assert "--edit" not in out and "--weight" not in out
    assert ("--replace" in out) == (command == "edit")


def test_the_subject_is_found_by_its_hash(subject, capsys, tmp_path, pictures):
    code, _, err = run(capsys, "edit", pictures[0], *CHANGES)
    assert code == 2 and "was drawn with subject 'jane'" in err and "--subject" in err
    make_subject(tmp_path / "another.mcap", seed=8)
    (tmp_path / "empty.mcap").mkdir()
    (tmp_path / "jane.mcap").symlink_to(subject.path)
    assert run(capsys, "edit", pictures[0], *CHANGES)[0] == 0
    code, _, err = run(capsys, "edit", pictures[0], *CHANGES, "--subject", "another.mcap")
    assert code == 2 and "and another.mcap is another" in err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--steps", "3"], "No such option: --steps"),
        (["--count", "3", "--replace", "a=b"], "No such option: --count"),
        (["--replace", "white"], "--replace white: must be OLD=NEW"),
        (["--weigh", "white"], "--weigh white: must be WORD=FACTOR"),
        (["--weigh", "white=11"], "from -10 to 10"),
        (["--weigh", "white=nan"], "must be WORD=FACTOR"),
        (["--prompt", "a person", "--prompt", "b"], "--prompt: is given more than once"),
        ([], "nothing is to be changed"),
    ],
)
def test_wrong_options_are_named(subject, capsys, pictures, args, message):
    code, _, err = run(capsys, "edit", pictures[0], "--subject", subject.path, *args)
    assert code == 2 and message in err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--steps", "3"], "--steps: has no place with --edit"),
        (["--count", "3", "--replace", "a=b"], "--count: has no place with --edit"),
        (["--weight", "white"], "--weigh white: must be WORD=FACTOR"),
        (["--weight", "white:11"], "from -10 to 10"),
        (["--prompt", "a person", "--prompt", "b"], "--prompt: is given more than once"),
        ([], "nothing is to be changed"),
    ],
)
def test_wrong_options_of_the_earlier_form_are_named(subject, capsys, pictures, args, message):
    code, _, err = run(capsys, "generate", subject.path, "--edit", pictures[0], *args)
    assert code == 2 and message in err


def test_options_that_belong_to_edits(subject, capsys):
    code, _, err = run(capsys, "generate", subject.path, "--local")
    assert code == 2 and "--local: belongs to mcap edit" in err
    command = ["generate", subject.path, "--edit", "nothing.png", "--replace", "a=b"]
    code, _, err = run(capsys, *command)
    assert code == 3 and "nothing.png: no such file" in err
    code, _, err = run(capsys, "edit", "nothing.png", "--replace", "a=b")
    assert code == 3 and "nothing.png: no such file" in err
