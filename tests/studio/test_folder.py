"""The folder: names that are folders, a token that stays, and all of a person in one place."""

from __future__ import annotations

import json

import pytest

from mcap import cli
from mcap.errors import UsageError
from mcap.studio.folder import (
    LONGEST_NAME,
    StyleFolders,
    add_person,
    is_page_home,
    people_of,
    token_of,
)
from tests.studio.conftest import jpeg
from tests.support.subjects import make_subject


def test_the_token_is_long_private_and_stays(studio):
    token = token_of(studio)
    assert len(token) >= 40 and token_of(studio) == token
    assert (studio / ".token").stat().st_mode & 0o777 == 0o600
    (studio / ".token").write_text("short")
    assert len(token_of(studio)) >= 40


@pytest.mark.parametrize(
    ("name", "called"),
    [
        ("Zoë  B.", "Zoë B"),
        ("../../etc", "_.._etc"),
        ("a/b\\c", "a_b_c"),
        (".hidden", "hidden"),
        ("李雷", "李雷"),
        ("<script>", "<script>"),
    ],
)
def test_a_name_is_one_folder_in_people(tmp_path, name, called):
    assert add_person(tmp_path, name) == called
    assert people_of(tmp_path) == [called]
    assert {path.name for path in tmp_path.iterdir()} == {"people"}
    assert [path.name for path in (tmp_path / "people").iterdir()] == [called]


@pytest.mark.parametrize("name", ["", "  ", "..", ".", "con", "x" * (LONGEST_NAME + 1), "ANNA"])
def test_a_name_that_is_none_is_refused(studio, name):
    with pytest.raises(UsageError):
        add_person(studio, name)
    assert people_of(studio) == ["Anna"]


def test_forget_removes_all_of_a_person_of_a_page(studio, token, capsys, monkeypatch):
    """Photos, commands, subjects, and pictures of a training that was replaced since."""
    monkeypatch.chdir(studio.parent)
    folders = StyleFolders(studio, "Anna", "passport")
    (folders.photos / "a.jpg").write_bytes(jpeg())
    (folders.home / "jobs" / "0001").mkdir(parents=True)
    (folders.home / "jobs" / "0001" / "job.json").write_text("{}")
    make_subject(folders.subject)
    for folder in (folders.portraits, folders.finished, folders.edits):
        folder.mkdir()
        (folder / "1.png").write_bytes(b"a face")
        line = {"file": "1.png", "kind": "generate", "subject": {"sha256": "0" * 64}}
        (folder / "results.jsonl").write_text(json.dumps(line) + "\n")
    add_person(studio, "Bob")
    assert is_page_home(folders.home) and not is_page_home(folders.photos)
    assert cli.run(["--json", "forget", "--pictures", "--yes", str(folders.home)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {item["kind"] for item in told["removed"]} == {"subject", "pictures", "pages"}
    assert told["left"] == [] and not folders.home.exists()
    assert people_of(studio) == ["Bob"]
