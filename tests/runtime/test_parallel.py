"""Several threads give what one gives: every result at its place, errors too."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest

from mcap.contracts import DetectorInfo
from mcap.runtime.parallel import cores, ordered_map, threads_for


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_come_in_the_items_order(threads):
    def slow_first(number: int) -> int:
        time.sleep(0.02 if number % 3 == 0 else 0.0)
        return number * number

    assert list(ordered_map(slow_first, range(20), threads)) == [n * n for n in range(20)]


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_comes_at_its_place_and_stops_the_rest(threads):
    begun = []

    def fails_at_five(number: int) -> int:
        begun.append(number)
        if number == 5:
            raise ValueError("five")
        return number

    found = []
    with pytest.raises(ValueError, match="five"):
        for result in ordered_map(fails_at_five, range(1000), threads):
            found.append(result)
    assert found == [0, 1, 2, 3, 4] and len(begun) < 20


def test_results_do_not_pile_up():
    begun = []
    results = ordered_map(lambda number: begun.append(number), range(1000), 2)
    next(results)
    time.sleep(0.05)
    assert len(begun) <= 4
    results.close()


def test_only_what_says_so_is_used_by_several_threads():
    safe = SimpleNamespace(info=DetectorInfo(thread_safe=True))
    assert threads_for(safe, safe) == cores() >= 1
    assert threads_for(safe, SimpleNamespace(info=DetectorInfo())) == 1


def test_the_work_is_done_by_so_many_threads():
    barrier = threading.Barrier(3, timeout=10)
    list(ordered_map(lambda _: barrier.wait(), range(3), 3))
