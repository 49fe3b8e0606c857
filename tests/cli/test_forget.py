"""mcap forget: what mcap keeps of a person goes, what is somebody's own stays, and is said."""

from __future__ import annotations

import io
import json
import os
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mcap import cli
from mcap.batch import Job, Planned
from mcap.batch.emit import prepare_array
from mcap.batch.folder import LEDGER
from mcap.batch.ledger import Ledger
from mcap.batch.settings import BatchSettings
from mcap.runtime.files import sha256_of
from mcap.runtime.lock import locked_folder
from mcap.subjects.writer import SubjectWriter
from tests.support.subjects import make_subject


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A subject with its photos, their masks, and pictures of it, in the working folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "selfies").mkdir()
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "selfies" / f"{number}.png")
    make(tmp_path / "me.mcap", tmp_path / "selfies")
    mask(tmp_path / "masked", tmp_path / "selfies")
    return tmp_path


def hashes(photos: Path) -> dict[str, str]:
    return {path.name: sha256_of(path) for path in sorted(photos.iterdir())}


def make(folder: Path, photos: Path) -> None:
    """A subject of these photos with all that a training leaves."""
    subject = make_subject(folder)
    writer = SubjectWriter(folder, subject.manifest)
    writer.amend(inputs={"source photos": hashes(photos)})
    for name in ("latents/a.safetensors", "checkpoints/step-000002/state.pt", "samples/s.jpg",
                 "tensorboard/events", "metrics.jsonl", ".0123.part"):  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"a face")


def mask(folder: Path, photos: Path) -> None:
    report = {"photos": [{"sha256": digest} for digest in hashes(photos).values()]}
    for name in ("masks/0.png", "masks/edited.png", "faces/0.png", "contact-sheet.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"a face")
    (folder / "report.json").write_text(json.dumps(report))


def draw(folder: Path, *subjects: str) -> None:
    """Pictures of subjects, with what generate writes beside them."""
    folder.mkdir()
    lines = []
    for number, sha256 in enumerate(subjects):
        (folder / f"{number}.png").write_bytes(b"a face")
        lines.append({"file": f"{number}.png", "kind": "generate", "subject": {"sha256": sha256}})
    (folder / "report.html").write_bytes(b"a face")
    (folder / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def run(capsys, *arguments: object) -> tuple[int, dict]:
    code = cli.run(["--json", "forget", *map(str, arguments)])
    return code, json.loads(capsys.readouterr().out)


def files() -> set[str]:
    return {path.as_posix() for path in Path().rglob("*") if path.is_file()}


PHOTOS = {"selfies/0.png", "selfies/1.png"}


def test_a_subject_and_its_masks_go_and_the_photos_stay(place, capsys):
    before = files()
    code, told = run(capsys, "me.mcap", "--dry-run")
    assert code == 0 and files() == before and told["dry_run"]
    assert {item["kind"] for item in told["removed"]} == {"subject", "masks"}
    listed = {Path(file).as_posix() for item in told["removed"] for file in item["files"]}
    code, told = run(capsys, "me.mcap", "--yes")
    assert code == 0 and told["failed"] == []
    assert files() == PHOTOS == before - listed
    assert not (place / "me.mcap").exists() and not (place / "masked").exists()
    assert any("mcap export" in text for text in told["out_of_reach"])


def test_it_asks_and_a_script_must_say_yes(place, capsys, monkeypatch):
    before = files()
    code, told = run(capsys, "me.mcap")
    assert code == 2 and "--yes" in told["error"] and files() == before
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    assert cli.run(["forget", "me.mcap"]) == 1
    assert "Aborted" in capsys.readouterr().err and files() == before
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    assert cli.run(["forget", "me.mcap"]) == 0
    assert files() == PHOTOS


def test_what_mcap_did_not_write_stays_and_is_said(place, capsys):
    (place / "me.mcap" / "notes.txt").write_text("mine")
    (place / "elsewhere").mkdir()
    (place / "elsewhere" / "precious").write_text("mine")
    (place / "me.mcap" / "samples" / "link").symlink_to(place / "elsewhere")
    (place / "masked" / "cat.jpg").write_text("mine")
    code, told = run(capsys, "me.mcap", "--yes")
    assert code == 0
    assert files() == PHOTOS | {"me.mcap/notes.txt", "masked/cat.jpg", "elsewhere/precious"}
    assert any("notes.txt" in text and "not mcap's" in text for text in told["left"])
    code, told = run(capsys, "me.mcap", "--yes")
    assert code == 2 and "not a subject folder" in told["error"]


def test_pictures_go_where_it_is_asked_and_all_are_of_the_person(place, capsys):
    from mcap.subjects.manifest import read_manifest

    own = read_manifest(place / "me.mcap").sha256
    draw(place / "portraits", own, own)
    draw(place / "mixed", own, "0" * 64)
    draw(place / "others", "0" * 64)
    code, told = run(capsys, "me.mcap", "--dry-run")
    assert sum("--pictures" in text for text in told["left"]) == 2
    code, told = run(capsys, "me.mcap", "--pictures", "--yes")
    assert code == 0 and not (place / "portraits").exists()
    assert (place / "mixed" / "1.png").exists() and (place / "others" / "0.png").exists()
    assert any(text.startswith("mixed") and "others" in text for text in told["left"])


def test_by_the_photos_every_subject_of_the_person_is_found(place, capsys):
    make(place / "work" / "me-business.mcap", place / "selfies")
    (place / "friend").mkdir()
    Image.new("RGB", (8, 8)).save(place / "friend" / "a.png")
    make(place / "friend.mcap", place / "friend")
    # Named by one subject the other is told of, and stays.
    code, told = run(capsys, "me.mcap", "--dry-run")
    assert any("me-business.mcap: another subject" in text for text in told["left"])
    code, told = run(capsys, "--source", "selfies", "--yes")
    assert code == 0
    assert {Path(item["folder"]).name for item in told["removed"]} == {
        "me.mcap", "me-business.mcap", "masked",
    }  # fmt: skip
    assert (place / "friend.mcap" / "manifest.json").exists() and files() >= PHOTOS
    code, told = run(capsys, "--source", "selfies", "--yes")
    assert code == 0 and told["removed"] == []


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "Name subject folders"),
        (["nothing.mcap"], 2, "not a subject folder"),
        (["selfies"], 2, "not a subject folder"),
        (["--source", "nowhere"], 2, "nowhere"),
    ],
)
def test_what_is_no_subject_is_refused_and_nothing_removed(place, capsys, arguments, code, words):
    before = files()
    found, told = run(capsys, *arguments, "--yes")
    assert found in (code, 3) and words in told["error"] and files() == before


