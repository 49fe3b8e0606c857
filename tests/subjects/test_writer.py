"""A folder that is written, begun again, and gone on with."""

from __future__ import annotations

import errno
import os
import shutil

import pytest

from mcap.subjects.manifest import read_manifest
from mcap.subjects.writer import SubjectWriter, is_free
from tests.support.tiny_run import run, tiny_recipe


def test_starting_over_leaves_nothing_that_looks_complete(tmp_path):
    folder = tmp_path / "a.mcap"
    list(run(folder, tiny_recipe(phase1_steps=1, phase2_steps=1)))
    manifest = read_manifest(folder)
    SubjectWriter.create(folder, manifest.model_copy(update={"state": "training", "files": {}}))
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json"]


def test_metrics_are_cut_back_and_a_torn_line_dropped(tmp_path):
    folder = tmp_path / "a.mcap"
    events = run(folder, tiny_recipe())
    next(events)
    events.close()
    writer = SubjectWriter.reopen(folder)
    for step in (1, 2, 3):
        writer.log({"step": step})
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    writer.cut_metrics(2)
    assert (folder / "metrics.jsonl").read_text() == '{"step": 1}\n{"step": 2}\n'
    for wrong in (b"[1]", b"{}", b'{"step": "a"}', b"\xff\xfe", b"[" * 100_000, b'{"step": NaN}'):
        (folder / "metrics.jsonl").write_bytes(b'{"step": 1}\n' + wrong + b'\n{"step": 2}\n')
        writer.cut_metrics(2)
        assert (folder / "metrics.jsonl").read_text() == '{"step": 1}\n{"step": 2}\n'


def test_while_encoded_photos_cannot_be_removed_no_subject_is_complete(tmp_path, monkeypatch):
    folder = tmp_path / "a.mcap"
    list(run(folder, tiny_recipe(phase1_steps=1, phase2_steps=1)))
    writer = SubjectWriter.reopen(folder)
    writer.manifest = writer.manifest.model_copy(update={"state": "training"})
    writer.latents.mkdir()
    (writer.latents / "one.safetensors").touch()

    def refused(*_, **__):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", refused)
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            writer.complete({})
    writer.complete({})
    assert not writer.latents.exists() and read_manifest(folder).state == "complete"


def test_is_free(tmp_path):
    assert is_free(tmp_path / "new.mcap")
    assert is_free(tmp_path)
    (tmp_path / "file").touch()
    assert not is_free(tmp_path)
