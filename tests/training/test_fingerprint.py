"""Fingerprints name what changed."""

from __future__ import annotations

from mcap.training.fingerprint import differing, hash_files


def test_differing_names_what_changed():
    before = {"photos": {"a": "1", "b": "2"}, "seed": 0}
    assert differing(before, before) == []
    after = {"photos": {"a": "1", "b": "3", "c": "4"}, "seed": 1}
    assert differing(before, after) == ["photos (b, c)", "seed"]


def test_files_of_one_name_are_told_apart_and_unreadable_ones_are_said_to_be(tmp_path):
    paths = [tmp_path / "a" / "1.png", tmp_path / "b" / "1.png", tmp_path / "gone.png"]
    for path in paths[:2]:
        path.parent.mkdir()
        path.write_bytes(path.parent.name.encode())
    found = hash_files(paths)
    assert list(found) == ["1.png", "1.png (2)", "gone.png"]
    assert len({*found.values()}) == 3
    assert found["gone.png"].startswith("cannot be read")