def test_a_folder_in_use_is_left_alone(place, capsys):
    before = files()
    with locked_folder(place / "masked", "mcap mask"):
        code, told = run(capsys, "me.mcap", "--yes")
        assert code == 2 and "mcap mask (process" in told["error"]
    assert files() == before


def test_a_link_to_a_subject_is_not_followed(place, capsys):
    os.rename(place / "me.mcap", place / "real")
    (place / "me.mcap").symlink_to(place / "real")
    code, told = run(capsys, "me.mcap", "--yes")
    assert code == 2 and "is a link" in told["error"] and (place / "real/manifest.json").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may remove anything")
def test_what_cannot_be_removed_is_named(place, capsys):
    (place / "masked" / "masks").chmod(0o500)
    code, told = run(capsys, "me.mcap", "--yes")
    (place / "masked" / "masks").chmod(0o700)
    assert code == 1 and "0.png" in told["error"]


def test_the_rows_of_a_batch_go_with_the_persons_subjects(place, capsys):
    home = place / "STUDIO" / "people" / "Jane"
    make(home / "passport.mcap", place / "selfies")
    make(home / "business.mcap", place / "selfies")
    for name in ("index.html", "thumbnails/a.jpg", "passport.log"):
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).write_text("Jane")
    jobs = [
        Planned(Job(name, Path(f"/photos/{name}"), style))
        for name in ("Jane", "anna") for style in ("passport", "business")
    ]  # fmt: skip
    prepare_array(place / "STUDIO", jobs, BatchSettings(), threads=1)
    ledger = place / "STUDIO" / LEDGER
    assert ledger.stat().st_mode & 0o777 == 0o600
    # As long as another subject of the person is there, the rows stay.
    code, told = run(capsys, home / "passport.mcap", "--dry-run")
    assert told["batch_rows"] == [] and any("other subjects there" in t for t in told["left"])
    code, told = run(capsys, *home.glob("*.mcap"), "--yes")
    assert code == 0, told
    assert [(one["person"], one["jobs"]) for one in told["batch_rows"]] == [("Jane", 2)]
    assert not home.exists() and b"Jane" not in ledger.read_bytes()
    with closing(Ledger(place / "STUDIO")) as found:
        assert [row.job.person for row in found.rows()] == ["anna", "anna"]
    home = place / "STUDIO" / "people" / "anna"
    make(home / "passport.mcap", place / "selfies")
    mask(home / "masked", place / "selfies")
    (home / "passport.log").write_text("anna")
    code, told = run(capsys, home, "--yes")
    assert code == 0 and told["batch_rows"][0]["jobs"] == 2 and not home.exists()
    with closing(Ledger(place / "STUDIO")) as found:
        assert not found.rows()
    assert (place / "selfies" / "0.png").exists()


def test_somebody_of_whom_a_batch_made_nothing_is_forgotten_by_the_folder(place, capsys):
    home = place / "STUDIO" / "people" / "anna"
    home.mkdir(parents=True)
    prepare_array(place / "STUDIO", [Planned(Job("anna", place / "gone", "passport"))],
                  BatchSettings(), threads=1)  # fmt: skip
    mask(home / "masked", place / "selfies")
    (home / "masked" / "report.json").write_text('{"photos": []}')
    code, told = run(capsys, "STUDIO/people/anna", "--yes")
    assert code == 0 and [one["jobs"] for one in told["batch_rows"]] == [1]
    assert not home.exists() and b"anna" not in (place / "STUDIO" / LEDGER).read_bytes()


def test_a_batch_at_work_keeps_the_folder(place, capsys):
    jobs = [Planned(Job("anna", place / "selfies", "passport"))]
    (place / "STUDIO").mkdir()
    prepare_array(place / "STUDIO", jobs, BatchSettings(), threads=1)
    with locked_folder(place / "STUDIO", "mcap batch"):
        make(place / "STUDIO" / "people" / "anna" / "passport.mcap", place / "selfies")
        code, _ = run(capsys, place / "STUDIO/people/anna/passport.mcap", "--yes")
        assert code == 2 and (place / "STUDIO/people/anna/passport.mcap/manifest.json").exists()
