"""A person who is forgotten is on no page, in no task and in no row."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

import pytest

from mcap.batch import Job, Planned, forget_person
from mcap.batch.emit import TASKS, prepare_array
from mcap.batch.folder import person_folder, studio_of
from mcap.batch.ledger import Ledger
from mcap.batch.run import write_pages
from mcap.batch.settings import BatchSettings
from mcap.errors import UsageError
from mcap.runtime.documents import read_json
from mcap.runtime.lock import locked_folder


@pytest.fixture
def studio(tmp_path) -> Path:
    jobs = [Planned(Job(name, Path(f"/photos/{name}"), style))
            for name in ("Quasar", "anna") for style in ("passport", "business")]  # fmt: skip
    prepare_array(tmp_path, jobs, BatchSettings(), threads=1)
    for name in ("Quasar", "anna"):
        person_folder(tmp_path, name).mkdir(parents=True)
    with closing(Ledger(tmp_path)) as ledger:
        write_pages(ledger, tmp_path)
    return tmp_path


def test_nothing_is_left(studio):
    found = studio_of(person_folder(studio, "Quasar") / "passport.mcap")
    assert found == (studio, "Quasar")
    shutil.rmtree(person_folder(studio, "Quasar"))
    assert forget_person(*found) == 2
    for path in studio.rglob("*"):
        assert "Quasar" not in path.name
        assert not path.is_file() or b"Quasar" not in path.read_bytes(), path
    tasks = read_json(studio / TASKS)
    assert [len(task["orders"]) for task in tasks] == [0, 2]
    assert "anna" in (studio / "index.html").read_text()
    assert forget_person(*found) == 0


def test_elsewhere_there_is_nothing_to_forget(tmp_path):
    assert forget_person(tmp_path, "anna") == 0
    assert studio_of(tmp_path / "people" / "anna") is None


def test_not_while_a_batch_is_at_work(studio):
    with locked_folder(studio, "mcap batch"), pytest.raises(UsageError, match="is writing there"):
        forget_person(studio, "anna")
