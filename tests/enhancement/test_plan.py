"""Plans of pictures: sizes, names, what is refused before any work."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mcap.enhancement import (
    Enhancement,
    EnhanceSettings,
    Stage,
    TilesDone,
    enhance,
)
from mcap.enhancement.plan import SizePlan, TileBudget, dry_run, result_size
from mcap.images.open import PhotoSettings
from tests.support.restoring import (
    FACE,
    FINDS,
    SIZE,
    Restore,
    noise,
    pixels,
    run,
    stage,
    tools,
)


@pytest.mark.parametrize(("scale", "size"), [(None, (480, 360)), (2, (240, 180)), (6, (720, 540))])
def test_a_scale_of_one_s_own(photo, tmp_path, scale, size):
    done = run([photo()], [stage(scale=4)], tmp_path, settings={"scale": scale}).pictures[0]
    assert done.record["size"] == list(size)
    assert pixels(done.path).shape[1::-1] == size
    assert result_size(SIZE, [4], scale) == size


def test_inputs_of_one_name_stay_apart(photo, tmp_path):
    paths = [photo("a.png"), photo("A.jpg", image=noise(90, 120, seed=3))]
    done = run(paths, [stage()], tmp_path / "out").pictures
    assert len({picture.path.name.casefold() for picture in done}) == 2
    assert all(picture.path.name.casefold().startswith("a-") for picture in done)
    assert not any(picture.new for picture in run(paths, [stage()], tmp_path / "out").pictures)


def test_a_result_that_would_be_too_large_is_refused_before_the_work(photo, tmp_path):
    restorer = Restore("image", 4)
    settings = {"max_megapixels": 0.1}
    finished = run([photo()], [Stage("r", restorer)], tmp_path / "out", settings=settings)
    assert "480 x 360" in finished.refused[0].reason
    assert restorer.calls == []


def test_a_dry_run_tells_sizes_from_the_files_heads(photo, tmp_path):
    path, missing = photo(), tmp_path / "nosuch.png"
    plan = dry_run([path, missing], [2, 2], EnhanceSettings(), PhotoSettings())
    assert plan.pictures == [SizePlan(path, SIZE, (480, 360))]
    assert [item.source for item in plan.refused] == [missing]
    assert str(missing) not in plan.refused[0].reason


def test_a_dry_run_knows_no_size_where_a_restorer_s_scale_is_in_its_file(photo):
    def result(**options):
        settings = EnhanceSettings(**options)
        return dry_run([photo()], [2, None], settings, PhotoSettings()).pictures[0].result

    assert result() is None
    assert result(scale=3) == (360, 270)


def test_what_is_planned_is_what_is_made(photo, tmp_path):
    stages = [stage(scale=2), stage(kind="face")]
    how = Enhancement(stages, tools(FINDS), EnhanceSettings(tile=64))
    (job,) = how.jobs([photo()])
    assert (job.stem, job.size) == ("a", (240, 180))
    assert job.tiles == 2 * 2 + 1
    assert run([photo()], stages, tmp_path).pictures[0].record["size"] == list(job.size)


def test_the_tiles_of_a_budget_add_up_whatever_is_spent():
    budget = TileBudget(5)
    spent = [event for tiles in (2, 0, -1, 9, 3) for event in budget.spend(tiles)]
    assert spent == [TilesDone(2), TilesDone(3)]
    assert budget.left == 0


def test_a_class_that_moves_makes_no_picture_again(photo, tmp_path):
    """Tools are known by the names under which they are registered."""
    named = replace(tools(FINDS), names=("yunet", "landmarks", None))
    moved = type("Elsewhere", (type(FINDS),), {"__module__": "another.place"})(SIZE, FACE)
    (job,) = Enhancement([stage()], named).jobs([photo()])
    (again,) = Enhancement([stage()], replace(named, detector=moved)).jobs([photo()])
    assert again.settings_sha256 == job.settings_sha256
    other = replace(named, names=("blazeface", "landmarks", None))
    (differs,) = Enhancement([stage()], other).jobs([photo()])
    assert differs.settings_sha256 != job.settings_sha256


def test_pictures_of_when_tools_were_known_by_their_classes_are_still_there(photo, tmp_path):
    def enhanced(looking):
        *_, finished = enhance([photo()], tmp_path / "out", Enhancement([stage()], looking))
        return finished.pictures[0]

    first = enhanced(tools(FINDS))
    assert first.new
    named = replace(tools(FINDS), names=("yunet", "landmarks", None))
    second = enhanced(named)
    assert not second.new and second.path == first.path
