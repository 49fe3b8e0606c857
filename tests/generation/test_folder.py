"""The output folder: the best in it, others in rest/, pictures known again."""

from __future__ import annotations

import json

import pytest

from mcap.generation.folder import listed_record
from mcap.images import provenance
from tests.support.generating import run


def test_best_keeps_the_best_and_loses_nothing(subject, backbone, tmp_path):
    *_, finished = run(subject, backbone, tmp_path, count=4, best=1)
    assert [picture.kept for picture in finished.pictures] == [True, False, False, False]
    assert len(list(tmp_path.glob("*.png"))) == 1
    assert len(list((tmp_path / "rest").glob("*.png"))) == 3
    *_, more = run(subject, backbone, tmp_path, count=4, best=3)
    assert not any(picture.new for picture in more.pictures)
    assert len(list(tmp_path.glob("*.png"))) == 3
    assert 'src="rest/' in finished.report.read_text() or "rest/" in more.report.read_text()


@pytest.mark.parametrize("metadata", ["label", "none"])
def test_pictures_without_a_record_are_known_by_results_jsonl(
    subject, backbone, tmp_path, metadata
):
    run(subject, backbone, tmp_path, count=2, metadata=metadata)
    again = run(subject, backbone, tmp_path, count=2, metadata=metadata)
    assert again[0].to_generate == 0
    (tmp_path / "test-000000.png").write_bytes((tmp_path / "test-000001.png").read_bytes())
    assert run(subject, backbone, tmp_path, count=2, metadata=metadata)[0].to_generate == 1


def test_results_keep_the_lines_of_pictures_without_a_record(subject, backbone, tmp_path):
    """Nothing else knows them: without their line they would be drawn again and never edited."""

    def listed(**settings) -> list[str]:
        *_, finished = run(subject, backbone, tmp_path, count=1, **settings)
        return [json.loads(line)["file"] for line in finished.results.read_text().splitlines()]

    first, second, third = (f"test-{seed:06d}.png" for seed in (0, 5, 7))
    assert listed(metadata="none") == [first]
    assert listed(metadata="label", seed=5) == [second, first]
    assert listed(seed=7) == [third, second, first]
    assert listed(metadata="label", seed=5) == [second, first]  # the third knows itself
    assert run(subject, backbone, tmp_path, count=1, metadata="none")[0].to_generate == 0
    record = listed_record(tmp_path / second)
    assert (record["seed"], record["kind"]) == (5, "generate")
    (tmp_path / second).unlink()
    assert listed(seed=7) == [third, first]
    assert listed(metadata="none", seed=0, best=1) == [first]


def test_other_settings_never_overwrite(subject, backbone, tmp_path):
    run(subject, backbone, tmp_path, count=1)
    first = (tmp_path / "test-000000.png").read_bytes()
    run(subject, backbone, tmp_path, count=1, steps=3)
    assert (tmp_path / "test-000000.png").read_bytes() == first
    record = provenance.read(tmp_path / "test-000000-2.png").record
    assert record["steps"] == 3
    assert run(subject, backbone, tmp_path, count=1, steps=3)[0].to_generate == 0
