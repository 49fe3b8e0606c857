"""A run over pictures: its events, what is refused, what it leaves behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from mcap.enhancement import (
    Enhanced,
    Enhancement,
    EnhanceSettings,
    TilesDone,
    enhance,
)
from mcap.errors import UsageError
from mcap.images import provenance
from tests.support.restoring import (
    FINDS,
    noise,
    run,
    stage,
    tools,
)


def test_what_is_no_picture_is_refused_and_the_others_are_made(photo, tmp_path):
    bad = tmp_path / "in" / "list.jpg"
    good = photo()
    bad.write_text("eggs")
    finished = run([bad, tmp_path / "nosuch.png", good], [stage()], tmp_path / "out")
    assert [item.source for item in finished.refused] == [bad, tmp_path / "nosuch.png"]
    assert len(finished.pictures) == 1
    lines = [json.loads(line) for line in finished.results.read_text().splitlines()]
    assert [line["file"] for line in lines] == ["a.png", None, None]
    assert "not a picture" in lines[1]["refused"]
    assert "list.jpg" in finished.report.read_text()


def test_another_command_s_results_are_not_lost(photo, tmp_path):
    out = tmp_path / "portraits"
    out.mkdir()
    (out / "results.jsonl").write_text('{"file": "a.png", "kind": "generate"}\n')
    with pytest.raises(UsageError, match="results of mcap generate"):
        run([photo()], [stage()], out)


def test_results_hold_the_numbers_and_no_path(photo, tmp_path):
    finished = run([photo()], [stage(scale=2)], tmp_path / "out")
    text = finished.results.read_text()
    entry = json.loads(text)
    assert entry["input_file"] == "a.png"
    assert entry["faces"][0]["similarity_before"] == 1
    assert entry["faces"][0]["similarity_after"] > 0.9
    assert str(tmp_path) not in text
    assert str(tmp_path) not in json.dumps(provenance.read(finished.pictures[0].path).record)
    for path in (finished.contact_sheet, finished.report, finished.pictures[0].previews.before):
        assert path.stat().st_size > 0
    for name in ("previews/a-before.jpg", "previews/a-face-after.jpg", 'href="a.png"'):
        assert name in finished.report.read_text()


def test_progress_adds_up_to_the_plan(photo, tmp_path):
    stages = [stage(scale=2), stage(kind="face"), stage(scale=2)]
    plan, *events = enhance(
        [photo(), photo("b.png", image=noise(90, 120, seed=2))],
        tmp_path / "out",
        Enhancement(stages, tools(FINDS), EnhanceSettings(tile=64)),
    )
    heard = [event.tiles for event in events if isinstance(event, TilesDone)]
    assert min(heard) >= 1
    assert sum(heard) == plan.tiles
    assert plan.to_do == 2


def test_the_function_is_the_package_s_own_whatever_was_imported():
    """A submodule called as the function would take its place."""
    code = (
        "import sys, mcap.enhancement as package\n"
        "assert not {'torch', 'cv2', 'numpy'} & set(sys.modules)\n"
        "package.EnhanceSettings\n"
        "assert not {'torch', 'cv2', 'numpy'} & set(sys.modules)\n"
        "import mcap.enhancement.run, mcap.enhancement.picture\n"
        "assert package.enhance is mcap.enhancement.run.enhance\n"
        "assert all(getattr(package, name) is not None for name in package.__all__)\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_a_run_that_is_stopped_leaves_whole_files(photo, tmp_path):
    paths = [photo("a.png"), photo("b.png", image=noise(90, 120, seed=1))]
    events = enhance(paths, tmp_path / "out", Enhancement([stage()], tools(FINDS)))
    while not isinstance(next(events), Enhanced):
        pass
    events.close()
    assert [path.name for path in (tmp_path / "out").glob("*.png")] == ["a.png"]
    assert len((tmp_path / "out" / "results.jsonl").read_text().splitlines()) == 1
    assert [done.new for done in run(paths, [stage()], tmp_path / "out").pictures] == [False, True]


def test_the_example_of_the_docs_runs(weights, monkeypatch, tmp_path, capsys):
    weights("yunet"), weights("sface")
    docs = Path(__file__).parents[2] / "docs" / "enhance.md"
    code = docs.read_text(encoding="utf-8").split("```python")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    Image.fromarray(noise(40, 50)).save("portrait.png")
    exec(compile(code, str(docs), "exec"), {})
    told = capsys.readouterr().out
    assert "enhanced/portrait.png []" in told.replace("\\", "/")
    assert told.startswith(".")
