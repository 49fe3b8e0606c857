"""The folder of enhanced pictures: what is there is used again, nothing is overwritten."""

from __future__ import annotations

import json

import pytest

from mcap.enhancement import (
    Stage,
)
from mcap.images import provenance
from tests.support.restoring import (
    Restore,
    noise,
    run,
    stage,
)


def test_repeating_does_nothing_and_other_settings_take_another_name(photo, tmp_path):
    path, out = photo(), tmp_path / "out"
    restorer = Restore("image", 2)
    first = run([path], [Stage("r", restorer)], out).pictures[0]
    calls, stamp = len(restorer.calls), first.path.stat().st_mtime_ns
    second = run([path], [Stage("r", restorer)], out).pictures[0]
    assert (second.new, second.path, second.record) == (False, first.path, first.record)
    assert len(restorer.calls) == calls
    assert first.path.stat().st_mtime_ns == stamp
    third = run([path], [Stage("r", restorer)], out, settings={"scale": 3}).pictures[0]
    assert third.path.name == "a-2.png"
    assert first.path.stat().st_mtime_ns == stamp
    # The input was drawn anew: made again, under a name of its own.
    photo(image=noise(90, 120, seed=5))
    fourth = run([path], [Stage("r", restorer)], out).pictures[0]
    assert fourth.path.name == "a-3.png"


@pytest.mark.parametrize("metadata", ["label", "none"])
def test_pictures_without_a_record_are_known_by_results_jsonl(photo, tmp_path, metadata):
    path, out = photo(), tmp_path / "out"
    settings = {"metadata": metadata, "format": "jpg"}
    first = run([path], [stage()], out, settings=settings).pictures[0]
    assert provenance.read(first.path).record is None
    assert not run([path], [stage()], out, settings=settings).pictures[0].new
    first.path.write_bytes(first.path.read_bytes() + b"edited")
    assert run([path], [stage()], out, settings=settings).pictures[0].new


def test_results_keep_the_lines_of_pictures_without_a_record(photo, tmp_path):
    """Also of two inputs that are one picture, which no record tells apart."""
    paths, out = [photo("a.png"), photo("b.png")], tmp_path / "out"
    settings = {"metadata": "none"}
    for path in paths:
        run([path], [stage()], out, settings=settings)
    other = photo("c.png", image=noise(90, 120, seed=7))
    results = run([other], [stage()], out).results
    files = [json.loads(line)["file"] for line in results.read_text().splitlines()]
    assert files == ["c.png", "b.png", "a.png"]
    done = [run([path], [stage()], out, settings=settings).pictures[0] for path in paths]
    assert [(picture.path.name, picture.new) for picture in done] == [
        ("a.png", False),
        ("b.png", False),
    ]


def test_inputs_are_never_changed_or_overwritten(photo, tmp_path):
    path = photo()
    before = path.read_bytes()
    done = run([path], [stage(scale=2)], path.parent).pictures[0]
    assert done.path == path.parent / "a-2.png"
    assert path.read_bytes() == before
    sheet = photo("contact-sheet.png")
    settings = {"format": "jpg"}
    done = run([sheet], [stage()], tmp_path / "jpg", settings=settings).pictures[0]
    assert done.path.name == "contact-sheet-2.jpg"
