"""Successive halving: what is tried, how often, and who goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcap.errors import UsageError
from mcap.evaluation.entrants import Entrant, Result
from mcap.evaluation.measures import Measured
from mcap.evaluation.search import Rung, better_half, candidates, rungs, score


def test_every_combination_after_the_recipe_as_it_is():
    assert candidates(["a=1,2", "b=x"]) == [(), ("a=1", "b=x"), ("a=2", "b=x")]


@pytest.mark.parametrize(
    "texts", [["a"], ["a="], ["=1"], ["a=1", "a=2"], ["a=" + ",".join("x" * 70)]]
)
def test_what_is_no_search_is_refused_by_name(texts):
    with pytest.raises(UsageError, match="--search"):
        candidates(texts)


def test_halves_with_twice_the_people_each_time():
    assert rungs(8, 5) == [Rung(8, 1), Rung(4, 2), Rung(2, 4)]
    assert rungs(5, 2) == [Rung(5, 1), Rung(3, 2), Rung(2, 2)]
    assert rungs(1, 4) == []


@given(st.integers(2, 64), st.integers(1, 50))
def test_one_is_left_after_the_last_rung(count, cells):
    found = rungs(count, cells)
    left = [(str(number),) for number in range(count)]
    for rung in found:
        assert rung.candidates == len(left) and 1 <= rung.cells <= cells
        left = better_half({one: float(one[0]) for one in left})
    assert left == [(str(count - 1),)]


def test_of_equals_the_recipe_as_it_is_stays():
    assert better_half({(): 0.5, ("a=1",): 0.5}) == [()]


def test_a_picture_without_a_face_counts_nought():
    entrant = Entrant("r", "p", "s", 0, Path())
    values = {"likeness": [0.4, None], "style": [0.8, 0.8], "look": [9.0, 9.0]}
    assert score([Result(entrant, measured=Measured(values))]) == pytest.approx(0.5)
    assert score([Result(entrant)]) < score([Result(entrant, measured=Measured({"style": [0.0]}))])
