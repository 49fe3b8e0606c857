"""The folder of enhanced pictures: what is there is used again, nothing is overwritten."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from mcap.enhancement import Enhanced, Enhancement, Stage, enhance
from mcap.images import provenance
from tests.support.restoring import FINDS, Restore, noise, run, stage, tools


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


def lines(finished) -> list[dict]:
    return [json.loads(line) for line in finished.results.read_text().splitlines()]


def test_a_second_run_keeps_the_first_in_list_report_and_sheet(photo, tmp_path):
    out, bad = tmp_path / "out", tmp_path / "in" / "list.jpg"
    first = photo("one.png")
    bad.write_text("eggs")
    alone = run([first, bad], [stage()], out)
    before, height = lines(alone), Image.open(alone.contact_sheet).height
    other = photo("two.png", image=noise(90, 120, seed=7))
    second = run([other], [stage()], out)
    assert [picture.source for picture in second.pictures] == [other], "events are of this run"
    assert [line["file"] for line in lines(second)] == ["two.png", "one.png", None]
    assert lines(second)[1:] == before, "to the letter"
    page = second.report.read_text()
    assert all(name in page for name in ('href="two.png"', 'href="one.png"', "list.jpg"))
    assert "2 pictures, 1 refused" in page
    assert Image.open(second.contact_sheet).height > 1.7 * height
    again = run([other], [stage()], out)
    assert lines(again) == lines(second)
    bad.unlink()
    photo("list.jpg")  # it is a picture now
    assert [line["file"] for line in lines(run([bad], [stage()], out))] == [
        "list.png",
        "two.png",
        "one.png",
    ]


def test_a_run_that_is_stopped_keeps_the_first_as_well(photo, tmp_path):
    out = tmp_path / "out"
    run([photo("one.png")], [stage()], out)
    paths = [photo(f"{n}.png", image=noise(90, 120, seed=n)) for n in (2, 3)]
    events = enhance(paths, out, Enhancement([stage()], tools(FINDS)))
    for event in events:
        if isinstance(event, Enhanced):
            events.close()
    files = [json.loads(line)["file"] for line in (out / "results.jsonl").read_text().splitlines()]
    assert files == ["2.png", "one.png"]


def test_what_was_changed_or_removed_since_is_left_out(photo, tmp_path):
    out = tmp_path / "out"
    paths = [photo(f"{n}.png", image=noise(90, 120, seed=n)) for n in (1, 2, 3)]
    run(paths, [stage()], out)
    (out / "1.png").unlink()
    (out / "2.png").write_bytes((out / "2.png").read_bytes() + b"edited")
    other = photo("four.png", image=noise(90, 120, seed=4))
    files = [line["file"] for line in lines(run([other], [stage()], out))]
    assert files == ["four.png", "3.png"]


@pytest.mark.parametrize(
    "change",
    [
        {"faces": "none"},
        {"faces": [{}]},
        {"faces": [{"box": ["a"] * 4}]},
        {"size": [1]},
        {"size": "large"},
        {"notes": None},
        {"notes": [[]]},
        {"restorers": [1]},
        {"subject": {"in_picture": True, "same_person": 0.3}},  # and no face was compared
        {"input": {}},
        {"input_file": 7},
        {"file": "../one.png"},
        {"sha256": 5},
        {"settings_sha256": []},
    ],
    ids=str,
)
def test_lines_of_a_wrong_shape_are_set_aside(photo, tmp_path, change):
    """Whoever changed results.jsonl gets a report of the rest and no traceback."""
    out = tmp_path / "out"
    first = run([photo("one.png")], [stage()], out)
    first.results.write_text(json.dumps(lines(first)[0] | change) + "\n")
    other = photo("two.png", image=noise(90, 120, seed=7))
    second = run([other], [stage()], out)
    assert [entry["file"] for entry in lines(second)] == ["two.png"]
    assert (out / "one.png").is_file()
