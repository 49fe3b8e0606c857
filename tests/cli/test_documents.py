"""``--document``: what is refused before anything is loaded, and a photograph from end to end."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from PIL import Image

from mcap.cli import run
from mcap.images import provenance
from mcap.style.id_documents import rules
from tests.support.photographs import astronaut, no_face


@pytest.fixture
def mcap(capsys):
    """``mcap(*arguments)`` -> (exit code, the JSON result or None, what stderr says)."""

    def call(*arguments: object) -> tuple[int, dict | None, str]:
        capsys.readouterr()
        code = run([*map(str, arguments), "--json"])
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err + printed.out
        return code, json.loads(printed.out) if printed.out.strip() else None, printed.err

    return call


@pytest.fixture
def photo(tmp_path):
    """A photograph large enough for documents: the astronaut, four times as wide and high."""
    path = tmp_path / "in" / "woman.jpg"
    path.parent.mkdir()
    large = cv2.resize(astronaut(), None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
    Image.fromarray(large).save(path, quality=90)
    return path


def test_the_table_lists_every_document_with_its_sources(mcap):
    code, result, _ = mcap("profiles", "documents")
    assert code == 0
    names = [item["name"] for item in result["documents"]]
    assert names == list(rules().documents) and len(names) >= 40
    assert set(result["sources"]) == set(rules().sources)
    code, result, _ = mcap("profiles", "documents", "us-visa")
    (rule,) = result["documents"]
    assert (rule["made"], rule["largest_bytes"]) == ([900, 900], 240_000)
    assert set(result["sources"]) == set(rule["sources"])
    assert result["sources"]["state-visa"]["read"] == "2026-11-29"


@pytest.mark.parametrize("columns", ["40", "80", "160"])
def test_the_table_is_whole_at_any_width(capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    assert run(["profiles", "documents"]) == 0
    shown = capsys.readouterr().out
    for name in rules().documents:
        assert name in shown
    assert run(["profiles", "documents", "de-id"]) == 0
    assert "1 May 2025" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--document", "us-pasport"], "Did you mean 'us-passport'"),
        (["--document", "de-id", "--profile", "passport"], "contradicts --profile passport"),
        (["--document", "us-visa", "--format", "png"], "takes jpg files alone"),
        (["--document", "us-visa", "--print-sheet"], "is uploaded"),
        (["--print-sheet"], "goes with --profile or --document"),
    ],
)
def test_what_cannot_be_is_a_usage_error(mcap, photo, tmp_path, arguments, told):
    code, _, err = mcap("enhance", photo, *arguments, "--out", tmp_path / "out")
    assert code == 2 and told in " ".join(err.split())
    assert not list((tmp_path / "out").glob("*.jpg"))


def test_a_check_of_an_unknown_document_or_with_a_backbone_is_a_usage_error(mcap, photo):
    code, _, err = mcap("profiles", "check", "--document", "de-idd", photo)
    assert code == 2 and "Did you mean 'de-id'" in " ".join(err.split())
    code, _, err = mcap("profiles", "check", "--document", "de-id", "--backbone", "demo", photo)
    assert code == 2 and "--backbone" in err


def test_a_photograph_becomes_a_document_and_is_checked(mcap, photo, tmp_path, weights):
    weights("yunet"), weights("sface")
    out = tmp_path / "out"
    arguments = ["enhance", photo, "--restorer", "none", "--out", out]
    code, result, err = mcap(*arguments, "--document", "us-visa")
    assert "must not be digitally enhanced" in " ".join(err.split())
    (picture,) = result["pictures"]
    written = provenance.read(picture["file"])
    assert (written.format, written.width, written.height) == ("JPEG", 900, 900)
    assert written.record["document"] == "us-visa" and written.record["profile"] is None
    assert written.digital_source_type == provenance.ALGORITHMICALLY_ENHANCED
    assert (code, picture["unmet"]) == (0, [])
    code, checked, _ = mcap("profiles", "check", "--document", "us-visa", picture["file"])
    (found,) = checked["pictures"]
    points = {point["name"]: point["kept"] for point in found["points"]}
    # mcap altered it, says so, and the rule refuses it; all else is kept.
    assert [name for name, kept in points.items() if kept is False] == [
        "made or altered by software"
    ]
    assert points["bytes"] and points["background"] and code == 3 and not found["kept"]
    # Once more, and nothing is done; for another document it is made anew.
    assert not mcap(*arguments, "--document", "us-visa")[1]["pictures"][0]["new"]
    code, result, _ = mcap(*arguments, "--document", "tr-passport", "--print-sheet")
    (picture,) = result["pictures"]
    assert picture["new"] and Image.open(picture["file"]).size == (591, 709)
    assert sorted(Image.open(picture["sheet"]).size) == [1181, 1772]


def test_no_face_and_no_picture_are_told(mcap, tmp_path, weights):
    weights("yunet"), weights("sface")
    path, text = tmp_path / "coffee.png", tmp_path / "a.jpg"
    Image.fromarray(no_face()).save(path)
    text.write_bytes(b"no picture")
    code, result, _ = mcap(
        "enhance", path, text, "--document", "de-id", "--restorer", "none", "--out", tmp_path / "o"
    )
    (picture,) = result["pictures"]
    assert code == 3 and any("No face" in told for told in picture["unmet"])
    code, result, _ = mcap("profiles", "check", "--document", "de-id", picture["file"], text)
    assert code == 3
    checked, refused = result["pictures"]
    assert {"name": "faces", "asked": "1", "found": "0", "kept": False} in checked["points"]
    assert "refused" in refused and np.isscalar(refused["refused"])
