"""Rank by similarity, the best of each style, and the verdict on a similarity."""

from __future__ import annotations

from pathlib import Path

from mcap.generation.ranking import Picture, rank_pictures, verdict, who_judged
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


def judged(similarity, like=None, rank=1):
    record = {"similarity": similarity, "profile": "a"}
    if like is not None:
        record["judge"] = {"network": "dlib", "similarity": 0.1, "threshold": 0.2, "like": like,
                           "strangers": 300}  # fmt: skip
    return Picture(Path("a.png"), record, new=True, rank=rank)


def test_verdicts():
    """The network that taught says no more than which is the closest."""
    assert verdict(judged(None)) == ("no face found", BAD)
    assert verdict(judged(0.9)) == ("closest of these", NEUTRAL)
    assert verdict(judged(0.9, rank=2)) == ("", NEUTRAL)
    assert verdict(judged(0.9, True)) == ("like the person", GOOD)
    assert verdict(judged(0.9, False)) == ("not like the person", WARNING)
    assert "flatters" in who_judged([judged(0.9)])
    said = who_judged([judged(None), judged(0.9, True)])
    assert "dlib" in said and "0.200" in said and "1 in 100 of 300 strangers" in said


def test_a_judge_ranks_where_it_has_judged_all():
    first = judged(0.3, True)
    first.record["judge"] = first.record["judge"] | {"similarity": 0.8}
    second = judged(0.9, True)
    assert rank_pictures([second, first], None)[0].similarity == 0.3
    assert rank_pictures([judged(0.5), first], None)[0].similarity == 0.5  # no scales are mixed
