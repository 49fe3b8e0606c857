"""JPEG quality by the bytes that a file may have."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcap.errors import InputRejectedError
from mcap.images.byte_limits import LOWEST_QUALITY, ByteLimits, quality_within


def linear(per_step: int, start: int = 0):
    return lambda quality: start + per_step * quality


def test_what_fits_stays_as_it_was_asked_for():
    assert quality_within(ByteLimits(), 95, linear(10)) == 95
    assert quality_within(ByteLimits(900, 1000), 95, linear(10)) == 95


def test_the_highest_quality_below_the_limit_is_taken():
    assert quality_within(ByteLimits(largest=705), 95, linear(10)) == 70
    assert quality_within(ByteLimits(largest=300), 95, linear(10)) == LOWEST_QUALITY


def test_too_few_bytes_raise_the_quality_no_more_than_needed():
    assert quality_within(ByteLimits(smallest=985), 95, linear(10)) == 99
    assert quality_within(ByteLimits(smallest=1000), 95, linear(10)) == 100


@pytest.mark.parametrize(
    ("limits", "size_at", "told"),
    [
        (ByteLimits(largest=299), linear(10), "no JPEG of 299 bytes"),
        (ByteLimits(largest=299), linear(10), "--metadata label"),
        (ByteLimits(smallest=1001), linear(10), "no JPEG of 1,001 bytes or more"),
        (ByteLimits(505, 509), linear(10), "or more"),
        (ByteLimits(955, 958), linear(10), "over both limits"),
    ],
)
def test_limits_that_cannot_be_met_are_told(limits, size_at, told):
    with pytest.raises(InputRejectedError, match=told):
        quality_within(limits, 95, size_at)


@given(
    sizes=st.lists(st.integers(1, 10_000), min_size=100, max_size=100).map(sorted),
    limits=st.tuples(st.integers(0, 10_000), st.integers(1, 10_000)).map(sorted),
    wanted=st.integers(LOWEST_QUALITY, 100),
)
def test_the_limits_are_kept_or_the_picture_is_refused(sizes, limits, wanted):
    looked_at = []

    def size_at(quality):
        looked_at.append(quality)
        return sizes[quality - 1]

    try:
        quality = quality_within(ByteLimits(*limits), wanted, size_at)
    except InputRejectedError:
        # Nothing that may be chosen would do: no less than LOWEST_QUALITY, and no less than what
        # is wanted where that has too few bytes.
        allowed = (
            range(LOWEST_QUALITY, 101)
            if size_at(wanted) < limits[0]
            else range(LOWEST_QUALITY, wanted + 1)
        )
        assert not any(limits[0] <= sizes[q - 1] <= limits[1] for q in allowed)
    else:
        assert limits[0] <= sizes[quality - 1] <= limits[1]
    assert len(set(looked_at)) <= 10
