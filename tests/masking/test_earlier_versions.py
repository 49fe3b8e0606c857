"""A folder that ``mcap mask`` of version 0.1.0 wrote: tests/data/0.1.0/masked, of photos/."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mcap
from mcap.cli import run
from mcap.cli.settings import load_settings
from mcap.errors import RenamedKeyWarning
from mcap.images.open import PhotoSettings
from mcap.masking.folder import MaskRequest, edited_masks, read_earlier
from mcap.masking.records import MaskSettings
from tests.support import ROOT

EARLIER = ROOT / "tests" / "data" / "0.1.0"


@pytest.fixture
def earlier(tmp_path, monkeypatch) -> Path:
    """A copy to work in, which holds ``photos`` and ``masked``."""
    for name in ("photos", "masked"):
        shutil.copytree(EARLIER / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "masked"


def request() -> MaskRequest:
    measured_with = {
        "detector": "yunet",
        "identity": "sface",
        "photos": PhotoSettings(max_file_megabytes=1024).model_dump(mode="json"),  # its default
        "min_score": 0.7,
        "max_faces": 20,
    }
    settings = MaskSettings(size=128)
    return MaskRequest(measured_with, "landmarks", settings, (Path("photos/me.jpg"),))


def test_faces_and_names_of_the_first_version_are_known(earlier, monkeypatch):
    monkeypatch.setattr(mcap, "__version__", "0.1.0")
    monkeypatch.setattr("mcap.masking.folder.__version__", "0.1.0")
    monkeypatch.setattr("mcap.masking.folder.MEASURES", 2)  # it measured no quality of a face
    report = json.loads((earlier / "report.json").read_text())
    assert report["schema"] == 1 and "burnt" in report["photos"][0]
    found = read_earlier(earlier, request())
    ((sha256, (face,)),) = found.known.faces.items()
    assert found.known.names == {sha256: "me"} and face.overexposed == 0.0
    assert face.face.landmarks.shape == (5, 2) and face.embedding.shape == (128,)
    assert edited_masks(earlier, found) == {}


def test_a_folder_of_the_first_version_is_brought_up_to_date_without_harm(earlier, weights, capsys):
    weights("yunet"), weights("sface")
    mask, crop = (Image.open(earlier / f"{kind}/me.png") for kind in ("masks", "faces"))
    before = [np.asarray(mask), np.asarray(crop)]
    assert run(["mask", "photos", "--out", "masked", "--size", "128", "--quiet"]) == 0
    after = [np.asarray(Image.open(earlier / f"{kind}/me.png")) for kind in ("masks", "faces")]
    # To the last step where the same libraries decode the photo.
    assert all(np.abs(a.astype(int) - b).mean() < 1 for a, b in zip(before, after, strict=True))
    report = json.loads((earlier / "report.json").read_text())
    assert report["schema"] == 2 and report["edited_masks"] == {}
    assert {"overexposed", "occluded"} <= set(report["photos"][0])
    names = {check["name"] for check in report["photos"][0]["checks"]}
    assert {"overexposed", "occluded"} <= names
    assert all("recommended" in check for check in report["photos"][0]["checks"])


def test_a_mask_edited_in_a_folder_of_the_first_version_stays(earlier, weights):
    weights("yunet"), weights("sface")
    Image.fromarray(np.full((320, 320), 200, np.uint8)).save(earlier / "masks/me.png")
    by_hand = (earlier / "masks/me.png").read_bytes()
    assert run(["mask", "photos", "--out", "masked", "--size", "128", "--quiet"]) == 0
    assert (earlier / "masks/me.png").read_bytes() == by_hand
    report = json.loads((earlier / "report.json").read_text())
    assert list(report["edited_masks"]) == ["me"]


def test_earlier_keys_in_a_file_and_in_the_environment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mcap.toml").write_text("[faces]\nmax_burnt = 0.3\nsoft_covered = 0.05\n")
    with pytest.warns(RenamedKeyWarning) as told:
        found = load_settings().faces
    assert (found.max_overexposed, found.soft_occluded) == (0.3, 0.05)
    lines = [str(warning.message) for warning in told]
    assert "mcap.toml: [faces] max_burnt is called max_overexposed now" in lines
    (tmp_path / "mcap.toml").unlink()
    monkeypatch.setenv("MCAP_FACES__MAX_COVERED", "0.4")
    with pytest.warns(RenamedKeyWarning, match="max_covered is called max_occluded now"):
        assert load_settings().faces.max_occluded == 0.4
