"""report.json of an earlier run: of a wrong shape it is set aside or refused by name."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mcap.contracts import Face
from mcap.errors import UsageError
from mcap.faces.measure import FoundFace
from mcap.faces.pose import Pose
from mcap.masking.folder import EarlierRun, MaskRequest, read_earlier, unchanged
from mcap.masking.records import MaskSettings
from mcap.masking.report_json import face_to_json

REQUEST = MaskRequest({"detector": "d"}, "landmarks", MaskSettings(), ())
FACE = FoundFace(
    Face((1.0, 2.0, 30.0, 40.0), 0.9, np.ones((5, 2), np.float32)),
    np.ones(8, np.float32),
    1.0,
    0.5,
    Pose(0.0, 0.0, 0.0),
    overexposed=0.0,
    eyes=None,
)


def report() -> dict:
    return {
        "schema": 2,
        "photos": [{"sha256": "a" * 64, "name": "a", "faces": [face_to_json(FACE)]}],
        "files": {"contact-sheet.jpg": "b" * 64},
        "request": REQUEST.as_json(),
        "edited_masks": {},
    }


def changed(path: str, value: object) -> dict:
    """The report with one value exchanged; ``path`` has its keys with dots between."""
    made = report()
    place = made
    *keys, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    for key in keys:
        place = place[key]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return made


def test_a_whole_one_is_read(tmp_path):
    (tmp_path / "report.json").write_text(json.dumps(report()))
    earlier = read_earlier(tmp_path, REQUEST)
    (found,) = earlier.known.faces["a" * 64]
    assert found.face.box == FACE.face.box and np.array_equal(found.embedding, FACE.embedding)
    assert earlier.written == {"contact-sheet.jpg": "b" * 64}


PATHS = [
    *("schema", "photos", "photos.0", "photos.0.sha256", "photos.0.name", "photos.0.faces"),
    *(f"photos.0.faces.0.{key}" for key in face_to_json(FACE)),
    *("files", "request", "request.measured_with", "edited_masks"),
]
VALUES = (None, 7, "text", [], [1], {}, {"a": 1}, float("nan"), 10**400, [float("inf")] * 4, True)


@pytest.mark.parametrize("path", PATHS)
def test_one_of_a_wrong_shape_is_set_aside(tmp_path, path):
    for value in VALUES:
        (tmp_path / "report.json").write_text(json.dumps(changed(path, value)))
        earlier = read_earlier(tmp_path, REQUEST)
        for found in (face for faces in earlier.known.faces.values() for face in faces):
            assert all(np.isfinite([*found.face.box, found.face.score, found.blur]))
            assert found.face.landmarks.shape == (5, 2) and np.isfinite(found.embedding).all()
        # No files is what a run without accepted photos has written: that one may be whole.
        assert unchanged(tmp_path, earlier, REQUEST) is (path == "files" and value == {})


@pytest.mark.parametrize("text", ["", "[]", "null", "7", '"x"', "{", b"\xff\xfe", "{}"])
def test_what_is_no_report_is_set_aside(tmp_path, text):
    (tmp_path / "report.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert read_earlier(tmp_path, REQUEST) == EarlierRun()


def test_a_deep_or_huge_one_is_refused_by_name(tmp_path):
    (tmp_path / "report.json").write_text("[" * 100_000)
    with pytest.raises(UsageError, match=r"report\.json: .* deep"):
        read_earlier(tmp_path, REQUEST)
    with (tmp_path / "report.json").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(UsageError, match=r"report\.json: is larger than 64 MiB"):
        read_earlier(tmp_path, REQUEST)
