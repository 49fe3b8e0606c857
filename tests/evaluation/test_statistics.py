"""Intervals: against theory, against a plain loop, and what must hold of any."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcap.evaluation.statistics import differences, estimate


def test_the_mean_is_that_of_the_people_s_means():
    found = estimate({"a": [1.0, 1.0, 1.0, 1.0], "b": [3.0]})
    assert (found.mean, found.people, found.values) == (2.0, 2, 5)


def test_over_pictures_is_the_standard_error_that_theory_gives():
    values = np.random.default_rng(0).normal(0.5, 0.1, 400)
    low, high = estimate({"a": list(values)}).over_pictures
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.002)
    assert estimate({"a": list(values)}).over_people is None


def test_over_people_is_what_a_plain_loop_over_people_and_pictures_gives():
    random = np.random.default_rng(1)
    groups = {f"p{i}": random.normal(i / 10, 0.3, 4 + i).tolist() for i in range(6)}
    again, means = np.random.default_rng(2), []
    everyone = [np.array(group) for group in groups.values()]
    for _ in range(4000):
        chosen = again.integers(6, size=6)
        drawn = [
            everyone[i][again.integers(len(everyone[i]), size=len(everyone[i]))] for i in chosen
        ]
        means.append(np.mean([group.mean() for group in drawn]))
    assert estimate(groups).over_people == pytest.approx(
        np.percentile(means, [2.5, 97.5]), abs=0.02
    )


def test_people_who_differ_widen_the_interval_over_people_alone():
    groups = {f"p{i}": [i - 0.01, i + 0.01] for i in range(5)}
    found = estimate(groups)
    width = [high - low for low, high in (found.over_pictures, found.over_people)]
    assert width[0] < 0.02 < 1.0 < width[1]
    assert found.interval == found.over_people


@settings(max_examples=15, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from("abcd"), st.lists(st.floats(-1, 1), min_size=1, max_size=5), min_size=1
    )
)
def test_any_values_have_their_mean_inside_and_the_same_intervals_again(groups):
    found = estimate(groups)
    assert found == estimate(dict(reversed(groups.items())))
    inside = [value for group in groups.values() for value in group]
    for interval in (found.over_pictures, found.over_people):
        if interval is not None:
            assert min(inside) - 1e-9 <= interval[0] <= interval[1] <= max(inside) + 1e-9
    if found.interval is not None:
        assert found.interval[0] - 0.2 <= found.mean <= found.interval[1] + 0.2


def test_a_difference_is_taken_on_the_same_subjects_and_seeds_alone():
    base = {("a", "s", "0"): 0.1, ("a", "s", "1"): 0.5, ("b", "s", "0"): 0.3}
    ours = {("a", "s", "0"): 0.2, ("b", "s", "0"): 0.4, ("c", "s", "0"): 9.0}
    found = differences(ours, base)
    assert (found.mean, found.values) == (pytest.approx(0.1), 2)
    assert differences(ours, {}) is None


def test_an_interval_that_holds_nought_is_no_difference():
    people = [f"p{i}" for i in range(8)]
    base = {(name, str(seed)): 0.0 for name in people for seed in range(4)}
    random = np.random.default_rng(3)
    noise = {key: random.normal(0, 0.1) for key in base}
    assert differences(noise, base).verdict == "none"
    assert differences({key: 0.2 + value for key, value in noise.items()}, base).verdict == "higher"
    assert differences({key: value - 0.2 for key, value in noise.items()}, base).verdict == "lower"
    assert differences({("p0", "0"): 0.3}, base).verdict == "unknown"
    same = dict.fromkeys(base, 0.0)
    assert differences(same, base).verdict == "none"
