"""Rank by similarity, the best of each style, and the verdict on a similarity."""

from __future__ import annotations

from pathlib import Path

from mcap.generation.ranking import Picture, rank_pictures, verdict
from mcap.results.contact_sheet import BAD, GOOD, NEUTRAL, WARNING


def test_the_best_of_each_style_are_kept():
    pictures = [
        Picture(Path(f"{style}-{number}.png"), {"similarity": value, "profile": style}, new=True)
        for number, (style, value) in enumerate(
            [("one", 0.2), ("two", 0.1), ("one", 0.9), ("two", None), ("one", None)]
        )
    ]
    ordered = rank_pictures(pictures, best=1)
    assert [picture.rank for picture in ordered] == [1, 2, 3, 4, 5]
    assert [picture.similarity for picture in ordered] == [0.9, 0.2, 0.1, None, None]
    assert [picture.kept for picture in ordered] == [True, False, True, False, False]
    assert all(picture.kept for picture in rank_pictures(pictures, best=None))


def test_verdicts():
    assert verdict(None, 0.4) == ("no face found", BAD)
    assert verdict(0.5, None) == ("", NEUTRAL)
    assert verdict(0.4, 0.4) == ("like the person", GOOD)
    assert verdict(0.3, 0.4) == ("not very like", WARNING)
