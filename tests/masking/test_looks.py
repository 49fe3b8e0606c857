"""What each photo shows by itself is told before the verdicts, and goes with them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from mcap.contracts import FaceTools
from mcap.faces.masks import LandmarkMasker
from mcap.masking import MaskSettings, mask_photos
from mcap.masking.forget import mask_traces
from mcap.masking.looks import LOOKS, noted_looks, read_looks
from mcap.masking.records import FirstLook
from mcap.masking.select import MaskEvents
from tests.support.masked_photos import OneFace, TellsStrangers, photos


def dark(image: np.ndarray) -> np.ndarray:
    return image // 40


def test_a_lone_face_is_judged_and_no_comparison_admits_what_was_refused(tmp_path):
    (tmp_path / "notes.jpg").write_text("hello")
    paths = [*photos(tmp_path, night=dark), tmp_path / "notes.jpg"]
    told: list[FirstLook] = []
    tools = FaceTools(OneFace(), TellsStrangers(), LandmarkMasker())
    passes: list[Path] = []
    events = MaskEvents(passes.append, told.append)
    found = mask_photos(paths, tools, MaskSettings(size=256), on_photo=events)
    assert passes == [*paths, *paths]
    assert [look.path for look in told] == paths
    refused = {look.path.name: look.refused for look in told if look.refused is not None}
    assert set(refused) == {"night.png", "notes.jpg"} and "too dark" in refused["night.png"]
    final = {entry.path.name: entry.reason for entry in found.refused}
    assert final == refused
    assert {look.faces for look in told} == {0, 1}


def test_looks_are_in_the_folder_for_as_long_as_the_run(tmp_path):
    looks = [FirstLook(tmp_path / "ü\n.jpg", 2, None), FirstLook(tmp_path / "b.jpg", 0, "dark")]
    with noted_looks(tmp_path) as note:
        for look in looks:
            note(look)
        with open(tmp_path / LOOKS, "ab") as file:
            file.write(b'{"path": "c.jpg"}\n[]\n{"path": "torn')
        found = read_looks(tmp_path)
        assert [(each.path.name, each.faces, each.refused) for each in found] == [
            ("ü\n.jpg", 2, None),
            ("b.jpg", 0, "dark"),
        ]
        assert LOOKS in {path.name for path in mask_traces(tmp_path).files}
        shutil.copy(tmp_path / LOOKS, tmp_path / "kept")
    assert read_looks(tmp_path) == []
    shutil.copy(tmp_path / "kept", tmp_path / LOOKS)  # as a kill leaves it
    with noted_looks(tmp_path):
        assert read_looks(tmp_path) == []


def test_a_full_disk_is_no_reason_to_end(tmp_path):
    with noted_looks(tmp_path) as note:
        (tmp_path / LOOKS).mkdir()
        note(FirstLook(tmp_path / "a.jpg", 1, None))
