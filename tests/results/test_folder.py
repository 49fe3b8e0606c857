"""Output folders: one command's each, refused to the others before anything is loaded."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path

import pytest

from mcap import cli
from mcap.enhancement import Enhancement, enhance
from mcap.errors import UsageError
from mcap.generation import generate
from mcap.generation.editing import edit
from mcap.generation.editing.settings import EditSettings
from mcap.results.folder import COMMANDS, OutputFolder, read_results, require_own
from mcap.results.names import RESULTS


class Untouched:
    """A model, a subject or a tool that must not even be looked at."""

    def __getattr__(self, name: str):
        raise AssertionError(f"{name} was asked for")


RUNS = {
    "generate": lambda out: generate(Untouched(), [Untouched()], Untouched(), out),
    "edit": lambda out: edit(
        Untouched(),
        [Path("nothing.png")],
        Untouched(),
        out,
        EditSettings(replace=(("white", "black"),)),
    ),
    "enhance": lambda out: enhance([Path("nothing.png")], out, Enhancement([], Untouched())),
}
WORDS = {
    "generate": ["generate", "nobody.mcap"],
    "edit": ["edit", "nothing.png", "--subject", "nobody.mcap", "--replace", "white=black"],
    "enhance": ["enhance", "nothing.png", "--restorer", "nothing"],
}
PAIRS = list(permutations(COMMANDS, 2))


@pytest.fixture
def results_of(tmp_path):
    """``results_of("edit")`` -> a folder with a picture and the results of that command."""

    def make(kind: str) -> Path:
        (tmp_path / "there.png").write_bytes(b"a picture")
        line = {"file": "there.png", "kind": kind, "sha256": "0" * 64}
        (tmp_path / RESULTS).write_text(json.dumps(line) + "\n")
        return tmp_path

    return make


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def refusal(out: Path, kind: str) -> str:
    command = {
        "generate": "mcap generate",
        "edit": "mcap edit",
        "enhance": "mcap enhance",
    }[kind]
    return (
        f"--out {out}: holds the results of {command}; give another folder, so that they are not "
        "lost."
    )


@pytest.mark.parametrize(("there", "asked"), PAIRS)
def test_another_kind_of_results_is_refused_before_anything_is_touched(results_of, there, asked):
    out = results_of(there)
    before = contents(out)
    with pytest.raises(UsageError) as raised:
        next(RUNS[asked](out))
    assert str(raised.value) == refusal(out, there)
    assert contents(out) == before


@pytest.mark.parametrize(("there", "asked"), PAIRS)
def test_the_command_refuses_before_it_reads_its_input(results_of, capsys, there, asked):
    """Neither subject nor picture nor restorer is there, and the folder is what is told of."""
    out = results_of(there)
    before = contents(out)
    assert cli.run([*WORDS[asked], "--out", str(out)]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert refusal(out, there) in told
    assert contents(out) == before


@pytest.mark.parametrize("kind", COMMANDS)
def test_the_same_command_may_go_on_and_a_file_is_no_folder(results_of, tmp_path, kind):
    require_own(results_of(kind), kind)
    require_own(tmp_path / "new", kind)
    with pytest.raises(UsageError, match=r"there\.png: is a file; give a folder"):
        require_own(tmp_path / "there.png", kind)


def test_a_command_that_is_not_known_is_named_as_it_is(results_of):
    with pytest.raises(UsageError, match="holds the results of mcap paint;"):
        require_own(results_of("paint"), "enhance")


@pytest.mark.parametrize("text", ["", "{}\n", "no JSON\n", "[1]\n", '{"file": "a"}\nno JSON\n'])
def test_somebody_else_s_results_say_nothing_and_are_not_overwritten(tmp_path, text):
    (tmp_path / RESULTS).write_text(text)
    assert read_results(tmp_path) == []
    if not text:
        require_own(tmp_path, "enhance")
        return
    with pytest.raises(UsageError, match=r"results\.jsonl in it is not mcap's, .*\(line [12]: "):
        require_own(tmp_path, "enhance")
    assert (tmp_path / RESULTS).read_text() == text


class Plain(OutputFolder):
    folders = (".", "rest")
    reserved = frozenset({"contact-sheet.png"})
    location_keys = frozenset({"file"})


def test_a_new_name_is_no_other_picture_s_whatever_its_case(tmp_path):
    folder = Plain(tmp_path, "png", "generate")
    assert folder.free_path("a").name == "a.png"
    (tmp_path / "A.PNG").touch()
    (tmp_path / "rest").mkdir()
    (tmp_path / "rest" / "a-2.png").touch()
    (tmp_path / "a-3.jpg").touch()
    assert folder.free_path("a").name == "a-3.png"
    assert folder.free_path("contact-sheet").name == "contact-sheet-2.png"


def test_a_hash_is_taken_once_and_follows_its_picture(tmp_path, monkeypatch):
    from mcap.runtime import files

    read, original = [], files.sha256_of
    monkeypatch.setattr(files, "sha256_of", lambda path: read.append(path) or original(path))
    path, target = tmp_path / "a.png", tmp_path / "rest" / "a.png"
    path.write_bytes(b"a picture")
    folder = Plain(tmp_path, "png", "generate")
    first = folder.sha256_of(path)
    folder.move(path, target)
    assert target.read_bytes() == b"a picture"
    assert [folder.sha256_of(target), folder.sha256_of(target)] == [first, first]
    assert read == [path]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b'{"file": "a"}\n' + b"[" * 100_000, "line 2: nested too deeply"),
        (b"\xff\xfe", "in it is not mcap's"),
        (b'{"file": ["a"]}', "line 1: says nothing of a file"),
        (b'{"file": "a", "similarity": NaN}', "line 1: NaN is no number"),
        (b'{"file": "a", "similarity": 1e999}', "line 1: 1e999 is no number"),
        (b"7", "line 1: says nothing of a file"),
    ],
)
def test_results_that_cannot_be_ours_are_refused_with_the_line(tmp_path, data, told):
    (tmp_path / RESULTS).write_bytes(data)
    with pytest.raises(UsageError, match=told):
        require_own(tmp_path, "generate")
    assert read_results(tmp_path) == []


def test_results_of_a_terabyte_are_refused_by_name_and_not_read_whole(tmp_path):
    with (tmp_path / RESULTS).open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(UsageError, match=r"results\.jsonl: is larger than 256 MiB"):
        require_own(tmp_path, "generate")
    assert read_results(tmp_path) == []
